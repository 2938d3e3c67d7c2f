"""A second device for machines that have none: ``from second_device import DEVICE, on_second_device``.

Tensors on it compute on the CPU, bit for bit as the CPU does, but call themselves ``lazy:0`` and refuse, as a GPU
does, to meet a tensor of the CPU in one operation. What a GPU allows is allowed: copies, scalars (tensors without
dimensions), and an index that is on the CPU. So a path that forgets where a tensor lives fails in the tests too.

``pytest --second-device`` puts the models of the whole suite there: those that tests make (``placed``), and those that the
library loads. Tests of the algebra have no model: there the tensors that the test makes are on it. Tests then hold what they
get against references on the CPU, which is theirs to do: a mixture is refused where the library asks for it, and carried out
where a test does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy:0")
TESTS = Path(__file__).parent
LIBRARY = TESTS.parent / "editlab"
_ATEN = torch.ops.aten
_COPIES = {_ATEN.copy_.default, _ATEN._to_copy.default, _ATEN._copy_from.default, _ATEN._copy_from_and_resize.default}
_INDEXED = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default}


class OnSecondDevice(Tensor):
    """A tensor of the second device; ``inner`` holds its numbers on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"second device: {self.inner!r}"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        if Everywhere.on and _asked_by_a_test():
            return self.inner.numpy()
        raise TypeError("can't convert a tensor of the second device to numpy: copy it to the CPU first")

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return OnSecondDevice(self.inner.detach())

    @data.setter
    def data(self, value: Any) -> None:  # torch itself would exchange the shell alone
        self.inner = value.inner

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_indices(index), value)

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> Any:  # type: ignore[override]
        return torch.as_tensor(data, dtype=dtype or self.dtype).to(DEVICE)

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def storage(self) -> Any:
        return self.inner.storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    kwargs = dict(kwargs)
    _refuse_mixture(op, args, kwargs)
    asked = kwargs.get("device")
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    plain_args, plain_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
    result = op(*plain_args, **plain_kwargs)
    if op in (_ATEN.copy_.default, _ATEN._copy_from.default) or op._schema.is_mutable:
        written = _written(op, args, kwargs)
        if written is not None:
            return written
    if asked is not None and torch.device(asked).type == "cpu":
        return result
    return tree_map(lambda value: OnSecondDevice(value) if isinstance(value, Tensor) else value, result)


def _indices(index: Any) -> Any:
    """Lists of numbers as tensors of the CPU: torch itself would make them on a device that it cannot reach."""
    if isinstance(index, tuple):
        return tuple(map(_indices, index))
    if not isinstance(index, list | range):
        return index
    return torch.tensor(list(index)) if len(index) else torch.zeros(0, dtype=torch.long)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnSecondDevice) else value


def _written(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation in place gives back: the tensors that it wrote to."""
    named = dict(zip([a.name for a in op._schema.arguments], args, strict=False)) | kwargs
    out = [
        named[a.name]
        for a in op._schema.arguments
        if a.alias_info is not None and a.alias_info.is_write and a.name in named
    ]
    return None if not out or not op._schema.returns else (out[0] if len(out) == 1 else tuple(out))


def _refuse_mixture(op: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if op in _COPIES:
        return
    looked_at = (args[0], *args[2:]) if op in _INDEXED else args
    tensors = [v for v in tree_flatten((looked_at, kwargs))[0] if isinstance(v, Tensor)]
    here = [t for t in tensors if isinstance(t, OnSecondDevice)]
    there = [t for t in tensors if not isinstance(t, OnSecondDevice) and t.ndim > 0]
    index_from_there = op in _INDEXED and not here
    if ((here and there) or index_from_there) and not (Everywhere.on and _asked_by_a_test()):
        shapes = [f"{tuple(t.shape)} on {t.device}" for t in tensors]
        raise RuntimeError(f"expected all tensors to be on the same device: {op} of {', '.join(shapes)}")


class Everywhere:
    """Whether the whole suite runs on the second device (``on``), and whether tensors that a test makes are there (``made``)."""

    on = False
    made = False


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Inside the block the suite runs on the CPU all the same."""
    before, Everywhere.on = Everywhere.on, False
    yield
    Everywhere.on = before


def placed(model: Any) -> Any:
    """The model where the suite runs: as it is, or in place on the second device."""
    return on_second_device(model) if Everywhere.on else model


def _asked_by_a_test() -> bool:
    """Whether the innermost caller that is of this repository is a test, not the library."""
    frame = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if LIBRARY in file.parents:
            return False
        if TESTS in file.parents and file.name != "second_device.py":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class Reachable(TorchFunctionMode):
    """Inside the block functions that make tensors and set their size in a second step work with ``device=DEVICE`` too."""

    makers = (torch.tensor, torch.eye, torch.arange, torch.linspace)
    others = (torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.logspace, torch.from_numpy)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if function in self.makers and device is not None:
            return function(*args, **{**kwargs, "device": None}).to(device)
        found = function(*args, **kwargs)
        made = Everywhere.made and device is None and function in self.makers + self.others and _asked_by_a_test()
        return found.to(DEVICE).requires_grad_(found.requires_grad) if made else found


_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "Lazy")


def on_second_device(model: Any) -> Any:
    """The model with its parameters and buffers on the second device, in place."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                moved = nn.Parameter(parameter.detach().to(DEVICE), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model
