"""LoRA as a function: many adapters of one frozen model run side by side, and gradients flow to whatever made them.

A batch of C adapters and C x m sequences goes through the model once: rows ``c m .. (c + 1) m - 1`` belong to adapter c, whose
map computes ``y = W x + dW_c x``. The adapters are arguments, never parameters of the model, so they may come from
training (a pool of teachers, eight at once) or from a generator of adapters. Leaving the block removes every hook.
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
    handles = []
    try:
        for name, change in adapters.items():
            check_map(name, _shape(change), shapes)
            handles.append(maps[name].register_forward_hook(_adding(change)))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _adding(change: Tensor | tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        parts = (change,) if isinstance(change, Tensor) else change[::-1]  # A first, then B
        count = parts[0].shape[0]
        if output.shape[0] % count:
            raise ModelError(f"{output.shape[0]} rows cannot be shared out among {count} adapters")
        # (C m, T, in) -> (C, m T, in): the rows of an adapter are one matrix, computed in the adapter's own type.
        inner = args[0].reshape(count, -1, args[0].shape[-1]).to(parts[0].dtype)
        for matrix in parts:
            inner = inner @ matrix.transpose(1, 2).to(inner.device)
        return output + inner.reshape(output.shape).to(output.dtype)

    return hook


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
