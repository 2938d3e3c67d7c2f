"""What tensors hold at once, counted by allocation: ``with Peak() as peak: ...; peak.bytes``."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Peak(TorchDispatchMode):
    """The most bytes that storages made inside the block had together, gradients and everything of a moment included."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {v.untyped_storage().data_ptr() for v in tree_flatten((args, kwargs))[0] if isinstance(v, Tensor)}
        found = op(*args, **(kwargs or {}))
        for value in tree_flatten(found)[0]:
            if isinstance(value, Tensor):
                self._note(value, given)
        return found

    def _note(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not size or place in self._alive or place in given:
            return
        self._alive[place] = size
        self.now += size
        self.bytes = max(self.bytes, self.now)
        weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self.now -= self._alive.pop(place)
