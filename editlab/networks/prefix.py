"""Run a prompt once, then only what follows it, many times.

In a causal model nothing before a changed position changes. One full pass (:func:`run_prompts`) keeps the keys and
values of every layer; later passes feed only the following tokens through the blocks, which read the kept keys and
values through :class:`FrozenPrefix` and a mask that hides padding. The scorer (several targets after one prompt) stands
on this; the target optimisation needs more (:mod:`editlab.networks.suffix`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture
from editlab.networks.tokenization import pad


@dataclasses.dataclass(frozen=True)
class PromptStates:
    """What one pass over right-padded prompts left behind.

    Attributes:
        lengths: ``(rows,)`` number of real tokens.
        last_hidden: ``(rows, length, d)`` after the final norm.
        captured: outputs of the blocks asked for, by layer, ``(rows, length, d)``.
        keys, values: by layer ``(rows, heads, length, head size)``.
    """

    lengths: Tensor
    last_hidden: Tensor
    captured: dict[int, Tensor]
    keys: dict[int, Tensor]
    values: dict[int, Tensor]


def run_prompts(
    architecture: Architecture,
    rows: Sequence[Sequence[int]],
    pad_id: int,
    *,
    capture_blocks: Iterable[int] = (),
    cache_from: int | None = 0,
) -> PromptStates:
    """One full pass; keys and values are kept from layer ``cache_from`` up (None: not at all)."""
    ids, mask = pad(rows, pad_id, architecture.device)
    wanted = {layer: architecture.block(layer) for layer in capture_blocks}
    with torch.no_grad(), capture(outputs=wanted) as captured:
        output = architecture.model.base_model(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, use_cache=cache_from is not None
        )
    keys: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    if cache_from is not None:
        for layer in range(cache_from, architecture.num_layers):
            keys[layer] = output.past_key_values.layers[layer].keys
            values[layer] = output.past_key_values.layers[layer].values
    return PromptStates(mask.sum(1), output.last_hidden_state, dict(captured), keys, values)


class FrozenPrefix:
    """A read-only key/value cache: every layer attends to the kept prefix and to the tokens of this pass."""

    def __init__(self, keys: dict[int, Tensor], values: dict[int, Tensor]) -> None:
        self.keys = keys
        self.values = values

    @classmethod
    def of(cls, states: PromptStates, rows: Tensor, length: int, first: int = 0) -> FrozenPrefix:
        """The first ``length`` positions of the chosen prompt rows, from layer ``first`` up."""
        layers = [layer for layer in states.keys if layer >= first]
        return cls(
            {layer: states.keys[layer][rows, :, :length] for layer in layers},
            {layer: states.values[layer][rows, :, :length] for layer in layers},
        )

    def update(self, keys: Tensor, values: Tensor, layer: int, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Called by a block: prefix and new keys and values joined along the positions; nothing is stored."""
        return torch.cat([self.keys[layer], keys], 2), torch.cat([self.values[layer], values], 2)


def suffix_mask(prefix_lengths: Tensor, prefix_width: int, suffix_width: int, dtype: torch.dtype) -> Tensor:
    """Additive mask ``(rows, 1, suffix, prefix + suffix)``: the real prefix, then causally the suffix.

    Padding at the end of a suffix needs no mask: nothing real comes after it.
    """
    device = prefix_lengths.device
    visible_prefix = torch.arange(prefix_width, device=device)[None, :] < prefix_lengths[:, None]
    causal = torch.ones(suffix_width, suffix_width, dtype=torch.bool, device=device).tril()
    rows = prefix_lengths.shape[0]
    visible = torch.cat(
        [visible_prefix[:, None, :].expand(rows, suffix_width, prefix_width), causal.expand(rows, -1, -1)], dim=2
    )
    mask = torch.zeros(visible.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
