"""LoRA as a function: many adapters of one frozen model run side by side, and gradients flow to whatever made them.

A batch of C adapters and C x m sequences goes through the model once: rows ``c m .. (c + 1) m - 1`` belong to adapter c, whose
map computes ``y = W x + dW_c x``. The adapters are arguments, never parameters of the model, so they may come from
training (a pool of teachers, eight at once) or from a generator of adapters. Leaving the block gives every map back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editlab.errors import ModelError
from editlab.networks.architectures import Architecture

Factored = Mapping[str, tuple[Tensor, Tensor]]
"""By module name: B (C, d_out, r), the scale folded in, and A (C, r, d_in)."""
Dense = Mapping[str, Tensor]
"""By module name: dW (C, d_out, d_in)."""


def map_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of every linear map inside the blocks."""
    shapes = {}
    for name, module in Architecture(model).linear_maps().items():
        weight: Any = module.weight
        rows, columns = weight.shape
        shapes[name] = (rows, columns) if isinstance(module, nn.Linear) else (columns, rows)
    return shapes


@contextlib.contextmanager
def adapted(model: nn.Module, adapters: Factored | Dense) -> Iterator[nn.Module]:
    """Inside the block the model computes with C adapters, each on its own share of the rows.

    Args:
        adapters: see :data:`Factored` and :data:`Dense`; modules that are not named keep their maps.

    Raises:
        ModelError: a module is not in the model, or an adapter has another shape than its map.
    """
    maps, shapes = Architecture(model).linear_maps(), map_shapes(model)
    with contextlib.ExitStack() as undo:
        for name, change in adapters.items():
            check_map(name, _shape(change), shapes)
            undo.enter_context(_computing(maps[name], _changed(maps[name], change)))
        yield model


@contextlib.contextmanager
def _computing(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block the map computes something else; a hook would come after it had computed its own."""
    own = vars(module).get("forward")  # where a library has put one in place of the class's
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _changed(module: Any, change: Tensor | tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    """The map with C changes, each on its own share of the rows, in the changes' own type.

    ``(W + dW_c) x`` is one product where ``W x + B_c (A_c x)`` is three. Products that are given are added to W; those of factors
    are made where that saves time and memory: without gradients, and no larger than what flows through them (in a large
    model they would not fit).
    """
    plain, parts = module.forward, ((change,) if isinstance(change, Tensor) else change[::-1])  # A first, then B
    (d_out, d_in), count = _shape(change), len(parts[0])
    kept: list[Tensor] = []

    def summed(rows: Tensor) -> Tensor | None:
        """The C sums, if they are to be used; without gradients they are made once."""
        fits = count * d_out * d_in <= rows.shape[0] * rows.shape[1] * (d_in + d_out)
        wanted = len(parts) == 1 or (not torch.is_grad_enabled() and (kept or fits))
        if not wanted or module.weight.dtype != parts[0].dtype:
            return None
        if kept and not torch.is_grad_enabled():
            return kept[0]
        kept[:] = [_summed(module, parts)]
        return kept[0]

    def forward(states: Tensor) -> Tensor:
        if states.shape[0] % count:
            raise ModelError(f"{states.shape[0]} rows cannot be shared out among {count} adapters")
        rows = states.reshape(count, -1, d_in)  # (C m, T, in) -> (C, m T, in): the rows of an adapter are one matrix
        weight = summed(rows)
        if weight is not None:
            product = rows @ weight.transpose(1, 2)
            product = product if module.bias is None else product + module.bias
            return product.reshape(*states.shape[:-1], d_out)
        output, inner = plain(states), rows.to(parts[0].dtype)
        for matrix in parts:
            inner = inner @ matrix.transpose(1, 2).to(inner.device)
        return output + inner.reshape(output.shape).to(output.dtype)

    return forward


def _summed(module: Any, parts: Sequence[Tensor]) -> Tensor:
    """W + dW_c (C, d_out, d_in) of a map and its changes, given as ``(dW,)`` or ``(A, B)``."""
    weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
    update = parts[0] if len(parts) == 1 else parts[1] @ parts[0]
    return weight + update.to(weight.device)


def _shape(change: Tensor | tuple[Tensor, Tensor]) -> tuple[int, int]:
    left, right = (change, change) if isinstance(change, Tensor) else change
    return left.shape[1], right.shape[2]


def check_map(name: str, shape: tuple[int, int], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise :class:`ModelError` unless the model has a map of this name and shape (:func:`map_shapes`)."""
    if name not in shapes:
        raise ModelError(f"adapter: the model has no linear map {name}; it was made for another base")
    if shape != shapes[name]:
        raise ModelError(f"adapter: {name} is {shape}; the model's map is {shapes[name]}: another base")


def stacked(adapters: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Adapters of equal maps and ranks along a new first axis, as :func:`adapted` takes them."""
    return {
        name: (torch.stack([a[name][0] for a in adapters]), torch.stack([a[name][1] for a in adapters]))
        for name in adapters[0]
    }
