"""A memory on a model: a forward hook on an edited map that adds what the memory says to the map's output.

*Where it is read.* A memory with keys of prompts is read once a prompt, at its last token: the residual stands there, later
tokens attend to it, and nothing is looked up while an answer is written or scored. The end of a prompt is the last token
that the attention mask does not call padding (without a mask the last column), unless :func:`prompts_ending` names another
one, of each pass through the whole model but two kinds: one token behind others in a cache (an answer that is being written)
and a pass with an attention mask of its own making. A memory that is read *everywhere* (keys of subjects) is read at
every token of every pass, padding left out.

One hook a map holds all that was put there, so that memories nest, replace and take one another back exactly. Tokens at
which nothing fires keep their outputs bit for bit, and so does the whole model while the memory is empty.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editlab.errors import ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.memory import Memory


class Lookup:
    """The hook of one map.

    Attributes:
        ends: of the prompts of a pass, where a caller knows better than the attention mask.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._mask: Tensor | None = None
        self._asks = False
        self.ends: Tensor | None = None

    @property
    def memory(self) -> Memory:
        """What is read now."""
        return self._memory

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self._memory = memory.to(device=self._memory.keys.device)

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        memory, inputs = self._memory.live, args[0]
        if not memory.size:
            return None
        if memory.everywhere:
            real = self._real(inputs.shape[:-1])
            if real is None:
                return _answered(memory, inputs, output)
            return output.index_put((real,), _answered(memory, inputs[real], output[real]))
        ends = self._prompt_ends(inputs)
        if ends is None:
            return None
        at = (torch.arange(len(ends), device=ends.device), ends)
        return output.index_put(at, _answered(memory, inputs[at], output[at]))

    def _real(self, shape: torch.Size) -> Tensor | None:
        """Which of the tokens of this pass are no padding; None: all."""
        if self._mask is None or len(shape) != 2 or len(self._mask) != shape[0] or self._mask.shape[1] < shape[1]:
            return None
        return self._mask[:, -shape[1] :].bool().to(self._memory.keys.device)

    def _prompt_ends(self, inputs: Tensor) -> Tensor | None:
        """Column of the last token of the prompt of each row; None where this pass has none."""
        if inputs.ndim != 3 or not self._asks:
            return None
        rows, length = inputs.shape[:2]
        if self.ends is not None:
            return self.ends.to(inputs.device)
        real = self._real(inputs.shape[:2])
        if real is None:
            return torch.full((rows,), length - 1, device=inputs.device)
        return length - 1 - real.to(inputs.device).flip(1).int().argmax(1)

    def before(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Look at a pass through the whole model as it begins."""
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        given = [x for x in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if isinstance(x, Tensor)]
        writes = _continues(kwargs.get("past_key_values")) and bool(given) and given[0].shape[1] == 1
        self._asks = not writes and (mask is None or self._mask is not None)

    def after(self, *_: Any) -> None:
        """Forget the pass; blocks may be run without the model around them."""
        self._mask, self._asks = None, False


def _continues(cache: Any) -> bool:
    """Whether something stands before the tokens of a pass."""
    length = getattr(cache, "get_seq_length", None)
    return cache is not None and (length is None or length() > 0)


def _answered(memory: Memory, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Outputs ``(..., d_out)`` with the residual of the nearest entry where its gate is passed."""
    found = memory.read(inputs)
    precise = torch.promote_types(outputs.dtype, torch.float32)
    changed = (outputs.to(precise) + memory.residuals[found.index]).to(outputs.dtype)
    return torch.where(found.fires[..., None], changed, outputs)


def lookups_on(architecture: Architecture) -> list[Lookup]:
    """The hooks of all its maps."""
    maps = [architecture.projection(layer) for layer in range(architecture.num_layers)]
    return [hook for module in maps for hook in module._forward_hooks.values() if isinstance(hook, Lookup)]


@contextlib.contextmanager
def prompts_ending(architecture: Architecture, ends: Sequence[int]) -> Iterator[None]:
    """For passes over prompts with their answers behind them: the columns ``(rows,)`` of the prompts' last tokens."""
    lookups = lookups_on(architecture)
    for lookup in lookups:
        lookup.ends = torch.tensor(list(ends))
    try:
        yield
    finally:
        for lookup in lookups:
            lookup.ends = None


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
