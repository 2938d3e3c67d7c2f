"""From stored images to what a classifier takes: three channels, its size and normalisation; states kept between edits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.data.images import DESCRIPTION, Images, read_images
from editlab.errors import ArtifactError, one_line
from editlab.networks.vision import Classifier

BATCH = 256
"""Images a forward pass; fewer where they are large (:func:`batch_size`)."""

KEPT = 64 << 20
"""Values of hidden states that are kept in memory for a set; above, they are computed anew."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One set of the protocol, ready for a classifier.

    Attributes:
        images: what is stored.
        low, high: pixel values that stand for black and white.
        classes: names.
        ordinal: the classes have an order.
    """

    images: Images
    low: float
    high: float
    classes: list[str]
    ordinal: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(np.array(self.images.labels))

    def rows(self, chosen: Any) -> ImageSet:
        """The images at these positions."""
        return ImageSet(self.images.rows(np.asarray(chosen)), self.low, self.high, self.classes, self.ordinal)

    def tensor(self, classifier: Classifier, rows: Any = slice(None)) -> Tensor:
        """(n, 3, size, size) on the classifier's device, normalised as the classifier wants it."""
        pixels = torch.from_numpy(np.array(self.images.pixels[rows], dtype=np.float32)).movedim(-1, 1)
        pixels = (pixels - self.low) / (self.high - self.low)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        size = classifier.image_size
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (classifier.mean, classifier.deviation))
        return ((pixels - mean) / deviation).contiguous().to(classifier.device)


def read_set(table: str | Path) -> ImageSet:
    """A set of the protocol by its ``NAME.csv``.

    Raises:
        ArtifactError: missing or damaged files.
    """
    file = Path(table).parent / DESCRIPTION
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        low, high = float(about["low"]), float(about["high"])
        classes, ordinal = [str(name) for name in about["classes"]], bool(about["ordinal"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: cannot be read ({one_line(error)})") from None
    return ImageSet(read_images(table), low, high, classes, ordinal)


def batch_size(classifier: Classifier) -> int:
    """Images a forward pass, so that hidden states stay near 64 MB."""
    tokens = 1 + (classifier.image_size // classifier.patch_size) ** 2
    return max(1, min(BATCH, (16 << 20) // (tokens * classifier.width * 16)))


@dataclass(eq=False)
class Prefix:
    """Hidden states of a set before a block: what is below the edited blocks is computed once for many edits."""

    classifier: Classifier
    images: ImageSet
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, layer: int) -> Iterator[Tensor]:
        """States before block ``layer``, (n, length, d) a batch."""
        size = batch_size(self.classifier)
        tokens = 1 + (self.classifier.image_size // self.classifier.patch_size) ** 2
        if len(self) * tokens * self.classifier.width > KEPT:
            yield from (self._states(slice(k, k + size), layer) for k in range(0, len(self), size))
            return
        if layer not in self._kept:
            parts = [self._states(slice(k, k + size), layer) for k in range(0, len(self), size)]
            self._kept[layer] = torch.cat(parts)
        yield from self._kept[layer].split(size)

    def _states(self, rows: slice, layer: int) -> Tensor:
        with torch.no_grad():
            hidden = self.classifier.embed(self.images.tensor(self.classifier, rows))
            return self.classifier.through(hidden, 0, layer)

    def logits(self, first: int = 0) -> Tensor:
        """(n, classes), where the blocks from ``first`` on (or the head alone) may have been edited since."""
        with torch.no_grad():
            parts = [self.classifier.logits(self.classifier.through(part, first)) for part in self.batches(first)]
        return torch.cat(parts).float().cpu()


def predictions(logits: Tensor) -> Tensor:
    """The class of each row (n,)."""
    return logits.argmax(-1)
