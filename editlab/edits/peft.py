"""An edit as a PEFT adapter: two files that ``peft.PeftModel.from_pretrained`` loads on the unedited model.

The factors of an edit *are* a LoRA: ``left`` is B (d_out, r), ``right`` is A (r, d_in), with alpha = r, so that PEFT's
scale alpha / r is 1. Writing needs no PEFT; names and shapes are those of ``LoraConfig`` and its state dict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from editlab.algebra.linalg import Factors
from editlab.errors import ArtifactError, ConfigError
from editlab.files.artifacts import load_tensors, save_tensors, write_json
from editlab.networks.architectures import Architecture
from editlab.networks.lora import check_map, map_shapes

_PREFIX = "base_model.model."


def peft_target(architecture: Architecture, layers: Sequence[int]) -> dict[str, Any]:
    """What an adapter must know of its model, JSON-serialisable: module names by layer, orientation, base model."""
    return {
        "modules": {str(layer): architecture.projection_name(layer) for layer in layers},
        "fan_in_fan_out": any(architecture.is_transposed(layer) for layer in layers),
        "base_model": getattr(architecture.model.config, "_name_or_path", "") or None,
        "task_type": None if architecture.family.classifier else "CAUSAL_LM",
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
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = update.right.to(dtype)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = update.left.to(dtype)
    directory = Path(directory)
    save_tensors(directory / "adapter_model.safetensors", tensors)
    write_json(directory / "adapter_config.json", _config({k: f.rank for k, f in layers.items()}, target))


def _config(ranks: Mapping[str, int], target: Mapping[str, Any]) -> dict[str, Any]:
    rank = max(ranks.values())
    others = {name: r for name, r in ranks.items() if r < rank}
    return {
        "peft_type": "LORA",
        "task_type": target.get("task_type", "CAUSAL_LM"),
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


def write_adapter(factors: Mapping[str, Factors], directory: str | Path, model: nn.Module) -> None:
    """Write updates of any linear maps, by module name, as :func:`write_peft` does.

    Raises:
        ConfigError: they change nothing.
        ModelError: they belong to another base.
    """
    architecture, shapes = Architecture(model), map_shapes(model)
    for name, update in factors.items():
        check_map(name, update.shape, shapes)
    maps = architecture.linear_maps()
    target = {
        "modules": {str(place): name for place, name in enumerate(factors)},
        "fan_in_fan_out": not all(isinstance(maps[name], nn.Linear) for name in factors),
        "base_model": getattr(model.config, "_name_or_path", "") or None,
    }
    write_peft(dict(enumerate(factors.values())), directory, target)


def read_adapter(directory: str | Path) -> dict[str, Factors]:
    """A LoRA as PEFT saved it: updates by module name, the scale ``alpha / r`` folded in, float32.

    Raises:
        ArtifactError: files are missing or damaged, or it is no plain LoRA (DoRA, biases, other kinds).
    """
    directory = Path(directory)
    try:
        config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        kind, rank, alpha = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = directory / "adapter_config.json"
        raise ArtifactError(f"{where}: not a readable adapter ({type(error).__name__})") from None
    if kind != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise ArtifactError(f"{directory}: only a plain LoRA is allowed; found {kind}, DoRA or biases")
    tensors, _ = load_tensors(directory / "adapter_model.safetensors")
    found = {}
    for name in sorted({key.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for key in tensors}):
        left, right = (tensors.get(f"{_PREFIX}{name}.lora_{side}.weight") for side in "BA")
        if left is None or right is None or left.shape[1] != right.shape[0]:
            raise ArtifactError(f"{directory}: {name} has no matching pair of factors")
        own = (config.get("rank_pattern") or {}).get(name, rank)
        scale = float((config.get("alpha_pattern") or {}).get(name, alpha))
        found[name] = Factors(left.float() * (scale / (own**0.5 if config.get("use_rslora") else own)), right.float())
    if not found or not all(bool(f.left.isfinite().all() and f.right.isfinite().all()) for f in found.values()):
        raise ArtifactError(f"{directory}: the adapter is empty or holds NaN or infinite values")
    return found
