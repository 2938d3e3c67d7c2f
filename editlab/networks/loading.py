"""Load a causal language model with its tokenizer, from a local directory or a hub id, safetensors only.

The result is the ordinary transformers model; its tokenizer travels with it as ``model.tokenizer``.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editlab.errors import ModelError, one_line
from editlab.files.pointers import REMEDY, is_lfs_pointer
from editlab.networks.architectures import FAMILIES
from editlab.networks.tokenization import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

RANDOM = "random_weights.json"  # in the directory of a model whose weights are drawn when it is loaded: the seed
DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")


def load_model(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device_map: str | dict[str, Any] | None = None,
    offline: bool | None = None,
) -> PreTrainedModel:
    """Load ``AutoModelForCausalLM`` and its fast tokenizer, ready to edit (evaluation mode).

    Args:
        path_or_id: a Hugging Face directory, or a hub id such as ``openai-community/gpt2-xl``.
        revision: branch, tag or commit of a hub model.
        dtype: one of :data:`DTYPES`.
        device_map: as in transformers, but ``"auto"`` is the one GPU with the most free memory (the CPU where there is none):
            what is spread cannot be edited. None puts the model on the CPU.
        offline: never use the network (default: only when ``HF_HUB_OFFLINE`` is set or the path is a directory).

    Raises:
        ModelError: no such model, no safetensors weights, no fast tokenizer, an unsupported family, weights that are
            missing in the file or have another shape than the config says, NaN weights, a tokenizer with more tokens
            than the model has embeddings, or one whose prompts and targets cannot be told apart.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype: {dtype!r} is not allowed; one of {', '.join(DTYPES)}")
    device_map = fastest_device() if device_map == "auto" else device_map
    path = Path(path_or_id)
    is_local = path.is_dir()
    if is_local:
        check_model_directory(path)
    elif path.is_absolute() or str(path_or_id).startswith((".", "~")) or len(path.parts) > 2:
        raise ModelError(f"{path_or_id}: no such model directory")

    name, local_only = str(path_or_id), is_local if offline is None else offline or is_local
    offline_now = local_only or os.environ.get("HF_HUB_OFFLINE") == "1"
    where = {"revision": revision, "trust_remote_code": False, "local_files_only": offline_now}
    if is_local and (path / RANDOM).is_file():
        model = _draw_weights(path, dtype, device_map)
    else:
        model = _load_weights(name, where, dtype=dtype, device_map=device_map)
    check_placement(model, name)
    check_finite(model, name)
    tokenizer = load_tokenizer(path_or_id, revision=revision, offline=local_only)
    check_vocabulary(model, tokenizer, name)
    Encoder(tokenizer).check()
    model.tokenizer = tokenizer
    return model.eval()


def _load_weights(name: str, where: dict[str, Any], **options: Any) -> Any:
    """The model of a supported family with all its weights from the file."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of many lines becomes one line below
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, **where)
        check_family(config, name)
        check_unquantised(config, name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are an error below, which names them
            **where,
            **options,
        )
        model, info = loaded
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name}: cannot be loaded as a causal language model ({one_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    check_complete(info, name)
    return model


def _draw_weights(path: Path, dtype: str, device_map: str | dict[str, Any] | None) -> Any:
    """A model of a configuration with random weights, the same on every device of one kind."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    check_family(config, str(path))
    device = torch.device(device_map if isinstance(device_map, str) else "cpu")
    seed = int(json.loads((path / RANDOM).read_text(encoding="utf-8"))["seed"])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, "float32" if dtype == "auto" else dtype))


def fastest_device() -> str:
    """The GPU with the most free memory, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    return f"cuda:{free.index(max(free))}"


def check_family(config: Any, name: str) -> None:
    """Raise :class:`ModelError` when a model of this config is of no family of language models that can be edited."""
    supported = sorted(family for family in FAMILIES if FAMILIES[family].patches is None)
    if config.model_type not in supported:
        raise ModelError(
            f"{name}: model type {config.model_type!r} is not supported; supported: {', '.join(supported)}"
        )


def check_unquantised(config: Any, name: str) -> None:
    """Raise :class:`ModelError` when the weights of a model of this config are of 8 bits or fewer."""
    found = getattr(config, "quantization_config", None)
    if found:
        method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        kind = str(getattr(method, "value", method) or "unknown kind")
        raise ModelError(
            f"{name}: its weights are quantised ({kind}), which cannot be edited; load it in bfloat16, float16 or float32"
        )


def check_placement(model: Any, name: str = "model") -> None:
    """Raise :class:`ModelError` when a model is spread over devices, offloaded, or quantised: it is edited on one device."""
    check_unquantised(getattr(model, "config", None), name)
    places = sorted({str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()})
    if len(places) > 1 or places == ["disk"]:
        raise ModelError(
            f"{name}: it lies on {', '.join(places)}; editing needs one device: give device_map cuda:0, a smaller dtype, "
            "or a GPU that holds it"
        )


def check_complete(info: dict[str, Any], name: str) -> None:
    """Raise :class:`ModelError` when weights are missing in a file or have another shape; warn of those left over.

    Args:
        info: what transformers reports of loading; tied weights that stand in the file once are not missing.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} weights of the model are not in its file, it would work with random ones: {_few(missing)}"
        )
    shapes = sorted(info["mismatched_keys"])
    if shapes:
        known = [f"{key} is {tuple(found)}, config.json says {tuple(wanted)}" for key, found, wanted in shapes]
        raise ModelError(f"{name}: {len(shapes)} weights have another shape than the model's: {_few(known)}")
    if info["unexpected_keys"]:
        left = sorted(info["unexpected_keys"])
        logger.warning(
            "%s: %d weights of the file are not of this model and are left out: %s", name, len(left), _few(left)
        )


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise :class:`ModelError` when the tokenizer has tokens for which the model has no embedding."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > rows:
        raise ModelError(
            f"{name}: its tokenizer has {tokens} tokens, the model embeddings for {rows}; they do not belong together"
        )


def import_model_code(directory: str) -> None:
    """Import everything that :func:`load_model` needs for the model in ``directory``, without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory, trust_remote_code=False))
    load_tokenizer(directory, offline=True)


def load_tokenizer(
    path_or_id: str | Path, *, revision: str | None = None, offline: bool = False
) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model; padding uses the end-of-text token where it has no padding token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path_or_id), revision=revision, use_fast=True, trust_remote_code=False, local_files_only=offline
        )
    except Exception as error:
        raise ModelError(f"{path_or_id}: tokenizer cannot be loaded ({one_line(error)})") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{path_or_id}: the tokenizer must be a fast one (tokenizer.json): offsets are needed")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def check_model_directory(path: Path) -> None:
    """Raise :class:`ModelError` unless the directory holds a config and safetensors weights."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: not a model directory (config.json is missing)")
    if not any(path.glob("*.safetensors")) and not (path / RANDOM).is_file():
        raise ModelError(f"{path}: no *.safetensors weights; editlab does not load pickled weights")
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.json")]):
        if is_lfs_pointer(file):
            raise ModelError(f"{file}: {REMEDY}")


def check_finite(model: Any, name: str) -> None:
    """Raise :class:`ModelError` when a parameter holds NaN or infinity."""
    for parameter_name, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not bool(parameter.isfinite().all()):
            raise ModelError(f"{name}: parameter {parameter_name} holds NaN or infinite values")


def tokenizer_of(model: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that :func:`load_model` attached.

    Raises:
        ModelError: the model carries none; set ``model.tokenizer`` to its fast tokenizer.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ModelError("the model carries no tokenizer; use editlab.load_model or set model.tokenizer")
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError("model.tokenizer must be a fast tokenizer: offsets are needed")
    return tokenizer
