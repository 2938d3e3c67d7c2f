"""A memory on a model: a forward hook on an edited map that adds what the memory says to the map's output.

One hook a map holds all that was put there, so that memories nest, replace and take one another back exactly. Tokens at
which nothing fires keep their outputs bit for bit, and so does the whole model while the memory is empty. Positions of
padding, which a model's attention mask names, never fire. With a key/value cache the same hook sees the new tokens alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from editlab.errors import ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.memory import Memory


class Lookup:
    """The hook of one map."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._mask: Tensor | None = None

    @property
    def memory(self) -> Memory:
        """What is read now."""
        return self._memory

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self._memory = memory.to(device=self._memory.keys.device)

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        memory = self._memory.live
        if not memory.size:
            return None
        found = memory.read(args[0])
        fires = found.fires if self._mask is None else found.fires & self._real(found.fires.shape)
        precise = torch.promote_types(output.dtype, torch.float32)
        changed = (output.to(precise) + memory.residuals[found.index]).to(output.dtype)
        return torch.where(fires[..., None], changed, output)

    def _real(self, shape: torch.Size) -> Tensor:
        """Which of the tokens of this pass are no padding."""
        assert self._mask is not None
        if len(shape) != 2 or self._mask.shape[0] != shape[0] or self._mask.shape[1] < shape[1]:
            return self._mask.new_ones(1, dtype=torch.bool)
        return self._mask[:, -shape[1] :].bool().to(self._memory.keys.device)

    def before(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        """Keep the attention mask of a pass."""
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def after(self, *_: Any) -> None:
        """Forget the mask; blocks may be run without the model around them."""
        self._mask = None


def attach(architecture: Architecture, layer: int) -> tuple[Lookup, Callable[[], None]]:
    """The hook of a map, put there if there is none, and what takes it off again (nothing, where it was there)."""
    module, base = architecture.projection(layer), architecture.model.base_model
    assert isinstance(base, nn.Module)
    for hook in module._forward_hooks.values():
        if isinstance(hook, Lookup):
            return hook, lambda: None
    lookup = Lookup(Memory.empty(*architecture.weight_shape(layer)).to(device=architecture.weight(layer).device))
    handles = [
        module.register_forward_hook(lookup),
        base.register_forward_pre_hook(lookup.before, with_kwargs=True),
        base.register_forward_hook(lookup.after, always_call=True),
    ]

    def detach() -> None:
        for handle in handles:
            handle.remove()

    return lookup, detach


@contextlib.contextmanager
def remembering(architecture: Architecture, memories: Mapping[int, Memory]) -> Iterator[None]:
    """The model with these memories added, by layer; on leaving, also by an exception, with those that it had.

    Raises:
        ModelError: a memory was made for a map of another shape.
    """
    check_shapes(architecture, memories)
    with contextlib.ExitStack() as stack:
        for layer, memory in memories.items():
            lookup, detach = attach(architecture, layer)
            stack.callback(detach)
            stack.callback(setattr, lookup, "memory", lookup.memory)
            lookup.memory = lookup.memory + memory
        yield


def check_shapes(architecture: Architecture, memories: Mapping[int, Memory]) -> None:
    """Raise :class:`ModelError` unless the model has maps of these shapes."""
    if memories:
        architecture.check_layers(list(memories))
    for layer, memory in memories.items():
        if memory.shape != architecture.weight_shape(layer):
            raise ModelError(
                f"memory of layer {layer} has shape {memory.shape}; the model's map has {architecture.weight_shape(layer)}"
            )
