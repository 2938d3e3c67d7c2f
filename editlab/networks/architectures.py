"""The only place that knows module names: where each model family keeps its blocks, MLP output projection, norm and head.

An *edited map* is the MLP output projection of a block, ``y = W x`` with ``W (d_out, d_in)``. GPT-2 stores it as a
``Conv1D`` (transposed), the other families as ``nn.Linear``; :meth:`Architecture.weight` always shows ``(d_out, d_in)``.
In every family listed here the projection's output is *added* to the residual stream, so adding a vector to the MLP
output equals adding it to the block output: ROME's and MEMIT's targets differ only in the base vector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from editlab.errors import ModelError

_HAND_OVER = "editlab_hand_over"  # name under which transformers knows our way out of an attention module


@dataclasses.dataclass(frozen=True)
class Family:
    """Paths of one model family. Block paths are relative to the model, the others to a block unless noted."""

    blocks: str
    embeddings: str  # relative to the model
    final_norm: str  # relative to the model
    mlp: str
    attention: str
    attention_output: str  # relative to the attention
    projection: str
    cache_argument: str = "past_key_values"  # how a block names its key/value cache
    rotary: str | None = None  # relative to the model; gives the block's ``position_embeddings``
    classifier: str | None = None  # of an image classifier, relative to the model
    patches: str | None = None  # what makes patch embeddings of an image, relative to the model


_LLAMA = Family(
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    mlp="mlp",
    attention="self_attn",
    attention_output="o_proj",
    projection="mlp.down_proj",
    rotary="model.rotary_emb",
)
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        blocks="transformer.h",
        embeddings="transformer.wte",
        final_norm="transformer.ln_f",
        mlp="mlp",
        attention="attn",
        attention_output="c_proj",
        projection="mlp.c_proj",
    ),
    "gptj": Family(
        blocks="transformer.h",
        embeddings="transformer.wte",
        final_norm="transformer.ln_f",
        mlp="mlp",
        attention="attn",
        attention_output="out_proj",
        projection="mlp.fc_out",
        cache_argument="layer_past",
    ),
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        embeddings="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        mlp="mlp",
        attention="attention",
        attention_output="dense",
        projection="mlp.dense_4h_to_h",
        cache_argument="layer_past",
        rotary="gpt_neox.rotary_emb",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "vit": Family(
        blocks="vit.layers",
        embeddings="vit.embeddings",
        final_norm="vit.layernorm",
        mlp="mlp",
        attention="attention",
        attention_output="o_proj",
        projection="mlp.fc2",
        classifier="classifier",
        patches="vit.embeddings.patch_embeddings",
    ),
}
FORMER: dict[str, Family] = {
    "vit": Family(
        blocks="vit.encoder.layer",
        embeddings="vit.embeddings",
        final_norm="vit.layernorm",
        mlp="output",
        attention="attention",
        attention_output="output.dense",
        projection="output.dense",
        classifier="classifier",
        patches="vit.embeddings.patch_embeddings",
    ),
}
"""Where earlier versions of transformers kept the parts of a family; taken where :data:`FAMILIES` does not fit."""


class _Projected(Exception):
    """Carries queries, keys, values and the scale of the scores out of an attention module."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> None:
        self.parts = (query, key, value, scaling)


def _hand_over(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_mask: Any, scaling: float, **_: Any
) -> Any:
    raise _Projected(query, key, value, scaling)


class KeyValueCache(Protocol):
    """What a block asks of a cache: take the new keys and values of a layer, give back all that it may attend to."""

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]: ...


def _layout(model: nn.Module, model_type: str) -> Family:
    """The family as this version of transformers lays it out."""
    family = FAMILIES[model_type]
    try:
        model.get_submodule(family.blocks)
    except AttributeError:
        return FORMER.get(model_type, family)
    return family


class Architecture:
    """One model seen through its family: blocks, edited maps, norm, head.

    Raises:
        ModelError: the model's type is not one of :data:`FAMILIES`.
    """

    def __init__(self, model: nn.Module) -> None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if model_type not in FAMILIES:
            raise ModelError(f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
        self.model = model
        self.family = _layout(model, model_type)
        self.model_type = str(model_type)
        self.blocks: Sequence[nn.Module] = model.get_submodule(self.family.blocks)  # type: ignore[assignment]
        self._rotary = model.get_submodule(self.family.rotary) if self.family.rotary else None

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    @property
    def num_maps(self) -> int:
        """Maps that an edit may change: one a block, and of an image classifier its head's weight and bias after them."""
        return self.num_layers + (2 if self.family.classifier else 0)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def embeddings(self) -> nn.Module:
        return self.model.get_submodule(self.family.embeddings)

    @property
    def final_norm(self) -> nn.Module:
        return self.model.get_submodule(self.family.final_norm)

    @property
    def head(self) -> nn.Module:
        if self.family.classifier:
            return self.model.get_submodule(self.family.classifier)
        return self.model.get_output_embeddings()  # type: ignore[operator]

    @property
    def patches(self) -> nn.Module:
        """What makes patch embeddings of an image, before positions are added.

        Raises:
            ModelError: the model does not see images.
        """
        if self.family.patches is None:
            raise ModelError(f"model type {self.model_type!r} is not a vision transformer")
        return self.model.get_submodule(self.family.patches)

    def check_layers(self, layers: Sequence[int]) -> list[int]:
        """``layers`` sorted; :class:`ModelError` when one is out of range, repeated or none is given."""
        return self._distinct(layers, self.num_layers)

    def check_maps(self, maps: Sequence[int]) -> list[int]:
        """``maps`` sorted, as :meth:`check_layers` but with the head's (:attr:`num_maps`)."""
        return self._distinct(maps, self.num_maps)

    @staticmethod
    def _distinct(layers: Sequence[int], count: int) -> list[int]:
        ordered = sorted(layers)
        if not ordered or len(set(ordered)) < len(ordered) or ordered[0] < 0 or ordered[-1] >= count:
            raise ModelError(
                f"layers: {list(layers)} is not allowed; give one or more distinct layers of 0..{count - 1}"
            )
        return ordered

    def block(self, layer: int) -> nn.Module:
        return self.blocks[layer]

    def mlp(self, layer: int) -> nn.Module:
        return self.blocks[layer].get_submodule(self.family.mlp)

    def attention(self, layer: int) -> nn.Module:
        return self.blocks[layer].get_submodule(self.family.attention)

    def attention_output(self, layer: int) -> nn.Module:
        """The map from the features of all attention heads, side by side, to the attention's output."""
        return self.attention(layer).get_submodule(self.family.attention_output)

    def projection(self, layer: int) -> nn.Module:
        """The edited map of a layer: the MLP output projection."""
        return self.blocks[layer].get_submodule(self.family.projection)

    def projection_name(self, layer: int) -> str:
        """Full module name of the edited map, as PEFT's ``target_modules`` wants it.

        Raises:
            ModelError: it is the head's bias, which no adapter holds.
        """
        if layer > self.num_layers:
            raise ModelError("an edit of the head's bias cannot be stored as an adapter; save the edit itself")
        if layer == self.num_layers and self.family.classifier:
            return self.family.classifier
        return f"{self.family.blocks}.{layer}.{self.family.projection}"

    def linear_names(self, layers: Sequence[int]) -> list[str]:
        """Full names of every linear map in the blocks, attention and MLP, as PEFT's ``target_modules`` wants them."""
        found = []
        for layer in layers:
            for name, module in self.block(layer).named_modules():
                weight = getattr(module, "weight", None)
                if isinstance(weight, Tensor) and weight.ndim == 2:
                    found.append(f"{self.family.blocks}.{layer}.{name}")
        return found

    def linear_maps(self) -> dict[str, nn.Module]:
        """Every linear map inside the blocks, by its full module name, in the order of the model: what a LoRA may target."""
        return {
            f"{self.family.blocks}.{layer}.{name}": module
            for layer, block in enumerate(self.blocks)
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        }

    def is_transposed(self, layer: int) -> bool:
        """True when the projection stores ``(d_in, d_out)`` (GPT-2's Conv1D)."""
        return layer < self.num_layers and not isinstance(self.projection(layer), nn.Linear)

    def weight(self, layer: int) -> Tensor:
        """The edited map as a ``(d_out, d_in)`` view on the parameter: writing to it edits the model.

        Of an image classifier, ``num_layers`` is the head's weight ``(classes, d)`` and the next its bias ``(classes, 1)``.
        """
        if layer >= self.num_layers:
            weight, bias = self.head.weight.detach(), self.head.bias.detach()  # type: ignore[operator]
            return weight if layer == self.num_layers else bias[:, None]
        weight = self.projection(layer).weight.detach()  # type: ignore[operator]
        return weight.T if self.is_transposed(layer) else weight

    def weight_shape(self, layer: int) -> tuple[int, int]:
        d_out, d_in = self.weight(layer).shape
        return int(d_out), int(d_in)

    @staticmethod
    def hidden(output: Any) -> Tensor:
        """The hidden states of a block's output: newer versions of transformers return a tensor, older ones a tuple."""
        return output[0] if isinstance(output, tuple) else output

    @staticmethod
    def with_hidden(output: Any, hidden: Tensor) -> Any:
        """``output`` with its hidden states replaced, in the form in which it came."""
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head on block outputs ``(..., d)`` -> ``(..., vocabulary)``."""
        return self.head(self.final_norm(hidden))

    def run_blocks(
        self,
        hidden: Tensor,
        first: int,
        mask: Tensor,
        positions: Tensor,
        cache: KeyValueCache | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Run blocks ``first`` .. last on ``hidden (rows, length, d)``, or only those below ``stop``.

        Args:
            mask: additive attention mask ``(rows, 1, length, length seen through the cache)``.
            positions: absolute positions ``(rows, length)``.
            cache: supplies keys and values of positions that are not recomputed.
        """
        shared = self._arguments(hidden, mask, positions, cache)
        for layer in range(first, self.num_layers if stop is None else stop):
            hidden = self.hidden(self.block(layer)(hidden, **shared))
        return hidden

    def _arguments(
        self, hidden: Tensor, mask: Tensor | None, positions: Tensor, cache: KeyValueCache | None
    ) -> dict[str, Any]:
        """What a block is called with beside its inputs."""
        arguments: dict[str, Any] = {
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": cache is not None,
            self.family.cache_argument: cache,
        }
        if self._rotary is not None:
            arguments["position_embeddings"] = self._rotary(hidden, position_ids=positions)
        return arguments

    def project(self, layer: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """What the attention of a block starts from, position encoding included, and nothing more of the block. Inside
        :meth:`handing_over` alone.

        Args:
            hidden: inputs of the block ``(rows, length, d)``.
            positions: absolute positions ``(rows, length)``.

        Returns:
            Queries ``(rows, heads, length, size)``, keys and values (their heads may be fewer), scale of the scores.

        Raises:
            ModelError: the model's attention is not one that can be looked into (flash attention of GPT-J).
        """
        arguments = self._arguments(hidden, None, positions, None)
        try:
            self.block(layer)(hidden, **arguments)
        except _Projected as found:
            return found.parts
        raise ModelError(
            f"{self.model_type}: its attention cannot be looked into (outside handing_over, or flash attention of GPT-J)"
        )

    @contextlib.contextmanager
    def handing_over(self) -> Iterator[None]:
        """For the length of the block, attention ends where its scores would be computed: :meth:`project` needs it."""
        attentions = [self.attention(layer) for layer in range(self.num_layers)]
        if hasattr(attentions[0], "_attn"):  # GPT-J calls a method of its own
            for attention in attentions:
                scaling = 1.0 / float(attention.scale_attn)  # type: ignore[arg-type]
                attention.__dict__["_attn"] = functools.partial(_hand_over, attention, scaling=scaling)
            try:
                yield
            finally:
                for attention in attentions:
                    del attention.__dict__["_attn"]
        else:
            from transformers import AttentionInterface

            AttentionInterface.register(_HAND_OVER, _hand_over)
            config: Any = self.model.config
            before = config._attn_implementation
            config._attn_implementation = _HAND_OVER
            try:
                yield
            finally:
                config._attn_implementation = before

    def complete_block(self, layer: int, hidden: Tensor, heads: Tensor) -> Tensor:
        """The outputs of a block with inputs ``hidden (rows, length, d)`` whose attention heads give
        ``heads (rows, length, heads x size)``."""
        attention = self.attention(layer)
        output = self.attention_output(layer)(heads)
        attention.__dict__["forward"] = lambda *_, **__: (output, None)
        try:
            return self.hidden(self.block(layer)(hidden))
        finally:
            del attention.__dict__["forward"]
