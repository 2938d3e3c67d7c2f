"""Where a fact lives: the look-up position, its key, and the current value there.

The look-up position is the last token of the subject. The *key* of a fact is the input of the MLP output projection at
that position, averaged over contexts (ROME, arXiv 2202.05262, eq. 3; MEMIT, arXiv 2210.07229, eq. 19); the *value* is
the output of a block (or of its MLP) there. Contexts come in groups, ``[["{}"], [prefix, prefix, ...]]``: a key averages
inside each group and then over the groups, so the clean prompt weighs one half, as in MEMIT's published code. In a
causal model nothing after the look-up position matters, so prompts are cut there and equal ones run once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from editlab.data.requests import EditRequest
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, run
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, check_lengths, pad

Contexts = Sequence[Sequence[str]]
CLEAN: Contexts = (("{}",),)
TOKENS_PER_PASS = 16_384


def check_contexts(contexts: Contexts) -> tuple[tuple[str, ...], ...]:
    """Contexts as nested tuples; :class:`ConfigError` unless they are groups of templates with one ``{}`` each.

    The first template must be ``"{}"``: the clean prompt is where current values and the target's base are read.
    """
    groups = list(contexts) if isinstance(contexts, list | tuple) else []
    if not groups or not all(isinstance(group, list | tuple) and group for group in groups):
        raise ConfigError('contexts: must be a list of non-empty groups of templates, such as [["{}"], ["Yes. {}"]]')
    for template in (t for group in contexts for t in group):
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigError(f"contexts: template {str(template)[:60]!r} must hold '{{}}' exactly once")
    if contexts[0][0] != "{}":
        raise ConfigError(
            f"contexts: the first template is {contexts[0][0][:60]!r}; it must be '{{}}', the clean prompt"
        )
    return tuple(tuple(group) for group in contexts)


def flat(contexts: Contexts) -> Contexts:
    """All templates in one group: ROME's equal weights."""
    return (tuple(t for group in contexts for t in group),)


@dataclasses.dataclass(frozen=True)
class LookupRows:
    """Prompts cut at their look-up position, and how facts average over them.

    Attributes:
        rows: token ids of the distinct cut prompts; the look-up position is the last token of each.
        row: ``(entries,)`` row of each (fact, context).
        fact: ``(entries,)`` fact of each (fact, context).
        weight: ``(entries,)`` weights, summing to one over a fact.
        n: number of facts.
    """

    rows: list[list[int]]
    row: Tensor
    fact: Tensor
    weight: Tensor
    n: int

    def average(self, states: Tensor) -> Tensor:
        """Weighted mean over contexts of row states ``(rows, d)`` -> ``(d, n)`` in float64."""
        picked = states.double()[self.row.to(states.device)] * self.weight.to(states.device)[:, None]
        total = torch.zeros(self.n, states.shape[1], dtype=torch.float64, device=states.device)
        return total.index_add_(0, self.fact.to(states.device), picked).T.contiguous()


def lookup_rows(encoder: Encoder, requests: Sequence[EditRequest], contexts: Contexts) -> LookupRows:
    """Encode every (fact, context), cut at the look-up position, equal rows merged."""
    templates, subjects, facts, weights = [], [], [], []
    for group in contexts:
        for context in group:
            for index, request in enumerate(requests):
                templates.append(context.replace("{}", request.prompt, 1))
                subjects.append(request.subject)
                facts.append(index)
                weights.append(1.0 / (len(contexts) * len(group)))
    rows, positions = encoder.lookups(templates, subjects)
    index_of: dict[tuple[int, ...], int] = {}
    row = [index_of.setdefault(tuple(r.prompt[: p + 1]), len(index_of)) for r, p in zip(rows, positions, strict=True)]
    return LookupRows(
        rows=[list(r) for r in index_of],
        row=torch.tensor(row),
        fact=torch.tensor(facts),
        weight=torch.tensor(weights, dtype=torch.float64),
        n=len(requests),
    )


def lookup_states(
    model: torch.nn.Module,
    lookups: LookupRows,
    *,
    keys: Iterable[int] = (),
    blocks: Iterable[int] = (),
    mlps: Iterable[int] = (),
) -> dict[tuple[str, int], Tensor]:
    """States of every row at its look-up position, in one pass that stops above the highest layer asked for.

    Returns:
        ``("key", layer)``: inputs of the MLP output projection ``(rows, d_in)``; ``("block", layer)`` and
        ``("mlp", layer)``: outputs of the block and of its MLP ``(rows, d_out)``.
    """
    architecture = Architecture(model)
    inputs = {("key", layer): architecture.projection(layer) for layer in keys}
    outputs = {("block", layer): architecture.block(layer) for layer in blocks}
    outputs |= {("mlp", layer): architecture.mlp(layer) for layer in mlps}
    top = max(layer for _, layer in [*inputs, *outputs])
    check_lengths(lookups.rows, model)
    order = sorted(range(len(lookups.rows)), key=lambda i: len(lookups.rows[i]))
    pad_id = int(tokenizer_of(model).pad_token_id or 0)
    found: dict[tuple[str, int], list[Tensor]] = {name: [] for name in [*inputs, *outputs]}
    for chunk in _chunks(order, lookups.rows):
        ids, mask = pad([lookups.rows[i] for i in chunk], pad_id, architecture.device)
        last = mask.sum(1) - 1
        with torch.no_grad(), capture(inputs, outputs, stop_after=architecture.block(top)) as states:
            run(architecture.model, input_ids=ids, attention_mask=mask, use_cache=False)
        at = torch.arange(len(chunk), device=ids.device)
        for name, values in states.items():
            found[name].append(values[at, last])
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return {name: torch.cat(parts)[inverse.to(parts[0].device)] for name, parts in found.items()}


def _chunks(order: list[int], rows: list[list[int]]) -> Iterable[list[int]]:
    chunk: list[int] = []
    for i in order:
        if chunk and (len(chunk) + 1) * len(rows[i]) > TOKENS_PER_PASS:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def compute_keys(
    model: torch.nn.Module, requests: Sequence[EditRequest], layer: int, contexts: Contexts = CLEAN
) -> Tensor:
    """Keys of the facts at one layer, ``(d_in, n)`` float64 (MEMIT eq. 19: mean over contexts)."""
    lookups = lookup_rows(Encoder(tokenizer_of(model)), requests, contexts)
    return lookups.average(lookup_states(model, lookups, keys=[layer])["key", layer])


def compute_values(model: torch.nn.Module, requests: Sequence[EditRequest], layer: int, site: str = "block") -> Tensor:
    """Current outputs of a block (or of its MLP) at the look-up position of the clean prompt, ``(d_out, n)`` float64."""
    lookups = lookup_rows(Encoder(tokenizer_of(model)), requests, CLEAN)
    states = lookup_states(model, lookups, **{"blocks" if site == "block" else "mlps": [layer]})
    return lookups.average(states[site, layer])
