"""A vision transformer as the study sees it: classification token, blocks, features, head, whatever version laid it out.

A model is saved and loaded by ``save_pretrained`` and ``from_pretrained`` alone. Its blocks return a tensor or a tuple, its
parts have other names in earlier versions of transformers: :class:`~editlab.networks.architectures.Architecture` knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editlab.config.images import ScratchViT
from editlab.errors import ModelError, one_line
from editlab.networks.architectures import Architecture
from editlab.networks.loading import check_finite, check_model_directory
from editlab.randomness import derive_seed

CLS = 0
"""Position of the classification token."""


class Classifier:
    """A ViT image classifier.

    Attributes:
        model: the transformers model; edits change it in place.
        architecture: its modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.architecture = Architecture(model)
        config: Any = model.config
        self.image_size = _whole(config.image_size, "image_size")
        self.patch_size = _whole(config.patch_size, "patch_size")
        if self.image_size % self.patch_size:
            raise ModelError(f"image_size: {self.image_size} is not a multiple of patch_size {self.patch_size}")
        self.width = int(config.hidden_size)
        self.heads = int(config.num_attention_heads)
        self.classes = int(config.num_labels)
        # How its images were normalised from [0, 1]; where it does not say, [-1, 1] as the ViT paper does.
        self.mean: list[float] = list(getattr(config, "image_mean", None) or [0.5] * 3)
        self.deviation: list[float] = list(getattr(config, "image_std", None) or [0.5] * 3)

    @property
    def num_layers(self) -> int:
        return self.architecture.num_layers

    @property
    def device(self) -> torch.device:
        return self.architecture.device

    def to(self, device: str | torch.device) -> Classifier:
        """Move the model, in place.

        Raises:
            ModelError: there is no such device.
        """
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ModelError(f"device: {str(device)!r} is not allowed here; torch finds no GPU")
        try:
            self.model.to(device)
        except RuntimeError as error:
            raise ModelError(f"device: {str(device)!r} cannot be used ({one_line(error)})") from None
        return self

    def embed(self, pixels: Tensor) -> Tensor:
        """Images (n, 3, size, size) -> hidden states before the first block (n, 1 + patches, d), CLS first."""
        return self.architecture.embeddings(pixels)

    def patch_embeddings(self, pixels: Tensor) -> Tensor:
        """Output of the patch projection (n, patches, d), before positions are added."""
        return self.architecture.patches(pixels)

    def through(self, hidden: Tensor, first: int = 0, stop: int | None = None) -> Tensor:
        """Run blocks ``first`` .. ``stop - 1`` (default: to the last) on hidden states (n, length, d)."""
        for layer in range(first, self.num_layers if stop is None else stop):
            hidden = Architecture.hidden(self.architecture.block(layer)(hidden))
        return hidden

    def features(self, hidden: Tensor) -> Tensor:
        """Final norm of the CLS state: (n, length, d) -> (n, d), what the head sees."""
        return self.architecture.final_norm(hidden[:, CLS])

    def logits(self, hidden: Tensor) -> Tensor:
        """Outputs of the last block (n, length, d) -> (n, classes)."""
        return self.architecture.head(self.features(hidden))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Images -> logits (n, classes)."""
        return self.logits(self.through(self.embed(pixels)))


def _whole(size: Any, name: str) -> int:
    """A size that older configurations give as one number and others as a pair."""
    values = list(size) if isinstance(size, list | tuple) else [size]
    if not all(isinstance(v, int) and v > 0 for v in values) or len(set(values)) > 1:
        raise ModelError(f"{name}: {size} is not allowed; a square of whole pixels")
    return int(values[0])


def make_classifier(section: ScratchViT, classes: Sequence[str], seed: int) -> Classifier:
    """A ViT with random weights that depend on the seed alone."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=section.image_size,
        patch_size=section.patch,
        hidden_size=section.width,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        intermediate_size=section.inner,
        **_labels(classes),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("vit", seed))
        return Classifier(ViTForImageClassification(config))


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """A classifier that was saved by ``save_pretrained``.

    Raises:
        ModelError: not a directory with safetensors weights of a ViT classifier, NaN weights, or no such device.
    """
    return _load(path).to(device)


def adapt_pretrained(directory: str | Path, classes: Sequence[str], seed: int) -> Classifier:
    """A pretrained ViT whose head is made anew for ``classes``, from the seed; nothing else may be.

    Raises:
        ModelError: it cannot be loaded, or weights other than the head's are missing and would be random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("vit", seed))
        classifier = _load(directory, new_head=True, **_labels(classes))
    for key, value in _normalisation(Path(directory)).items():
        setattr(classifier.model.config, key, value)
    return Classifier(classifier.model)


def _load(path: str | Path, *, new_head: bool = False, **options: Any) -> Classifier:
    from transformers import ViTForImageClassification
    from transformers.utils import logging as transformers_logging

    check_model_directory(Path(path))
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        found: Any = ViTForImageClassification.from_pretrained(
            str(path),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=new_head,
            **options,
        )
        model, told = found
    except Exception as error:
        raise ModelError(f"{path}: cannot be loaded as a ViT classifier ({one_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    head = f"{Architecture(model).family.classifier}."
    random = {*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"])}
    wrong = sorted(name for name in random if not (new_head and name.startswith(head)))
    if wrong:
        raise ModelError(f"{path}: {wrong[0]} is missing or of another shape, and would be random")
    check_finite(model, str(path))
    if new_head and not any(name.startswith(head) for name in random):
        Architecture(model).head.reset_parameters()  # type: ignore[operator]
    return Classifier(model)


def _labels(classes: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: k for k, name in enumerate(classes)}}


def _normalisation(directory: Path) -> dict[str, list[float]]:
    """``image_mean`` and ``image_std`` of a pretrained model's image processor, where its directory holds one.

    Raises:
        ModelError: the file is damaged.
    """
    file = directory / "preprocessor_config.json"
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found = {key: [float(v) for v in values[key]] for key in ("image_mean", "image_std") if key in values}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{file}: cannot be read ({one_line(error)})") from None
    if any(len(value) != 3 for value in found.values()) or min(found.get("image_std", [1.0])) <= 0:
        raise ModelError(f"{file}: image_mean and image_std must be three numbers each, the latter positive")
    return found
