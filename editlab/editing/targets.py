"""Target vectors: what the edited layer should output at the subject so that the model says the new object.

For a fact, ``z = h + delta``: ``h`` is the output of the edited block (ROME: of its MLP) at the look-up position of the
clean prompt, and ``delta`` minimises over contexts the mean NLL of the new object, plus a KL term that keeps what the
model says after "{subject} is a", plus a decay (ROME eq. 4; MEMIT eq. 16). The published code optimises fact by fact
and reruns the whole model at every step. Here all facts of a batch are optimised together, in the same arithmetic:

- Adam, clamp and stop are per fact, so facts do not see each other; those that have stopped leave the active set.
- In a causal model only positions from the subject's end on change, and only above the edited block: a step runs the
  suffixes alone, through the upper blocks alone, and as little of these as can be (:mod:`editlab.networks.suffix`).
- Logits are formed only where a target token is predicted.

*Other relations.* Facts of one subject share its key, and the KL term reads only what follows "{subject} is a". With
``subject_weight`` w the loss of a fact also holds what the model says at the end of prompts P of the subject's other relations,
w * mean over p in P of KL(before(. | p) || now(. | p)), with delta at the subject as in all rows; *before* is the model as
it is before the batch, earlier edits included (a method of this project).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.keys import Contexts
from editlab.editing.memory import TOKENS_AT_ONCE, budget_bytes, is_out_of_memory, power_of_two
from editlab.editing.target_problem import Reference, TargetProblem, TargetRow, encode_rows
from editlab.errors import ResourceError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.precision import float32_products
from editlab.networks.tokenization import Encoder, check_lengths

logger = logging.getLogger(__name__)

UNCONVERGED = 0.5
"""Loss in nats above which a target is not what it should be: its new object has less than about 0.6 a token."""
PILOT_FACTS = 4
"""Facts on which the memory of a token is measured, the longest of the batch among them."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """Solved targets of n facts.

    Attributes:
        z: ``(d_out, n)`` float64 target vectors.
        base: ``(d_out, n)`` float64, ``h`` on the clean prompt.
        steps: ``(n,)`` updates made.
        loss: ``(n,)`` loss of the returned target.
        skipped: facts that are given up because their target is too long (:mod:`editlab.editing.anchor`); None: not looked at.
    """

    z: Tensor
    base: Tensor
    steps: Tensor
    loss: Tensor
    skipped: int | None = None

    @property
    def unconverged(self) -> float:
        """Share of the facts whose loss stayed above :data:`UNCONVERGED`."""
        return float((self.loss > UNCONVERGED).double().mean())

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
    max_tokens: int | None = None,
    others: Sequence[Sequence[str]] = (),
) -> Targets:
    """Targets of all requests at ``layer``, batched (see the module's docstring).

    Facts are optimised in chunks that fit the memory of ``options.target_memory_mb``; where it does not suffice after all, the
    chunk is halved, and what was found stays.

    Args:
        site: ``"block"`` (MEMIT) or ``"mlp"`` (ROME): whose output ``h`` is.
        max_tokens: suffix tokens optimised at once, in place of those that the memory allows.
        others: by request, templates of the subject's other relations, which ``options.subject_weight`` holds.

    Raises:
        ResourceError: the memory does not suffice for one fact.
    """
    encoder = Encoder(tokenizer_of(model))
    held = others if options.subject_weight else ()
    texts = encode_rows(encoder, requests, contexts, with_kl=options.kl_factor != 0, others=held)
    check_lengths([row.ids for row in texts], model)
    chunks = _Chunks(Architecture(model), texts, len(requests), layer, site, encoder.pad_id, options)
    with frozen(model), float32_products(chunks.architecture.device, tf32=options.tf32):
        parts = chunks.solve(max_tokens)
    return Targets(
        z=torch.cat([p.z for p in parts], 1),
        base=torch.cat([p.base for p in parts], 1),
        steps=torch.cat([p.steps for p in parts]),
        loss=torch.cat([p.loss for p in parts]),
    )


class _Chunks:
    """The facts of a batch, cut into chunks that are optimised one after another."""

    def __init__(
        self,
        architecture: Architecture,
        rows: Sequence[TargetRow],
        n: int,
        layer: int,
        site: str,
        pad_id: int,
        options: TargetOptions,
    ) -> None:
        self.architecture, self.rows, self.n, self.options = architecture, rows, n, options
        self.place = (layer, site, pad_id)
        self.budget = budget_bytes(options.target_memory_mb, architecture.device)
        self.cost, self.longest = [0] * n, [0] * n  # by fact: suffix tokens of all its rows, tokens of its longest row
        for row in rows:
            self.cost[row.fact] += row.suffix
            self.longest[row.fact] = max(self.longest[row.fact], len(row.ids))

    def solve(self, max_tokens: int | None = None) -> list[Targets]:
        """Targets chunk by chunk, in the order of the facts; ``max_tokens`` stands in for what the memory allows."""
        parts: list[Targets] = []
        start, tokens, sized = 0, max_tokens or self._tokens_at_once(), max_tokens is None
        while start < self.n:
            facts = self._next(start, tokens)
            if sized and self.budget is not None and self.options.target_memory_mb != "auto" and facts.stop < self.n:
                tokens = self._fitting(self.budget, facts)  # chunks differ: in the length of their longest prompt, too
                facts = self._next(start, tokens)
            found = self._attempt(facts)
            if found is None:
                tokens, sized = self._halved(facts), False
                continue
            parts.append(found)
            start = facts.stop
        return parts

    def _tokens_at_once(self) -> int:
        """Suffix tokens that fit the memory for targets, measured on a few facts; of ``auto`` a power of two."""
        if self.budget is None:
            return TOKENS_AT_ONCE
        order = sorted(range(self.n), key=lambda fact: -self.cost[fact])
        tokens = self._fitting(self.budget, sorted(order[:: max(1, -(-self.n // PILOT_FACTS))][:PILOT_FACTS]))
        return power_of_two(tokens) if self.options.target_memory_mb == "auto" else tokens

    def _fitting(self, budget: int, facts: Sequence[int]) -> int:
        """Tokens for which the budget suffices, from what half of these facts need, the one with the longest row among them:
        rows are padded to it, and all of the facts may be more than the memory holds."""
        some = sorted({*facts[::2], max(facts, key=self.longest.__getitem__)})
        try:
            needed = self._problem(some).memory(self.options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return 1  # one fact at a time, which says so where even that is too much
        return max(1, budget * sum(self.cost[fact] for fact in some) // max(1, needed))

    def _next(self, start: int, max_tokens: int) -> range:
        stop, used = start + 1, self.cost[start]
        while stop < self.n and used + self.cost[stop] <= max_tokens:
            used += self.cost[stop]
            stop += 1
        return range(start, stop)

    def _attempt(self, facts: range) -> Targets | None:
        """The targets of a chunk; None where the memory does not suffice."""
        try:
            problem = self._problem(facts)
            with problem.suffixes.architecture.handing_over():
                return _optimize(problem, self.options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # outside of the handler, whose traceback would keep the tensors alive

    def _halved(self, facts: range) -> int:
        if len(facts) == 1:
            raise ResourceError(
                "targets: the memory of the device does not suffice for one fact; use a smaller dtype, fewer contexts, or "
                "another device"
            )
        if self.architecture.device.type == "cuda":
            torch.cuda.empty_cache()
        tokens = sum(self.cost[fact] for fact in facts) // 2
        logger.warning("targets: out of memory with %d facts at once; going on with %d tokens", len(facts), tokens)
        return tokens

    def _problem(self, facts: Sequence[int]) -> TargetProblem:
        number = {fact: i for i, fact in enumerate(facts)}
        chosen = [dataclasses.replace(row, fact=number[row.fact]) for row in self.rows if row.fact in number]
        return TargetProblem.prepare(self.architecture, chosen, len(facts), *self.place)


def _optimize(problem: TargetProblem, options: TargetOptions) -> Targets:
    """Adam from zero on every fact at once; torch's defaults, per-fact clamp and stop."""
    n = len(problem.base)
    radius = options.clamp * problem.base.norm(dim=1)
    delta = torch.zeros_like(problem.base)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    active = torch.ones(n, dtype=torch.bool, device=delta.device)
    steps = torch.zeros(n, dtype=torch.long, device=delta.device)
    final = torch.full((n,), float("nan"), dtype=delta.dtype, device=delta.device)
    before: Reference | None = None
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
