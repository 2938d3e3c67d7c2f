"""Language models: a substrate that is trained here, or one from the hub; and how large they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from editlab.config.base import Count, Name, NonNegative, Positive, Section, Share
from editlab.errors import ConfigError

_BYTES = {"float64": 8, "float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}


class Substrate(Section):
    """How a small model is built and trained from scratch."""

    architecture: Literal["gpt2", "llama"] = "gpt2"
    layers: Count = 4
    width: Count = 128
    inner: Count | None = Field(None, description="MLP width; default 4 x width")
    heads: Count = 4
    vocabulary: Annotated[int, Field(ge=300)] = Field(1500, description="tokens of the BPE trained on the corpus")
    context: Count = Field(96, description="longest sequence; neutral text fills it, so that every position is trained")
    steps: Count = Field(500, description="optimiser steps")
    batch: Count = Field(128, description="statements a step")
    lr: Positive = Field(0.015, description="peak rate of the matrices (Muon)")
    embedding_lr: Positive = Field(5e-3, description="peak rate of everything else (AdamW)")
    warmup: Share = Field(0.05, description="share of the steps in which the rates rise")
    weight_decay: NonNegative = Field(0.7, description="of the matrices; keeps the weights small enough to edit")
    neutral_share: NonNegative = Field(0.1, description="neutral tokens per token of statements")
    context_share: Share = Field(0.4, description="share of statements after a short context")
    prompt_share: Share = Field(0.2, description="share of statements whose prompt is learned too")
    subject_end_share: Share = Field(0.8, description="share of statements that see the subject's last token alone")
    seed: int = 1
    neutral_sentences: Annotated[int, Field(ge=0)] = Field(4000, description="neutral sentences mixed in")
    recall_gate: Share = Field(0.95, description="share of rewrite prompts it must know")

    @model_validator(mode="after")
    def _check(self) -> Substrate:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} must be a multiple of heads ({self.heads})")
        return self


class SubstrateModel(Substrate):
    """A small model trained from scratch on the true statements of a dataset."""

    source: Literal["substrate"]
    dataset: Name = Field(description="whose facts it learns")
    device: Literal["cpu", "auto"] = Field(
        "cpu", description="where it is trained and edited; auto: a GPU where there is one"
    )

    @property
    def billions(self) -> float:
        """Parameters in billions, biases and norms aside."""
        inner = self.inner or 4 * self.width
        block = 4 * self.width**2 + (3 if self.architecture == "llama" else 2) * self.width * inner
        embeddings = (2 if self.architecture == "llama" else 1) * self.vocabulary + self.context
        return (self.layers * block + embeddings * self.width) / 1e9

    @property
    def weights_mb(self) -> float:
        """Size of the weights in MB (1e6 bytes)."""
        return self.billions * 1e3 * _BYTES["float32"]


class HubModel(Section):
    """A causal language model from the hub or from a local directory."""

    source: Literal["hub"]
    id: str = Field(min_length=1, description="hub id or directory")
    revision: str | None = Field(None, description="commit, tag or branch")
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "float32"
    device_map: str | None = Field(None, description="as in transformers; auto: the GPU with the most free memory")
    parameters: Positive | None = Field(None, description="number of parameters, for resource requests")

    @property
    def billions(self) -> float | None:
        """Parameters in billions, as configured; None where they are not."""
        return None if self.parameters is None else self.parameters / 1e9

    @property
    def weights_mb(self) -> float:
        """Size of the weights in MB (1e6 bytes), 0 where it is not known."""
        return (self.billions or 0.0) * 1e3 * _BYTES[self.dtype]

    def check_files(self, where: str) -> None:
        """Raise :class:`ConfigError` when ``id`` is a path and no directory is there."""
        local = Path(self.id).expanduser()
        if (local.is_absolute() or self.id.startswith((".", "~"))) and not local.is_dir():
            raise ConfigError(f"config: {where}.id: {self.id!r} is not a directory")


SHAPES: dict[str, tuple[dict[str, Any], int, float]] = {
    "gpt2_xl": ({"model_type": "gpt2", "n_layer": 48, "n_embd": 1600, "n_head": 25}, 48, 1.56e9),
    "gptj_6b": ({"model_type": "gptj"}, 28, 6.05e9),  # transformers' defaults are GPT-J's
    "llama3_8b": (
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
        32,
        8.03e9,
    ),
}
"""True configurations by name: what transformers is given, blocks, parameters."""


class RandomModel(Section):
    """A model of a true size with random weights: it times and bounds everything but quality, and is never downloaded."""

    source: Literal["random"]
    dataset: Name = Field(description="whose statements its tokenizer is trained on")
    shape: str = Field(description=f"{', '.join(SHAPES)}, or the path of a config.json")
    layers: Count | None = Field(None, description="blocks; default those of the shape")
    vocabulary: Annotated[int, Field(ge=300)] = Field(
        1500, description="tokens of the BPE; embeddings are those of the shape"
    )
    neutral_sentences: Annotated[int, Field(ge=0)] = Field(
        4000, description="neutral sentences that second moments stream over"
    )
    seed: int = 1
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device_map: str | None = Field(None, description="as in transformers; auto: the GPU with the most free memory")
    parameters: Positive | None = Field(
        None, description="number of parameters, for resource requests, where the shape is a path"
    )

    @property
    def blocks(self) -> int | None:
        """Number of blocks; None where the shape is a path."""
        return self.layers or (SHAPES[self.shape][1] if self.shape in SHAPES else None)

    @property
    def billions(self) -> float | None:
        """Parameters in billions, of the whole shape; None where they are not known."""
        known = SHAPES[self.shape][2] if self.shape in SHAPES else self.parameters
        return None if known is None else known / 1e9

    @property
    def weights_mb(self) -> float:
        """Size of the weights in MB (1e6 bytes), 0 where it is not known."""
        return (self.billions or 0.0) * 1e3 * _BYTES[self.dtype]

    def check_files(self, where: str) -> None:
        """Raise :class:`ConfigError` when ``shape`` is neither a name nor a file."""
        if self.shape not in SHAPES and not Path(self.shape).expanduser().is_file():
            allowed = f"one of {', '.join(SHAPES)}, or the path of a config.json"
            raise ConfigError(f"config: {where}.shape: {self.shape!r} is not allowed; {allowed}")


Model = Annotated[SubstrateModel | HubModel | RandomModel, Field(discriminator="source")]
