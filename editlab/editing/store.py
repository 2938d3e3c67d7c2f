"""Where a session keeps what its maps have gained: as solved (raw), as low-rank adapters, or as a memory beside them.

Both stores answer one question: given a batch's raw update of a layer, what does the map gain? The session adds that
*effective change* to the weight, so raw and LoRA edits share every other line of code. Nothing in a store is changed
in place: a snapshot is a few references, and taking a batch back is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.low_rank import LoraStore, factors_in
from editlab.algebra.problem import Problem
from editlab.config.recipe import Recipe


class Store(Protocol):
    """What the session asks of a store; see :class:`RawStore`, :class:`editlab.algebra.low_rank.LoraStore` and
    :class:`editlab.editing.gated_memory.MemoryStore`."""

    def add(
        self, layer: int, update: Any, problem: Problem | None = None, *, whole: bool = False
    ) -> tuple[Any, dict[str, Any]]: ...

    def remember(self, layer: int, keys: Tensor) -> None: ...

    def total(self, layer: int) -> Factors | None: ...

    def snapshot(self) -> Any: ...

    def restore(self, state: Any) -> None: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


class RawStore:
    """The sum of the updates: factors while their rank is small, one dense matrix after that, so memory stays flat."""

    def __init__(self) -> None:
        self.totals: dict[int, Factors] = {}

    def add(
        self, layer: int, update: Factors, problem: Problem | None = None, *, whole: bool = False
    ) -> tuple[Factors, dict[str, Any]]:
        """Take the update as it is: the effective change is the update itself."""
        added = update.to(device="cpu")
        old = self.totals.get(layer)
        if old is not None and old.rank + added.rank <= min(added.shape):
            self.totals[layer] = old + added
        elif old is not None:
            self.totals[layer] = Factors.from_dense(old.dense() + added.dense())
        else:
            self.totals[layer] = added
        return update, {}

    def remember(self, layer: int, keys: Tensor) -> None:
        """Nothing to remember: no later cut depends on earlier keys."""

    def total(self, layer: int) -> Factors | None:
        """Everything the layer gained; None when it was never edited."""
        return self.totals.get(layer)

    def snapshot(self) -> Any:
        """The state now."""
        return dict(self.totals)

    def restore(self, state: Any) -> None:
        """Back to a :meth:`snapshot`."""
        self.totals = dict(state)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to save."""
        return {f"raw.{k}.{side}": getattr(f, side) for k, f in self.totals.items() for side in ("left", "right")}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The state from :meth:`tensors`."""
        self.totals = factors_in(tensors, "raw")


def make_store(recipe: Recipe, rank: int) -> Store:
    """The store of a recipe."""
    return LoraStore(rank, recipe, recipe.penalty()) if recipe.backend == "lora" else RawStore()
