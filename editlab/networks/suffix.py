"""Run only what a changed position changes: the tokens from it on, through the blocks above it, packed together.

When the output of one block changes at one position of each prompt (row), a causal model changes there and at later
positions alone, and only in the blocks above. :class:`Suffixes` holds everything else ready and computes a step as
little as the algebra allows, without leaving the model's own modules:

- The tokens of all rows lie packed, ``(1, T, d)``: norms, projections and MLPs meet no padding.
- In the first of these blocks later positions still have their clean inputs, so their queries, keys and values are
  constants, and so is their attention to everything but the changed position. With ``a`` that attention's output and
  ``l`` its log-sum-exp, the full one is ``a + sigmoid(q k - l) (v - a)``: a softmax to which one key was added.
- Of the last block all tokens give keys and values, but only the tokens that are read go through the rest of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.networks.architectures import Architecture
from editlab.networks.hooks import StopForward, capture, run
from editlab.networks.tokenization import pad

_CALL_COST = 200  # one pass through the blocks costs about as much as this many more tokens (measured, small model)


@dataclasses.dataclass(frozen=True)
class Suffixes:
    """R rows, T packed tokens: first the changed token of every row, then the later tokens, row after row.

    Attributes:
        first: the lowest block that is run.
        hidden: ``(T, d)`` clean inputs of that block.
        positions, row, offset: ``(T,)`` place in the prompt, row, and distance from the row's changed token.
        prefix: ``(R,)`` number of tokens before the changed one.
        keys, values: by layer ``(key heads, R, longest prefix, size)``; heads come first in all that is multiplied.
        fixed: the constants of the later tokens in the first block (None: there is no block to run).
        needed: ``(E,)`` the tokens whose outputs :meth:`run` returns.
    """

    architecture: Architecture
    first: int
    hidden: Tensor
    positions: Tensor
    row: Tensor
    offset: Tensor
    prefix: Tensor
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    fixed: _Fixed | None
    needed: Tensor

    def run(self, change: Tensor) -> Tensor:
        """Outputs ``(E, d)`` of the last block at the needed tokens when ``change (R, d)`` is added to the input of
        block ``first`` at the changed tokens. Inside :meth:`Architecture.handing_over` alone."""
        rows, last = len(self.prefix), self.architecture.num_layers - 1
        changed = (self.hidden[:rows] + change).to(self.hidden.dtype)
        hidden = torch.cat([changed, self.hidden[rows:]])
        for layer in range(self.first, last + 1):
            if layer == self.first:
                heads = self._first_attention(changed)
            else:
                query, key, value, scaling = _project(self.architecture, layer, hidden, self.positions)
                queries = self._needed_queries if layer == last else self._all_queries
                heads = self._attend(layer, queries, query, key, value, scaling)
            if layer == last:
                hidden = hidden.index_select(0, self.needed)
                heads = heads.index_select(1, self.needed) if layer == self.first else heads
            hidden = self.architecture.complete_block(layer, hidden[None], heads.transpose(0, 1).flatten(1)[None])[0]
        return hidden if self.first <= last else hidden.index_select(0, self.needed)

    def select(self, keep: Tensor) -> tuple[Suffixes, Tensor]:
        """The rows in ``keep (R,)`` (bool), at least one; and which of the needed tokens stay, ``(E,)`` (bool)."""
        device = keep.device
        tokens = keep[self.row].nonzero()[:, 0]
        rows = keep.nonzero()[:, 0]
        new_row = torch.full((len(keep),), -1, dtype=torch.long, device=device)
        new_row[rows] = torch.arange(len(rows), device=device)
        new_token = torch.full((len(self.row),), -1, dtype=torch.long, device=device)
        new_token[tokens] = torch.arange(len(tokens), device=device)
        stays = new_token[self.needed] >= 0
        prefix = self.prefix[rows]
        width = int(prefix.max())
        chosen = Suffixes(
            architecture=self.architecture,
            first=self.first,
            hidden=self.hidden[tokens],
            positions=self.positions[tokens],
            row=new_row[self.row[tokens]],
            offset=self.offset[tokens],
            prefix=prefix,
            keys={layer: key[:, rows, :width] for layer, key in self.keys.items()},
            values={layer: value[:, rows, :width] for layer, value in self.values.items()},
            fixed=self.fixed.select(tokens[len(rows) :] - len(keep)) if self.fixed else None,
            needed=new_token[self.needed[stays]],
        )
        return chosen, stays

    @functools.cached_property
    def _padded(self) -> Tensor:
        """(R, longest suffix) indices of the packed tokens; filled up with token 0, which masks hide."""
        padded = self.row.new_zeros(len(self.prefix), int(self.offset.max()) + 1)
        padded[self.row, self.offset] = torch.arange(len(self.row), device=self.row.device)
        return padded

    @functools.cached_property
    def _prefix_mask(self) -> Tensor:
        """(R, 1, longest prefix), additive."""
        width = int(self.prefix.max())
        visible = torch.arange(width, device=self.prefix.device) < self.prefix[:, None]
        return _additive(visible, self.hidden.dtype)[:, None]

    @functools.cached_property
    def _change_mask(self) -> Tensor:
        """(R, 1, longest prefix + 1), additive: what the changed token sees, itself at the end."""
        return F.pad(self._prefix_mask, (0, 1))

    @functools.cached_property
    def _all_queries(self) -> _Queries:
        return self._queries(torch.arange(len(self.row), device=self.row.device))

    @functools.cached_property
    def _needed_queries(self) -> _Queries:
        return self._queries(self.needed)

    def _queries(self, tokens: Tensor) -> _Queries:
        """Lay tokens out by rows for the attention."""
        order = torch.argsort(self.row[tokens], stable=True)
        row = self.row[tokens][order]
        counts = torch.bincount(row, minlength=len(self.prefix))
        slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        width = int(counts.max())
        index = tokens.new_zeros(len(self.prefix), width)
        index[row, slot] = tokens[order]
        place = torch.empty_like(tokens)
        place[order] = row * width + slot
        causal = torch.arange(self._padded.shape[1], device=row.device) <= self.offset[index][..., None]
        mask = torch.cat([self._prefix_mask.expand(-1, width, -1), _additive(causal, self.hidden.dtype)], 2)
        return _Queries(index, place, mask)

    def _attend(
        self, layer: int, queries: _Queries, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Outputs ``(heads, tokens, size)`` of the attention of some tokens to prefixes and suffixes."""
        out = _attention(
            _rows(query, queries.index),
            (self.keys[layer], _rows(key, self._padded)),
            (self.values[layer], _rows(value, self._padded)),
            queries.mask,
            scaling,
        )
        return out.flatten(1, 2).index_select(1, queries.place)

    def _first_attention(self, changed: Tensor) -> Tensor:
        """The attention of all tokens in the first block, ``(heads, T, size)``, for the changed inputs ``(R, d)``."""
        assert self.fixed is not None
        fixed, rows = self.fixed, len(changed)
        query, key, value, scaling = _project(self.architecture, self.first, changed, self.positions[:rows])
        at_change = _attention(
            query[:, :, None],
            (self.keys[self.first], key[:, :, None]),
            (self.values[self.first], value[:, :, None]),
            self._change_mask,
            scaling,
        )[:, :, 0]
        share, later = len(query) // len(key), self.row[rows:]
        key = key.index_select(1, later).repeat_interleave(share, 0)
        value = value.index_select(1, later).repeat_interleave(share, 0)
        score = (fixed.query * key).sum(-1).to(fixed.log_sum.dtype) * scaling
        weight = torch.sigmoid(score - fixed.log_sum)[..., None].to(value.dtype)
        return torch.cat([at_change, fixed.attention + weight * (value - fixed.attention)], 1)


@dataclasses.dataclass(frozen=True)
class _Queries:
    """Tokens laid out by rows: ``index (R, e)`` into the packed tokens, ``place (n,)`` of each in the flattened
    layout, and the additive mask ``(R, e, prefix + suffix)``."""

    index: Tensor
    place: Tensor
    mask: Tensor


@dataclasses.dataclass(frozen=True)
class _Fixed:
    """Constants of the later tokens in the first block: queries and attention ``(heads, T - R, size)`` and its
    log-sum-exp ``(heads, T - R)``, without the changed token."""

    query: Tensor
    attention: Tensor
    log_sum: Tensor

    def select(self, tokens: Tensor) -> _Fixed:
        return _Fixed(self.query[:, tokens], self.attention[:, tokens], self.log_sum[:, tokens])


def prepare_suffixes(
    architecture: Architecture,
    rows: Sequence[Sequence[int]],
    lookups: Sequence[int],
    needed: Sequence[tuple[int, int]],
    layer: int,
    pad_id: int,
) -> tuple[Suffixes, Tensor]:
    """One clean pass over the rows of token ids.

    Args:
        lookups: position in each row whose output of block ``layer`` will change.
        needed: (row, position) of the tokens whose final outputs are wanted, at or after the look-up.

    Returns:
        The suffixes, and the clean outputs ``(R, d)`` of the MLP of block ``layer`` at the look-ups.
    """
    first, device = layer + 1, architecture.device
    at = [(r, o) for r in range(len(rows)) for o in range(len(rows[r]) - lookups[r])]
    at.sort(key=lambda t: (t[1] > 0, t))  # the changed tokens first, in the order of the rows
    index = {(r, lookups[r] + o): k for k, (r, o) in enumerate(at)}
    row, offset = torch.tensor(at, device=device).T
    prefix = torch.tensor(list(lookups), device=device)
    hidden: Tensor | None = None
    mlp: Tensor | None = None
    kept = _Kept(first, architecture.num_layers - 1, len(rows), max(lookups))
    order = sorted(range(len(rows)), key=lambda r: len(rows[r]))
    with torch.no_grad():
        for start, stop in partition([len(rows[r]) for r in order]):
            group = torch.tensor(order[start:stop], device=device)
            block, inner = _lower_pass(architecture, [rows[r] for r in order[start:stop]], layer, pad_id)
            if hidden is None or mlp is None:
                hidden = block.new_zeros(len(at), block.shape[2])
                mlp = inner.new_zeros(len(rows), inner.shape[2])
            local = torch.full((len(rows),), -1, device=device)
            local[group] = torch.arange(len(group), device=device)
            tokens = (local[row] >= 0).nonzero()[:, 0]
            hidden[tokens] = block[local[row[tokens]], prefix[row[tokens]] + offset[tokens]]
            mlp[group] = inner[local[group], prefix[group]]
            kept.collect(architecture, group, block[:, : int(prefix[group].max())])
        assert hidden is not None
        assert mlp is not None
        suffixes = Suffixes(
            architecture=architecture,
            first=first,
            hidden=hidden,
            positions=prefix[row] + offset,
            row=row,
            offset=offset,
            prefix=prefix,
            keys=kept.keys,
            values=kept.values,
            fixed=None,
            needed=torch.tensor([index[place] for place in needed], device=device),
        )
        if first < architecture.num_layers:
            with architecture.handing_over():
                suffixes = _with_constants(suffixes)
    return suffixes, mlp


def _lower_pass(
    architecture: Architecture, rows: Sequence[Sequence[int]], layer: int, pad_id: int
) -> tuple[Tensor, Tensor]:
    """Outputs of block ``layer`` and of its MLP on right-padded rows: causal, so that padding needs no mask."""
    ids, _ = pad(rows, pad_id, architecture.device)
    block = architecture.block(layer)
    with capture(outputs={"block": block, "mlp": architecture.mlp(layer)}, stop_after=block) as found:
        run(architecture.model.base_model, input_ids=ids, use_cache=False)  # type: ignore[arg-type]
    return found["block"], found["mlp"]


class _Kept:
    """Keys and values of the prefixes in the upper blocks; as a cache it takes them from the blocks that run."""

    def __init__(self, first: int, last: int, rows: int, width: int) -> None:
        self.first, self.last, self.rows, self.width = first, last, rows, width
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.group: Tensor | None = None

    def collect(self, architecture: Architecture, group: Tensor, hidden: Tensor) -> None:
        """Run the prefixes ``(rows of the group, length, d)``, of the last block no more than its keys and values."""
        if self.first > self.last or (hidden.shape[1] == 0 and self.keys):
            return
        if hidden.shape[1] == 0:  # a token of padding tells the shapes; no mask shows it
            hidden = hidden.new_zeros(len(group), 1, hidden.shape[2])
        self.group, length = group, hidden.shape[1]
        places = torch.arange(length, device=hidden.device)
        mask = _additive(places[None] <= places[:, None], hidden.dtype)[None, None]
        with contextlib.suppress(StopForward):
            architecture.run_blocks(
                hidden, self.first, mask.expand(len(group), -1, -1, -1), places.expand(len(group), -1), self
            )

    def update(self, keys: Tensor, values: Tensor, layer: int, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            shape = (keys.shape[1], self.rows, self.width, keys.shape[3])
            self.keys[layer], self.values[layer] = keys.new_zeros(shape), values.new_zeros(shape)
        assert self.group is not None
        width = min(keys.shape[2], self.width)
        self.keys[layer][:, self.group, :width] = keys[:, :, :width].transpose(0, 1)
        self.values[layer][:, self.group, :width] = values[:, :, :width].transpose(0, 1)
        if layer == self.last:
            raise StopForward
        return keys, values


def _with_constants(suffixes: Suffixes) -> Suffixes:
    """Fill in what the later tokens of the first block attend to beside the changed token."""
    rows, first = len(suffixes.prefix), suffixes.first
    query, key, value, scaling = _project(suffixes.architecture, first, suffixes.hidden, suffixes.positions)
    queries, share = suffixes._all_queries, len(query) // len(key)
    keys = torch.cat([suffixes.keys[first], _rows(key, suffixes._padded)], 2).repeat_interleave(share, 0)
    values = torch.cat([suffixes.values[first], _rows(value, suffixes._padded)], 2).repeat_interleave(share, 0)
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = (_rows(query, queries.index) @ keys.transpose(2, 3)).to(precise) * scaling + queries.mask
    scores[..., suffixes.keys[first].shape[2]] = float("-inf")  # the changed token
    attention = torch.softmax(scores, -1).to(values.dtype) @ values
    log_sum = torch.logsumexp(scores, -1)
    later = queries.place[rows:]
    fixed = _Fixed(query[:, rows:], attention.flatten(1, 2)[:, later], log_sum.flatten(1, 2)[:, later])
    return dataclasses.replace(suffixes, fixed=fixed)


def _project(
    architecture: Architecture, layer: int, hidden: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Queries, keys and values ``(heads, tokens, size)`` of packed inputs ``(tokens, d)``, and the scores' scale."""
    query, key, value, scaling = architecture.project(layer, hidden[None], positions[None])
    return query[0], key[0], value[0], scaling


def _attention(
    query: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor], mask: Tensor, scaling: float
) -> Tensor:
    """Softmax attention ``(heads, R, e, size)`` to two sets of keys, the prefix's and the suffix's.

    They stay apart: joined, they would be copied at every step, and gradients would be computed for the constant part.

    Args:
        query: ``(heads, R, e, size)``.
        keys, values: each ``(key heads, R, length, size)``.
        mask: additive ``(R, e, sum of the lengths)``.
    """
    share, e = len(query) // len(keys[0]), query.shape[2]
    query = query * scaling
    if share > 1:  # heads that share keys become more queries
        query = query.unflatten(0, (-1, share)).transpose(1, 2).flatten(2, 3)
        mask = mask.repeat(1, share, 1)
    scores = torch.cat([query @ part.transpose(2, 3) for part in keys], 3) + mask
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    before, after = weights.split([part.shape[2] for part in keys], 3)
    out = before @ values[0] + after @ values[1]
    return out.unflatten(2, (share, e)).transpose(1, 2).flatten(0, 1) if share > 1 else out


def _rows(packed: Tensor, index: Tensor) -> Tensor:
    """``(heads, tokens, size)`` -> ``(heads, R, e, size)``."""
    return packed.index_select(1, index.flatten()).unflatten(1, index.shape)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def partition(lengths: Sequence[int], call_cost: int = _CALL_COST) -> list[tuple[int, int]]:
    """Cut sorted lengths into runs ``[start, stop)`` that minimise padded tokens plus ``call_cost`` a run (exact, by
    dynamic programming over the distinct lengths)."""
    ends = [i for i in range(1, len(lengths) + 1) if i == len(lengths) or lengths[i] != lengths[i - 1]]
    best: list[tuple[float, int]] = [(0.0, 0)]
    bounds = [0, *ends]
    for j in range(1, len(bounds)):
        width = lengths[bounds[j] - 1]
        best.append(min((best[i][0] + call_cost + width * (bounds[j] - bounds[i]), i) for i in range(j)))
    runs: list[tuple[int, int]] = []
    j = len(bounds) - 1
    while j > 0:
        i = best[j][1]
        runs.append((bounds[i], bounds[j]))
        j = i
    return runs[::-1]
