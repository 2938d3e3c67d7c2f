"""Edited maps in float32 inside of a model in half precision, and what half precision would lose of an edit.

bfloat16 has eight bits: a change of a thousandth of a weight disappears in rounding for four entries out of five. While a
model is edited, its edited maps are therefore float32, five of 58 million numbers in Llama 3; everything else
stays as it was loaded. Their inputs are cast up and their outputs down, so the blocks around them notice nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editlab.networks.architectures import Architecture

HALF = (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def edited_in_float32(architecture: Architecture, layers: Sequence[int]) -> Iterator[dict[int, torch.dtype]]:
    """For the length of the block, edited maps of half precision are float32; leaving it puts the old parameters back.

    Yields:
        by layer, the type of its map where that is half precision.
    """
    kept: list[tuple[nn.Module, dict[str, Any]]] = []
    handles: list[Any] = []
    types: dict[int, torch.dtype] = {}
    try:
        for layer in layers:
            module = architecture.projection(layer)
            dtype: torch.dtype = module.weight.dtype  # type: ignore[assignment]
            if dtype not in HALF:
                continue
            types[layer] = dtype
            kept.append((module, dict(module._parameters)))
            for name, parameter in kept[-1][1].items():
                if parameter is not None:
                    raised = nn.Parameter(parameter.detach().float(), requires_grad=parameter.requires_grad)
                    module._parameters[name] = raised
            handles += [module.register_forward_pre_hook(_up), module.register_forward_hook(_Down(dtype))]
        yield types
    finally:
        for handle in handles:
            handle.remove()
        for module, parameters in kept:
            module._parameters.update(parameters)


def _up(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)


class _Down:
    """Casts the output of a map to the type of the blocks around it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        return output.to(self.dtype)


@contextlib.contextmanager
def float32_products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """For the length of the block, float32 products on a GPU are of TF32 (10 bits of mantissa) where that is asked for."""
    if not (tf32 and device.type == "cuda"):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def energy_lost(before: Tensor, after: Tensor, dtype: torch.dtype) -> float:
    """Share of ``|after - before|^2`` that is gone when the edited weight is stored in ``dtype``; 0 without a change.

    Args:
        before: (d_out, d_in) as it was loaded. after: the edited weight, in float32 or float64.
    """
    change = (after - before).square().sum(dtype=torch.float64)
    lost = (after.to(dtype).to(after.dtype) - after).square().sum(dtype=torch.float64)
    return float(lost / change) if float(change) > 0 else 0.0


def rounding_losses(
    before: Mapping[int, Tensor], after: Mapping[int, Tensor], types: Mapping[int, torch.dtype]
) -> dict[int, float]:
    """:func:`energy_lost` of the layers whose type is half precision."""
    return {layer: energy_lost(before[layer], after[layer], dtype) for layer, dtype in types.items()}
