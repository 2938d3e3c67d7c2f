"""What may move: all weights, the weights of some blocks, or a LoRA of any rank. The other axis of a method.

LoRA is peft's. It sits on every linear map of the chosen blocks, with ``lora_alpha = alpha r`` and no dropout. It is merged
in float32 before a checkpoint is saved, so that an attack meets an ordinary model; the adapter can be saved beside it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from editlab.errors import ConfigError
from editlab.files.artifacts import write_json
from editlab.networks.architectures import Architecture
from editlab.randomness import derive_seed


class Trainable:
    """A model with the parameters that move.

    Attributes:
        model: what is called; with LoRA peft's wrapper.
        parameters: by name in ``model``, those that move; they alone require gradients.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.model = model
        self.parameters = parameters
        self._start = {name: p.detach().clone() for name, p in parameters.items()}

    @contextlib.contextmanager
    def as_before(self) -> Iterator[nn.Module]:
        """The model as it was when training began, without gradients: a frozen reference that costs no second copy."""
        now = {name: p.data for name, p in self.parameters.items()}
        try:
            for name, p in self.parameters.items():
                p.data = self._start[name]
            with torch.no_grad():
                yield self.model
        finally:
            for name, p in self.parameters.items():
                p.data = now[name]

    @property
    def is_lora(self) -> bool:
        return hasattr(self.model, "peft_config")


def whole(model: Any) -> Trainable:
    """Every weight moves (tied ones once)."""
    return _select(model, {name for name, _ in model.named_parameters()})


def blocks_only(model: Any, blocks: list[int], maps: Literal["all", "mlp_output"] = "all") -> Trainable:
    """Everything in the blocks moves, or only their MLP output projections (what RMU trains)."""
    architecture = Architecture(model)
    kept = architecture.check_layers(blocks)
    if maps == "mlp_output":
        wanted = {id(p) for i in kept for p in [architecture.projection(i).weight]}
    else:
        wanted = {id(p) for i in kept for p in architecture.block(i).parameters()}
    return _select(model, {name for name, p in model.named_parameters() if id(p) in wanted})


def _select(model: Any, names: set[str]) -> Trainable:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return Trainable(model, {name: p for name, p in model.named_parameters() if name in names})


def lora(model: Any, rank: int, seed: int, *, alpha: float = 2.0, blocks: list[int] | None = None) -> Trainable:
    """A LoRA on every linear map of the blocks (default all); its first values depend on the seed alone.

    Raises:
        ConfigError: rank 0, which would be something else under the name of LoRA.
    """
    if rank < 1:
        raise ConfigError(f"rank: {rank} is not allowed; a LoRA has rank 1 or more")
    from peft import LoraConfig, get_peft_model

    architecture = Architecture(model)
    chosen = list(range(architecture.num_layers)) if blocks is None else architecture.check_layers(blocks)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha * rank,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=architecture.linear_names(chosen),
        fan_in_fan_out=architecture.is_transposed(0),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("lora", seed, rank))
        wrapped: Any = get_peft_model(model, config)
    wrapped.tokenizer = getattr(model, "tokenizer", None)
    return Trainable(wrapped, {n: p for n, p in wrapped.named_parameters() if p.requires_grad})


def plain(trainable: Trainable) -> Any:
    """The ordinary model: a LoRA is merged in float32 and gone. Weights keep their dtype."""
    model: Any = trainable.model
    if not trainable.is_lora:
        return model
    tokenizer = model.tokenizer
    dtypes = {p.dtype for p in model.base_model.model.parameters()}
    merged = model.float().merge_and_unload()
    low = dtypes - {torch.float32}
    merged = merged.to(low.pop()) if low else merged
    merged.tokenizer = tokenizer
    return merged


def save_model(model: Any, directory: str | Path) -> None:
    """Save model and tokenizer as a Hugging Face directory that :func:`editlab.networks.loading.load_model` reads."""
    model.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)


def save_checkpoint(trainable: Trainable, directory: Path) -> None:
    """Save the plain model; a LoRA also by itself under ``adapter/``, as peft reads it on top of the model before."""
    if trainable.is_lora:
        adapter = directory / "adapter"
        trainable.model.save_pretrained(adapter)  # type: ignore[operator]
        _ordered(adapter / "adapter_config.json")
    save_model(plain(trainable), directory)


def _ordered(path: Path) -> None:
    """The names of the adapted maps in order: peft holds them as a set, whose order differs from process to process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "target_modules": sorted(config["target_modules"])})
