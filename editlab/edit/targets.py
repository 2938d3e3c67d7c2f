"""Target vectors: what the edited layer should output at the subject so that the model says the new object.

For a fact, ``z = h + delta``: ``h`` is the output of the edited block (ROME: of its MLP) at the look-up position of the
clean prompt, and ``delta`` minimises over contexts the mean NLL of the new object, plus a KL term that keeps what the
model says after "{subject} is a", plus a decay (ROME eq. 4; MEMIT eq. 16). The published code optimises fact by fact
and reruns the whole model at every step. Here all facts of a batch are optimised together, in the same arithmetic:

- Adam, clamp and stop are per fact, so facts do not see each other; those that have stopped leave the active set.
- In a causal model only positions from the subject's end on change, and only above the edited block. The keys and
  values of earlier positions are computed once; a step runs the suffixes alone, through the upper blocks alone.
- Suffixes are grouped by length (:func:`partition`), so that hardly any padding is computed.
- Of the last block only its keys and values are needed everywhere; its output, and logits, are formed only where a
  target token is predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.architectures import Architecture
from editlab.edit.keys import Contexts
from editlab.hooks import capture, frozen
from editlab.models import tokenizer_of
from editlab.prefix import FrozenPrefix, run_prompts, run_upper_blocks, suffix_mask
from editlab.requests import EditRequest
from editlab.tokenization import Encoder, check_lengths

KL_PROMPT = "{} is a"
_CALL_COST = 40  # one pass through the blocks costs about as much as this many more tokens (measured, small model)


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """Hyper-parameters of the optimisation, named as in the published code.

    Attributes:
        steps: evaluations at most; the last one is not followed by an update.
        lr: Adam's learning rate.
        clamp: largest allowed ``|delta| / |h|``.
        weight_decay: factor of ``|delta| / |h|^2``.
        kl_factor: factor of KL(now || before) at the subject's end of ``"{subject} is a"``.
        stop_loss: a fact stops when its loss is below this.
        stop: ``"loss"``, or ``"most_probable"``: also stop when the new object is the argmax in all contexts
            (ENCORE's MPES, arXiv 2502.01636).
        max_tokens: suffix tokens optimised at once; facts beyond it form further chunks.
    """

    steps: int = 25
    lr: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    stop: str = "loss"
    max_tokens: int = 8192


@dataclasses.dataclass(frozen=True)
class Targets:
    """Solved targets of n facts.

    Attributes:
        z: ``(d_out, n)`` float64 target vectors.
        base: ``(d_out, n)`` float64, ``h`` on the clean prompt.
        steps: ``(n,)`` updates made.
        loss: ``(n,)`` loss of the returned target.
    """

    z: Tensor
    base: Tensor
    steps: Tensor
    loss: Tensor

    @property
    def delta(self) -> Tensor:
        return self.z - self.base


def optimize_targets(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Contexts,
    options: TargetOptions,
    *,
    site: str = "block",
    progress: Callable[[int], None] | None = None,
) -> Targets:
    """Targets of all requests at ``layer``, batched (see the module's docstring).

    Args:
        site: ``"block"`` (MEMIT) or ``"mlp"`` (ROME): whose output ``h`` is.
        progress: called with the number of facts finished.
    """
    encoder = Encoder(tokenizer_of(model))
    texts = _encode(encoder, requests, contexts, with_kl=options.kl_factor != 0)
    check_lengths([row.ids for row in texts], model)
    parts: list[Targets] = []
    with frozen(model):
        for facts in _chunk_facts(texts, len(requests), options.max_tokens):
            chosen = [dataclasses.replace(r, fact=r.fact - facts.start) for r in texts if r.fact in facts]
            problem = _Problem.prepare(model, chosen, len(facts), layer, site, encoder.pad_id)
            parts.append(_optimize(problem, options))
            if progress is not None:
                progress(len(facts))
    return Targets(
        z=torch.cat([p.z for p in parts], 1),
        base=torch.cat([p.base for p in parts], 1),
        steps=torch.cat([p.steps for p in parts]),
        loss=torch.cat([p.loss for p in parts]),
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    """One prompt of one fact: token ids, look-up position, and the tokens it must predict at its end (none: KL row)."""

    fact: int
    ids: list[int]
    lookup: int
    targets: list[int]
    weight: float
    first: bool

    @property
    def suffix(self) -> int:
        return len(self.ids) - self.lookup


def _encode(encoder: Encoder, requests: Sequence[EditRequest], contexts: Contexts, *, with_kl: bool) -> list[_Row]:
    templates = [t for group in contexts for t in group]
    prompts = [t.replace("{}", r.prompt, 1) for r in requests for t in templates]
    subjects = [r.subject for r in requests for _ in templates]
    ids, lookups = encoder.lookups(prompts, subjects)
    targets = encoder.targets([r.target_new for r in requests])
    rows = []
    for k, (row, lookup) in enumerate(zip(ids, lookups, strict=True)):
        fact, context = divmod(k, len(templates))
        goal = targets[fact]
        # The prompt's tokens, then the target without its last token: every target token is predicted once.
        rows.append(_Row(fact, row + goal[:-1], lookup, goal, 1.0 / (len(templates) * len(goal)), context == 0))
    if with_kl:
        kl_ids, kl_lookups = encoder.lookups([KL_PROMPT] * len(requests), [r.subject for r in requests])
        for fact, (row, lookup) in enumerate(zip(kl_ids, kl_lookups, strict=True)):
            # The KL term reads the subject's last token: nothing after it can matter.
            rows.append(_Row(fact, row[: lookup + 1], lookup, [], 0.0, False))
    return rows


def _chunk_facts(rows: Sequence[_Row], n: int, max_tokens: int) -> list[range]:
    cost = [0] * n
    for row in rows:
        cost[row.fact] += row.suffix
    chunks, start, used = [], 0, 0
    for fact in range(n):
        if fact > start and used + cost[fact] > max_tokens:
            chunks.append(range(start, fact))
            start, used = fact, 0
        used += cost[fact]
    return [*chunks, range(start, n)]


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


@dataclasses.dataclass(frozen=True)
class _Bucket:
    """Rows whose suffixes have about the same length ``s``, ready to run through the upper blocks."""

    hidden: Tensor  # (rows, s, d) clean output of the edited block
    cache: FrozenPrefix
    mask: Tensor  # (rows, 1, s, prefix + s)
    positions: Tensor  # (rows, s)
    fact: Tensor  # (rows,)
    length: Tensor  # (rows,) real suffix length
    needed: Tensor  # (rows, e) suffix positions of a row's entries; rows with fewer repeat position 0
    # One entry for every token to predict, then one for every KL row.
    entry_row: Tensor
    entry_slot: Tensor  # column of ``needed``
    entry_token: Tensor  # -1 in a KL entry
    entry_weight: Tensor

    def logits(self, architecture: Architecture, layer: int, delta: Tensor) -> Tensor:
        """Logits ``(entries, vocabulary)`` with ``delta[fact]`` added at the look-up position."""
        shifted = F.pad(delta[self.fact][:, None], (0, 0, 0, self.hidden.shape[1] - 1))
        hidden = (self.hidden + shifted).to(self.hidden.dtype)
        hidden = run_upper_blocks(architecture, hidden, layer + 1, self.mask, self.positions, self.cache, self.needed)
        logits = architecture.logits(hidden[self.entry_row, self.entry_slot])
        return logits.to(_working_dtype(logits))

    def select(self, keep: Tensor) -> _Bucket | None:
        """The rows whose facts are in ``keep (n,)`` (bool); None when none is left."""
        rows = keep[self.fact].nonzero()[:, 0]
        if len(rows) == 0:
            return None
        if len(rows) == len(self.fact):
            return self
        new_index = torch.full((len(self.fact),), -1, dtype=torch.long, device=rows.device)
        new_index[rows] = torch.arange(len(rows), device=rows.device)
        entries = (new_index[self.entry_row] >= 0).nonzero()[:, 0]
        prefix = int(self.positions[rows, 0].max())
        width = int(self.length[rows].max())
        old_prefix = self.mask.shape[3] - self.hidden.shape[1]
        return _Bucket(
            hidden=self.hidden[rows, :width],
            cache=FrozenPrefix(
                {k: v[rows, :, :prefix] for k, v in self.cache.keys.items()},
                {k: v[rows, :, :prefix] for k, v in self.cache.values.items()},
            ),
            mask=torch.cat(
                [self.mask[rows, :, :width, :prefix], self.mask[rows, :, :width, old_prefix : old_prefix + width]], 3
            ),
            positions=self.positions[rows, :width],
            fact=self.fact[rows],
            length=self.length[rows],
            needed=self.needed[rows, : int(self.entry_slot[entries].max()) + 1],
            entry_row=new_index[self.entry_row[entries]],
            entry_slot=self.entry_slot[entries],
            entry_token=self.entry_token[entries],
            entry_weight=self.entry_weight[entries],
        )


@dataclasses.dataclass(frozen=True)
class _Problem:
    architecture: Architecture
    layer: int
    base: Tensor  # (n, d) in the optimisation's dtype
    buckets: list[_Bucket]
    has_kl: bool

    @classmethod
    def prepare(cls, model: torch.nn.Module, rows: list[_Row], n: int, layer: int, site: str, pad_id: int) -> _Problem:
        """One clean pass over all rows; keep suffix states and the keys and values before them."""
        architecture = Architecture(model)
        rows = sorted(rows, key=lambda r: (r.suffix, r.lookup, r.fact))
        base: Tensor | None = None
        buckets = []
        for start, stop in partition([row.suffix for row in rows]):
            bucket, found = _make_bucket(architecture, rows[start:stop], layer, site, pad_id)
            buckets.append(bucket)
            for fact, value in found.items():
                if base is None:
                    base = torch.zeros(n, len(value), dtype=_working_dtype(value), device=value.device)
                base[fact] = value
        assert base is not None
        return cls(architecture, layer, base, buckets, any(not row.targets for row in rows))


def _working_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _make_bucket(
    architecture: Architecture, rows: list[_Row], layer: int, site: str, pad_id: int
) -> tuple[_Bucket, dict[int, Tensor]]:
    with capture(outputs={"mlp": architecture.mlp(layer)}) as extra:
        states = run_prompts(architecture, [r.ids for r in rows], pad_id, capture_blocks=[layer], cache_from=layer + 1)
    block = states.captured[layer]
    device = block.device
    lookup = torch.tensor([r.lookup for r in rows], device=device)
    length = torch.tensor([r.suffix for r in rows], device=device)
    width, prefix = int(length.max()), int(lookup.max())
    at = torch.arange(len(rows), device=device)
    positions = lookup[:, None] + torch.arange(width, device=device)[None]
    inside = positions.clamp(max=block.shape[1] - 1)
    values = extra["mlp"] if site == "mlp" else block
    entries = [(k, j, token, r.weight) for k, r in enumerate(rows) for j, token in enumerate(r.targets)]
    entries += [(k, 0, -1, 0.0) for k, r in enumerate(rows) if not r.targets]
    needed = torch.zeros(len(rows), max(len(r.targets) or 1 for r in rows), dtype=torch.long)
    for k, r in enumerate(rows):
        # The last prompt token predicts the first target token, and so on; a KL row is read at its only position.
        needed[k, : len(r.targets)] = torch.arange(r.suffix - len(r.targets), r.suffix)
    bucket = _Bucket(
        hidden=block[at[:, None], inside],
        cache=FrozenPrefix.of(states, at, prefix, layer + 1),
        mask=suffix_mask(lookup, prefix, width, block.dtype),
        positions=positions,
        fact=torch.tensor([r.fact for r in rows], device=device),
        length=length,
        needed=needed.to(device),
        entry_row=torch.tensor([e[0] for e in entries], device=device),
        entry_slot=torch.tensor([e[1] for e in entries], device=device),
        entry_token=torch.tensor([e[2] for e in entries], device=device),
        entry_weight=torch.tensor([e[3] for e in entries], dtype=_working_dtype(block), device=device),
    )
    return bucket, {r.fact: values[k, r.lookup] for k, r in enumerate(rows) if r.first}


def _losses(
    problem: _Problem, buckets: Sequence[_Bucket], delta: Tensor, options: TargetOptions, before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss of every fact ``(n,)``, whether its object is the argmax everywhere, and the KL reference (first step)."""
    n = delta.shape[0]
    loss = torch.zeros(n, dtype=delta.dtype, device=delta.device)
    missed = torch.zeros(n, dtype=torch.bool, device=delta.device)
    reference = before
    for bucket in buckets:
        log_probs = F.log_softmax(bucket.logits(problem.architecture, problem.layer, delta), dim=-1).to(delta.dtype)
        fact = bucket.fact[bucket.entry_row]
        predicts = bucket.entry_token >= 0
        picked = log_probs[predicts].gather(1, bucket.entry_token[predicts][:, None])[:, 0]
        loss = loss.index_add(0, fact[predicts], -picked * bucket.entry_weight[predicts])
        if options.stop == "most_probable":
            wrong = log_probs[predicts].detach().argmax(-1) != bucket.entry_token[predicts]
            missed[fact[predicts][wrong]] = True
        if problem.has_kl and not bool(predicts.all()):
            now, kl_fact = log_probs[~predicts], fact[~predicts]
            if before is None:
                if reference is None:
                    reference = torch.zeros(n, now.shape[1], dtype=now.dtype, device=now.device)
                reference[kl_fact] = now.detach()
            assert reference is not None
            kl = (now.exp() * (now - reference[kl_fact])).sum(-1)
            loss = loss.index_add(0, kl_fact, options.kl_factor * kl)
    norm = problem.base.norm(dim=1)
    loss = loss + options.weight_decay * delta.norm(dim=1) / norm**2
    return loss, ~missed, reference


def _optimize(problem: _Problem, options: TargetOptions) -> Targets:
    """Adam from zero on every fact at once; torch's defaults, per-fact clamp and stop."""
    n = len(problem.base)
    radius = options.clamp * problem.base.norm(dim=1)
    delta = torch.zeros_like(problem.base)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    active = torch.ones(n, dtype=torch.bool, device=delta.device)
    steps = torch.zeros(n, dtype=torch.long, device=delta.device)
    final = torch.full((n,), float("nan"), dtype=delta.dtype, device=delta.device)
    before: Tensor | None = None
    buckets, running = problem.buckets, n
    for step in range(1, options.steps + 1):
        delta.requires_grad_(True)
        loss, most_probable, before = _losses(problem, buckets, delta, options, before)
        value = loss.detach()
        final = torch.where(active, value, final)
        done = value < options.stop_loss
        if options.stop == "most_probable":
            done |= most_probable
        active &= ~done
        if step == options.steps or not bool(active.any()):
            break
        (gradient,) = torch.autograd.grad(loss[active].sum(), delta)
        delta = delta.detach()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        update = options.lr / (1 - 0.9**step) * first / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        moved = delta - update
        length = moved.norm(dim=1)
        moved = moved * torch.where(length > radius, radius / length, torch.ones_like(length))[:, None]
        delta = torch.where(active[:, None], moved, delta)
        steps += active
        left = int(active.sum())
        if left <= 0.8 * running:
            buckets = [b for b in (bucket.select(active) for bucket in buckets) if b is not None]
            running = left
    delta = delta.detach()
    return Targets(
        z=(problem.base + delta).double().T.contiguous(),
        base=problem.base.double().T.contiguous(),
        steps=steps,
        loss=final.double(),
    )
