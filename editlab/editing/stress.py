"""Harmful batches on purpose, so that a guard has something to catch.

Three kinds, dealt in turn over a seeded choice of the batches: *contradiction* asks two objects of each subject at
once; *clamp* lets targets move many times farther than usual; *corruption* replaces the solved targets by random
vectors of oversized length, as a wrong layer or a broken cache would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.config.solvers import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.targets import Targets
from editlab.randomness import python_rng, torch_rng

KINDS = ("contradiction", "clamp", "corruption")
CLAMP = 8.0  # times the recipe's
CORRUPTION = 4.0  # times the length of the solved target


@dataclasses.dataclass(frozen=True)
class Stress:
    """One harmful batch.

    Attributes:
        kind: one of :data:`KINDS`.
        seed: of its random vectors.
    """

    kind: str
    seed: int = 0

    def requests(self, batch: Sequence[EditRequest]) -> list[EditRequest]:
        """A contradicted batch: its second half contradicts the first; any other batch as it is."""
        if self.kind != "contradiction" or len(batch) < 2:
            return list(batch)
        half = len(batch) // 2
        return [*batch[:half], *(_contradicted(r, batch) for r in batch[:half])]

    def options(self, options: TargetOptions) -> TargetOptions:
        """Target options with an oversized clamp and no decay."""
        if self.kind != "clamp":
            return options
        return options.model_copy(update={"clamp": CLAMP * options.clamp, "weight_decay": 0.0, "stop_loss": 0.0})

    def targets(self, targets: Targets) -> Targets:
        """Targets replaced by seeded noise."""
        if self.kind != "corruption":
            return targets
        return dataclasses.replace(targets, z=noise_like(targets.z, CORRUPTION, self.seed))


def noise_like(z: Tensor, scale: float, seed: int) -> Tensor:
    """Random columns, ``scale`` times as long as those of z (d_out, n)."""
    noise = torch.randn(z.shape, dtype=torch.float64, generator=torch_rng("corruption", seed)).to(z)
    return noise * (scale * z.norm(dim=0) / noise.norm(dim=0))


def _contradicted(request: EditRequest, batch: Sequence[EditRequest]) -> EditRequest:
    """The same subject and relation with another object: one asked for elsewhere in the batch, else the old one."""
    same = [r for r in batch if r.relation_id == request.relation_id] + list(batch)
    others = [r.target_new for r in same if r.target_new not in (request.target_new, request.target_true)]
    other = others[0] if others else request.target_true
    return dataclasses.replace(request, case_id=f"{request.case_id}-contradicted", target_new=other)


def stressed_batches(count: int, fraction: float, seed: int) -> dict[int, Stress]:
    """Which of ``count`` batches are harmful and how: ``round(fraction * count)`` of them, kinds in turn.

    The first batch is spared: there is nothing to lose yet.
    """
    chosen = python_rng("stress", seed, count).sample(range(1, count), min(round(fraction * count), max(0, count - 1)))
    return {b: Stress(KINDS[i % len(KINDS)], seed * 100_003 + b) for i, b in enumerate(chosen)}
