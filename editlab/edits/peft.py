"""An edit as a PEFT adapter: two files that ``peft.PeftModel.from_pretrained`` loads on the unedited model.

The factors of an edit *are* a LoRA: ``left`` is B (d_out, r), ``right`` is A (r, d_in), with alpha = r, so that PEFT's
scale alpha / r is 1. Writing needs no PEFT; names and shapes are those of ``LoraConfig`` and its state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from editlab.algebra.linalg import Factors
from editlab.errors import ConfigError
from editlab.files.artifacts import save_tensors, write_json
from editlab.networks.architectures import Architecture


def peft_target(architecture: Architecture, layers: Sequence[int]) -> dict[str, Any]:
    """What an adapter must know of its model, JSON-serialisable: module names by layer, orientation, base model."""
    return {
        "modules": {str(layer): architecture.projection_name(layer) for layer in layers},
        "fan_in_fan_out": any(architecture.is_transposed(layer) for layer in layers),
        "base_model": getattr(architecture.model.config, "_name_or_path", "") or None,
    }


def write_peft(
    factors: Mapping[int, Factors],
    directory: str | Path,
    target: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        factors: by layer, the update. Layers of less rank than the largest are named in ``rank_pattern``.
        target: see :func:`peft_target`.

    Raises:
        ConfigError: the edit changes nothing, so there is no adapter to write.
        ArtifactError: the files cannot be written.
    """
    layers = {target["modules"][str(layer)]: f for layer, f in sorted(factors.items()) if f.rank}
    if not layers:
        raise ConfigError("to_peft: the edit changes no weight; there is no adapter to write")
    tensors = {}
    for name, update in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = update.right.to(dtype)
        tensors[f"base_model.model.{name}.lora_B.weight"] = update.left.to(dtype)
    directory = Path(directory)
    save_tensors(directory / "adapter_model.safetensors", tensors)
    write_json(directory / "adapter_config.json", _config({k: f.rank for k, f in layers.items()}, target))


def _config(ranks: Mapping[str, int], target: Mapping[str, Any]) -> dict[str, Any]:
    rank = max(ranks.values())
    others = {name: r for name, r in ranks.items() if r < rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": target["base_model"],
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(ranks),
        "fan_in_fan_out": target["fan_in_fan_out"],
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
