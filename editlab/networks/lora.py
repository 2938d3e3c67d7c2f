"""LoRA as a function: many adapters of one frozen model run side by side, and gradients flow to whatever made them.

A batch of C adapters and C x m sequences goes through the model once: rows ``c m .. (c + 1) m - 1`` belong to adapter c, whose
map computes ``y = W x + dW_c x``. The adapters are arguments, never parameters of the model, so they may come from
training (a pool of teachers, eight at once) or from a generator of adapters. Leaving the block removes every hook.

On disk an adapter is what PEFT reads: ``adapter_config.json`` and ``adapter_model.safetensors``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editlab.errors import ArtifactError, ConfigError, ModelError
from editlab.files.artifacts import load_tensors, save_tensors, write_json
from editlab.networks.architectures import Architecture

Factored = Mapping[str, tuple[Tensor, Tensor]]
"""By module name: B (C, d_out, r), the scale folded in, and A (C, r, d_in)."""
Dense = Mapping[str, Tensor]
"""By module name: dW (C, d_out, d_in)."""
_PREFIX = "base_model.model."


def map_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of every linear map inside the blocks."""
    shapes = {}
    for name, module in Architecture(model).linear_maps().items():
        rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
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
            _check_shape(name, change, shapes)
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
        # (C m, T, in) -> (C, m T, in): the rows of an adapter are one matrix.
        inner = args[0].reshape(count, -1, args[0].shape[-1])
        for matrix in parts:
            inner = inner @ matrix.transpose(1, 2)
        return output + inner.reshape(output.shape)

    return hook


def _check_shape(name: str, change: Tensor | tuple[Tensor, Tensor], shapes: Mapping[str, tuple[int, int]]) -> None:
    if name not in shapes:
        raise ModelError(f"adapter: the model has no linear map {name}; it was made for another base")
    found = change.shape[1:] if isinstance(change, Tensor) else (change[0].shape[1], change[1].shape[2])
    if tuple(found) != shapes[name]:
        raise ModelError(f"adapter: {name} is {tuple(found)}; the model's map is {shapes[name]}: another base")


def write_adapter(directory: str | Path, factors: Factored, model: nn.Module, **made: Any) -> None:
    """Write one adapter, B (d_out, r) and A (r, d_in) by module name, so that plain PEFT loads it with scale 1.

    Modules of less rank than the largest are named in ``rank_pattern``; those of rank 0 are left out.

    Args:
        model: the base: names the modules, and tells how it stores its maps.
        made: what the adapter's ``source.json`` says about how it was made.

    Raises:
        ConfigError: it changes nothing, so there is no adapter to write.
        ModelError: it belongs to another base.
    """
    shapes = map_shapes(model)
    kept = {name: pair for name, pair in factors.items() if pair[1].shape[0]}
    if not kept:
        raise ConfigError(f"{directory}: the adapter changes no map; there is nothing to write")
    tensors, ranks = {}, {}
    for name, (left, right) in kept.items():
        _check_shape(name, (left[None], right[None]), shapes)
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = right.detach().float()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = left.detach().float()
        ranks[name] = right.shape[0]
    directory = Path(directory)
    save_tensors(directory / "adapter_model.safetensors", tensors)
    write_json(directory / "adapter_config.json", lora_config(ranks, model))
    if made:
        write_json(directory / "source.json", made)


def lora_config(ranks: Mapping[str, int], model: nn.Module) -> dict[str, Any]:
    """PEFT's ``LoraConfig`` for modules of these ranks with alpha = r, as it stands in ``adapter_config.json``."""
    rank = max(ranks.values())
    others = {name: r for name, r in ranks.items() if r < rank}
    maps = Architecture(model).linear_maps()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": getattr(model.config, "_name_or_path", "") or None,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(ranks),
        "fan_in_fan_out": not all(isinstance(maps[name], nn.Linear) for name in ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def read_adapter(directory: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A LoRA as PEFT saved it: by module name B (d_out, r), its scale ``alpha / r`` folded in, and A (r, d_in), float32.

    Raises:
        ArtifactError: files are missing or damaged, or it is no plain LoRA (DoRA, other kinds, embeddings).
    """
    directory = Path(directory)
    try:
        config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        kind, rank, alpha = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{directory}/adapter_config.json: not a readable adapter ({type(error).__name__})"
        ) from None
    if kind != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise ArtifactError(f"{directory}: {kind} with bias, DoRA or another form is not allowed; a plain LoRA")
    tensors, _ = load_tensors(directory / "adapter_model.safetensors")
    names = sorted({key.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for key in tensors})
    found = {}
    for name in names:
        pair = [tensors.get(f"{_PREFIX}{name}.lora_{side}.weight") for side in "BA"]
        if pair[0] is None or pair[1] is None or pair[0].shape[1] != pair[1].shape[0]:
            raise ArtifactError(f"{directory}: {name} has no matching pair of factors")
        own_rank = config.get("rank_pattern", {}).get(name, rank)
        own_alpha = float(config.get("alpha_pattern", {}).get(name, alpha))
        scale = own_alpha / (own_rank**0.5 if config.get("use_rslora") else own_rank)
        found[name] = (pair[0].float() * scale, pair[1].float())
    if not found or not all(bool(t.isfinite().all()) for pair in found.values() for t in pair):
        raise ArtifactError(f"{directory}: the adapter is empty or holds NaN or infinite values")
    return found


def stacked(adapters: list[Mapping[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Adapters of equal maps and ranks along a new first axis, as :func:`adapted` takes them."""
    return {
        name: (torch.stack([a[name][0] for a in adapters]), torch.stack([a[name][1] for a in adapters]))
        for name in adapters[0]
    }
