"""What a batch asks of the maps, and an update of them that may still be taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Problem
from editlab.data.requests import EditRequest
from editlab.networks.memory import Memory


class Change(Protocol):
    """What a map gains: :class:`Factors` added to its weight, or a :class:`Memory` read beside it."""

    def apply(self, keys: Tensor) -> Tensor: ...

    def norm(self) -> float: ...

    def scaled(self, scale: float) -> Self: ...

    def to(self, *, device: torch.device | str) -> Self: ...


def both(one: Change, other: Change) -> Change:
    """Two changes of one map, one after the other."""
    if isinstance(one, Memory) and isinstance(other, Memory):
        return one + other
    assert isinstance(one, Factors)
    assert isinstance(other, Factors)
    return one + other


@dataclasses.dataclass(frozen=True)
class Columns:
    """The facts of one solve: new ones first, then replayed ones.

    Attributes:
        z: (d_out, n) targets; None for fine-tuning, which has none.
        weights: (n,), or None: all one.
        losses: of the targets of the new facts, the last one.
    """

    requests: list[EditRequest]
    z: Tensor | None
    weights: Tensor | None
    new: int
    losses: list[float]

    @classmethod
    def none(cls) -> Columns:
        """No facts: for changes that are not solved for any."""
        return cls([], None, None, 0, [])

    def subset(self, index: Sequence[int]) -> Columns:
        """The chosen facts, in their order."""
        if len(index) == len(self.requests):
            return self
        at = torch.tensor(list(index), dtype=torch.long)
        new = [i for i in index if i < self.new]
        return Columns(
            [self.requests[i] for i in index],
            None if self.z is None else self.z[:, at],
            None if self.weights is None else self.weights[at],
            len(new),
            [self.losses[i] for i in new],
        )


@dataclasses.dataclass
class Proposal:
    """An update that is on the model and may still be taken back.

    Attributes:
        columns: the facts it was solved for.
        problems: by layer, what was asked of the map.
        change: by layer, what the map gained.
    """

    columns: Columns
    problems: dict[int, Problem] = dataclasses.field(default_factory=dict)
    change: dict[int, Change] = dataclasses.field(default_factory=dict)

    def gained(self, layer: int, change: Change) -> None:
        """Count a further effective change of a layer."""
        self.change[layer] = both(self.change[layer], change) if layer in self.change else change
