"""Harmful batches on purpose, so that a guard has something to catch.

Seven kinds, dealt in turn over a seeded choice of the batches. Three of them are so large that a ruler finds two:
*contradiction* asks two objects of each subject at once; *clamp* lets targets move many times farther than usual;
*corruption* replaces the solved targets by random vectors of oversized length, as a broken cache would. Three have an
ordinary norm: *shuffled* deals the changes of a batch to one another's facts; *wrong_subject* writes each new object at the
key of another subject of the relation, as a wrong entity link would; *neighbor* gives neighbours of half of the facts a plausible
wrong object in place of the other half. *wording* asks half of the facts in two wordings for two different objects, which takes
a larger update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest, unfill
from editlab.editing.targets import Targets
from editlab.errors import NumericalError
from editlab.randomness import python_rng, torch_rng

KINDS = ("shuffled", "clamp", "wrong_subject", "contradiction", "neighbor", "corruption", "wording")
CLAMP = 8.0  # times the recipe's
CORRUPTION = 4.0  # times the length of the solved target


@dataclasses.dataclass(frozen=True)
class Stress:
    """One harmful batch.

    Attributes:
        kind: one of :data:`KINDS`.
        seed: of its random vectors and draws.
        facts: of other subjects, for kinds that need them; without any of a relation, those of the batch itself.
    """

    kind: str
    seed: int = 0
    facts: tuple[EditRequest, ...] = ()

    def requests(self, batch: Sequence[EditRequest]) -> list[EditRequest]:
        """What a batch is made to ask for; where only its targets are harmful, what it asks for anyway."""
        if self.kind == "wrong_subject":
            others = self._others(batch)
            return [_about(r, other.subject) for r, other in zip(batch, others, strict=True)]
        if len(batch) < 2 or self.kind not in ("contradiction", "neighbor", "wording"):
            return list(batch)
        first = list(batch[: len(batch) // 2])
        if self.kind == "contradiction":
            return first + [_contradicted(r, batch) for r in first]
        if self.kind == "wording":
            return first + [_reworded(_contradicted(r, batch)) for r in first]
        neighbors = self._others(first, lambda one, other: one.target_true == other.target_true)
        return first + [
            dataclasses.replace(other, case_id=f"{r.case_id}-neighbor", target_new=r.target_new)
            for r, other in zip(first, neighbors, strict=True)
        ]

    def _others(
        self, requests: Sequence[EditRequest], near: Callable[[EditRequest, EditRequest], bool] | None = None
    ) -> list[EditRequest]:
        """Another fact of the relation for each request, each once as far as they reach; near ones first."""
        rng, taken = python_rng("stress", self.kind, self.seed), set()
        found = []
        for request in requests:
            pool = [f for f in self.facts if f.relation_id == request.relation_id and f.subject != request.subject]
            pool = pool or [r for r in requests if r.subject != request.subject] or [request]
            pool = [f for f in pool if f.key not in taken] or pool
            pool = [f for f in pool if near is not None and near(request, f)] or pool
            found.append(rng.choice(pool))
            taken.add(found[-1].key)
        return found

    def options(self, options: TargetOptions) -> TargetOptions:
        """Target options with an oversized clamp and no decay."""
        if self.kind != "clamp":
            return options
        return options.model_copy(update={"clamp": CLAMP * options.clamp, "weight_decay": 0.0, "stop_loss": 0.0})

    def targets(self, targets: Targets, requests: Sequence[EditRequest]) -> Targets:
        """Changes dealt to one another's facts, or targets replaced by seeded noise."""
        if self.kind == "shuffled":
            return shuffled(targets, requests, self.seed)
        if self.kind != "corruption":
            return targets
        return dataclasses.replace(targets, z=noise_like(targets.z, CORRUPTION, self.seed))


def noise_like(z: Tensor, scale: float, seed: int) -> Tensor:
    """Random columns, ``scale`` times as long as those of z (d_out, n)."""
    noise = torch.randn(z.shape, dtype=torch.float64, generator=torch_rng("corruption", seed)).to(z)
    return noise * (scale * z.norm(dim=0) / noise.norm(dim=0))


def shuffled(targets: Targets, requests: Sequence[EditRequest], seed: int) -> Targets:
    """Every fact gets the change of another one of the batch, in one seeded cycle through all of them: ``h_i + delta_j``.

    Changes and not targets themselves are dealt, so that the update keeps its usual size. The order of the batch does not
    matter.

    Raises:
        NumericalError: there is one fact alone.
    """
    count = targets.z.shape[1]
    if count < 2:
        raise NumericalError("targets: one fact has nobody to change its target with")
    order = sorted(range(count), key=lambda i: requests[i].case_id)
    python_rng("shuffled targets", seed, requests[order[0]].case_id).shuffle(order)
    giver = torch.empty(count, dtype=torch.long)
    giver[order] = torch.tensor([*order[1:], order[0]])
    return dataclasses.replace(targets, z=targets.base + targets.delta[:, giver])


def _contradicted(request: EditRequest, batch: Sequence[EditRequest]) -> EditRequest:
    """The same subject and relation with another object: one asked for elsewhere in the batch, else the old one."""
    same = [r for r in batch if r.relation_id == request.relation_id] + list(batch)
    others = [r.target_new for r in same if r.target_new not in (request.target_new, request.target_true)]
    other = others[0] if others else request.target_true
    return dataclasses.replace(request, case_id=f"{request.case_id}-contradicted", target_new=other)


def _about(request: EditRequest, subject: str) -> EditRequest:
    """The same new object, for another subject."""
    return dataclasses.replace(request, case_id=f"{request.case_id}-misplaced", subject=subject)


def _reworded(request: EditRequest) -> EditRequest:
    """The same fact asked for in the words of its first paraphrase that names the subject."""
    prompts = (unfill(prompt, request.subject) for prompt in request.paraphrase_prompts)
    prompt = next((p for p in prompts if p is not None), request.prompt)
    return dataclasses.replace(request, case_id=f"{request.case_id}-reworded", prompt=prompt)


def stressed_batches(count: int, fraction: float, seed: int, facts: Sequence[EditRequest] = ()) -> dict[int, Stress]:
    """Which of ``count`` batches are harmful and how: ``round(fraction * count)`` of them, kinds in turn from one that
    depends on the seed.

    The first batch is spared: there is nothing to lose yet.

    Args:
        facts: of other subjects, for kinds that need them.
    """
    chosen = python_rng("stress", seed, count).sample(range(1, count), min(round(fraction * count), max(0, count - 1)))
    turn = len(chosen) * seed
    return {b: Stress(KINDS[(turn + i) % len(KINDS)], seed * 100_003 + b, tuple(facts)) for i, b in enumerate(chosen)}
