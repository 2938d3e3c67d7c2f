"""Target vectors: what the edited layer should output at the subject so that the model says the new object.

For a fact, ``z = h + delta``: ``h`` is the output of the edited block (ROME: of its MLP) at the look-up position of the
clean prompt, and ``delta`` minimises over contexts the mean NLL of the new object, plus a KL term that keeps what the
model says after "{subject} is a", plus a decay (ROME eq. 4; MEMIT eq. 16). The published code optimises fact by fact
and reruns the whole model at every step. Here all facts of a batch are optimised together, in the same arithmetic:

- Adam, clamp and stop are per fact, so facts do not see each other; those that have stopped leave the active set.
- In a causal model only positions from the subject's end on change, and only above the edited block: a step runs the
  suffixes alone, through the upper blocks alone, and as little of these as can be (:mod:`editlab.networks.suffix`).
- Logits are formed only where a target token is predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.config.solvers import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.keys import Contexts
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.suffix import Suffixes, prepare_suffixes
from editlab.networks.tokenization import Encoder, check_lengths

KL_PROMPT = "{} is a"
TOKENS_AT_ONCE = 8192


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
    max_tokens: int = TOKENS_AT_ONCE,
) -> Targets:
    """Targets of all requests at ``layer``, batched (see the module's docstring).

    Args:
        site: ``"block"`` (MEMIT) or ``"mlp"`` (ROME): whose output ``h`` is.
        max_tokens: suffix tokens optimised at once; facts beyond it form further chunks.
    """
    encoder = Encoder(tokenizer_of(model))
    texts = _encode(encoder, requests, contexts, with_kl=options.kl_factor != 0)
    check_lengths([row.ids for row in texts], model)
    parts: list[Targets] = []
    with frozen(model):
        for facts in _chunk_facts(texts, len(requests), max_tokens):
            chosen = [dataclasses.replace(r, fact=r.fact - facts.start) for r in texts if r.fact in facts]
            problem = _Problem.prepare(Architecture(model), chosen, len(facts), layer, site, encoder.pad_id)
            with problem.suffixes.architecture.handing_over():
                parts.append(_optimize(problem, options))
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


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Facts that are optimised together: clean base vectors, suffixes, and the tokens that must be predicted.

    Attributes:
        base: ``(n, d)`` in the optimisation's dtype.
        row_fact: ``(rows,)`` fact of each row of the suffixes.
        fact, token, weight: of each entry, a token of the suffixes that is read; token -1 in a KL entry.
    """

    suffixes: Suffixes
    base: Tensor
    row_fact: Tensor
    fact: Tensor
    token: Tensor
    weight: Tensor

    @classmethod
    def prepare(
        cls, architecture: Architecture, rows: list[_Row], n: int, layer: int, site: str, pad_id: int
    ) -> _Problem:
        # The last prompt token predicts the first target token, and so on; a KL row is read at its only token.
        entries = [
            (k, len(row.ids) - len(row.targets) + j, row.fact, token, row.weight)
            for k, row in enumerate(rows)
            for j, token in enumerate(row.targets)
        ]
        entries += [(k, row.lookup, row.fact, -1, 0.0) for k, row in enumerate(rows) if not row.targets]
        needed = [(e[0], e[1]) for e in entries]
        suffixes, mlp = prepare_suffixes(
            architecture, [r.ids for r in rows], [r.lookup for r in rows], needed, layer, pad_id
        )
        values = mlp if site == "mlp" else suffixes.hidden[: len(rows)]
        dtype, device = _working_dtype(values), values.device
        first = sorted((row.fact, k) for k, row in enumerate(rows) if row.first)
        return cls(
            suffixes=suffixes,
            base=values[torch.tensor([k for _, k in first], device=device)].to(dtype),
            row_fact=torch.tensor([row.fact for row in rows], device=device),
            fact=torch.tensor([e[2] for e in entries], device=device),
            token=torch.tensor([e[3] for e in entries], device=device),
            weight=torch.tensor([e[4] for e in entries], dtype=dtype, device=device),
        )

    def select(self, active: Tensor) -> _Problem:
        """Without the rows and entries of facts that are not ``active (n,)``; the facts keep their numbers."""
        suffixes, stays = self.suffixes.select(active[self.row_fact])
        return dataclasses.replace(
            self,
            suffixes=suffixes,
            row_fact=self.row_fact[active[self.row_fact]],
            fact=self.fact[stays],
            token=self.token[stays],
            weight=self.weight[stays],
        )

    def losses(
        self, delta: Tensor, options: TargetOptions, before: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss of every fact ``(n,)``, whether its object is the argmax everywhere, and the KL reference ``(n, V)``."""
        hidden = self.suffixes.run(delta.index_select(0, self.row_fact))
        logits = self.suffixes.architecture.logits(hidden)
        log_probs = F.log_softmax(logits.to(_working_dtype(logits)), dim=-1).to(delta.dtype)
        n, predictions = len(delta), int((self.token >= 0).sum())  # the KL entries come last
        token, fact = self.token[:predictions, None], self.fact[:predictions]
        picked = log_probs[:predictions].gather(1, token)[:, 0]
        loss = torch.zeros(n, dtype=delta.dtype, device=delta.device)
        loss = loss.index_add(0, fact, -picked * self.weight[:predictions])
        most_probable = torch.ones(n, dtype=torch.bool, device=delta.device)
        if options.stop == "most_probable":
            most_probable[fact[log_probs[:predictions].detach().argmax(-1) != token[:, 0]]] = False
        if predictions < len(self.token):
            now, fact = log_probs[predictions:], self.fact[predictions:]
            if before is None:  # the first step, all facts active: the model as it is
                before = torch.zeros(n, now.shape[1], dtype=now.dtype, device=now.device)
                before[fact] = now.detach()
            kl = (now.exp() * (now - before[fact])).sum(-1)
            loss = loss.index_add(0, fact, options.kl_factor * kl)
        loss = loss + options.weight_decay * delta.norm(dim=1) / self.base.norm(dim=1) ** 2
        return loss, most_probable, before


def _working_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


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
    running = n
    for step in range(1, options.steps + 1):
        delta.requires_grad_(True)
        loss, most_probable, before = problem.losses(delta, options, before)
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
        if left <= 0.95 * running:
            problem, running = problem.select(active), left
    delta = delta.detach()
    return Targets(
        z=(problem.base + delta).double().T.contiguous(),
        base=problem.base.double().T.contiguous(),
        steps=steps,
        loss=final.double(),
    )
