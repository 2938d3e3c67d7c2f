"""Memory replay: facts edited earlier join later batches, so that new updates keep them.

A replayed fact is one more column of K and R. Its target is the stored one (what the layer should output for it); its key
and its residual are computed anew on the current model, so the column asks only for what has been lost since.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from editlab.data.requests import EditRequest
from editlab.randomness import python_rng


@dataclasses.dataclass
class ReplayItem:
    """One remembered fact.

    Attributes:
        request: the fact.
        target: ``(d_out,)`` its stored target vector, on the CPU; None for methods without targets.
        strength: how firmly it was put in; by strategy, the margin right after it was committed (log-probability of a token
            of the new object minus that of the old one), or minus the last loss of its target.
        inserted_at: batch in which it was edited.
        used_at: batch in which it was last replayed or edited.
    """

    request: EditRequest
    target: Tensor | None
    strength: float
    inserted_at: int
    used_at: int


class ReplayBuffer:
    """A bounded memory of edited facts; of two with the same (subject, relation) the newest wins.

    Args:
        capacity: facts kept at most.
        strategy: ``"random"``, or facts of low strength and old age first: ``"priority"`` by the margin after the commit,
            ``"target_loss"`` by the loss of the target, which costs no pass and is another order.
        eviction: ``"fifo"`` drops the oldest, ``"lru"`` the one longest unused.
        seed: of the random draws; a draw depends on the seed and the batch number alone.
    """

    def __init__(self, capacity: int, strategy: str = "random", eviction: str = "fifo", seed: int = 0) -> None:
        self.capacity = capacity
        self.strategy = strategy
        self.eviction = eviction
        self.seed = seed
        self.items: dict[tuple[str, str], ReplayItem] = {}

    def __len__(self) -> int:
        return len(self.items)

    def insert(
        self, requests: Sequence[EditRequest], targets: Tensor | None, strengths: Sequence[float], batch: int
    ) -> None:
        """Remember the facts of an accepted batch; ``targets (d_out, n)``."""
        for i, (request, strength) in enumerate(zip(requests, strengths, strict=True)):
            target = None if targets is None else targets[:, i].cpu().clone()
            self.items.pop(request.key, None)
            self.items[request.key] = ReplayItem(request, target, float(strength), batch, batch)
        while len(self.items) > self.capacity:
            age = (lambda item: item.used_at) if self.eviction == "lru" else (lambda item: item.inserted_at)
            del self.items[min(self.items, key=lambda key: age(self.items[key]))]

    def sample(self, rate: float, new: Sequence[EditRequest], batch: int) -> list[ReplayItem]:
        """``ceil(rate * len(new))`` remembered facts, as far as there are any, never facts of the batch itself."""
        blocked = {request.key for request in new}
        candidates = [item for key, item in self.items.items() if key not in blocked]
        count = min(math.ceil(rate * len(new) - 1e-9), len(candidates))
        if count == 0:
            return []
        if self.strategy != "random":
            importance = importances(candidates, batch)
            order = sorted(range(len(candidates)), key=lambda i: (-importance[i], i))
            chosen = [candidates[i] for i in order[:count]]
        else:
            chosen = python_rng("replay", self.seed, batch).sample(candidates, count)
        for item in chosen:
            item.used_at = batch
        return chosen


def importances(items: Collection[ReplayItem], batch: int) -> list[float]:
    """Importance in [0, 2]: the rank of a low strength plus the rank of time since the fact was last used, each in [0, 1]."""
    by_strength = _ranks([-item.strength for item in items])
    by_age = _ranks([batch - item.used_at for item in items])
    return [m + a for m, a in zip(by_strength, by_age, strict=True)]


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks scaled to [0, 1]; equal values share their mean rank."""
    if len(values) < 2:
        return [0.0] * len(values)
    from scipy.stats import rankdata

    return [(float(r) - 1) / (len(values) - 1) for r in rankdata(values)]


def stack_targets(items: Sequence[ReplayItem]) -> Tensor:
    """Stored targets side by side, ``(d_out, n)``."""
    return torch.stack([item.target for item in items if item.target is not None], dim=1)
