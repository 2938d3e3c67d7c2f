"""Keys of images that must not change: inputs of the MLP output projections, at CLS and at other positions.

They are collected once a classifier, for the largest number of samples that any edit asks for; an edit with fewer takes the
first ones. What is derived from them (spectrum, second moment) is kept in the object that a job hands around.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from editlab.algebra.null_space import Spectrum, spectrum
from editlab.algebra.second_moment import SecondMoment
from editlab.data.images import Array
from editlab.errors import ArtifactError, DataError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.moments.collection import mix_keys
from editlab.networks.hooks import capture
from editlab.networks.vision import CLS, Classifier, load_classifier
from editlab.randomness import set_threads, torch_rng
from editlab.vision.pixels import ImageSet, batch_size, read_set
from editlab.vision.samples import right_rows

PathLike = str | Path

PLACES = 16
"""Positions of each image, drawn by seed, that stand for all of them."""


@dataclass(eq=False)
class KeyStatistics:
    """Preserved keys by layer.

    Attributes:
        rows: (n,) positions in FT-Train, in the order in which samples are added; then those that are held out.
        samples: n, how many of ``rows`` have keys.
        cls: {layer: (n, d_in)} keys at CLS.
        places: {layer: (n, places, d_in)} keys at drawn positions.
    """

    rows: Tensor
    samples: int
    cls: Mapping[int, Tensor]
    places: Mapping[int, Tensor]
    _spectra: dict[tuple[int, int, str], Spectrum] = field(default_factory=dict)
    _moments: dict[tuple[int, int, str], SecondMoment] = field(default_factory=dict)

    def used(self, samples: int) -> int:
        """How many samples an edit that asks for ``samples`` gets."""
        return min(samples, self.samples)

    def keys(self, layer: int, samples: int, positions: str) -> Tensor:
        """(d_in, columns) with ``C = K K^T``, of the first ``samples`` images."""
        if layer not in self.cls:
            raise DataError(f"key statistics: layer {layer} is missing; there are {sorted(self.cls)}")
        count = self.used(samples)
        cls, places = self.cls[layer][:count].T, self.places[layer][:count].flatten(0, 1).T
        return mix_keys({"cls": [cls], "all": [places], "mixed": [cls, places]}[positions])

    def spectrum(self, layer: int, samples: int, positions: str) -> Spectrum:
        """Eigenvalues and eigenvectors of the keys; computed once."""
        key = (layer, self.used(samples), positions)
        if key not in self._spectra:
            self._spectra[key] = spectrum(self.keys(*key))
        return self._spectra[key]

    def moment(self, layer: int, samples: int, positions: str) -> SecondMoment:
        """C (d_in, d_in) as MEMIT takes it; computed once."""
        key = (layer, self.used(samples), positions)
        if key not in self._moments:
            keys = self.keys(*key)
            self._moments[key] = SecondMoment(keys @ keys.T, keys.shape[1])
        return self._moments[key]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        tensors = {"rows": self.rows}
        for layer in self.cls:
            tensors[f"{layer}.cls"], tensors[f"{layer}.places"] = self.cls[layer], self.places[layer]
        save_tensors(path, tensors, {"samples": self.samples})

    @classmethod
    def load(cls, path: str | Path) -> KeyStatistics:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: missing, damaged or another kind of file.
        """
        tensors, metadata = load_tensors(path)
        try:
            layers = sorted({int(name.split(".")[0]) for name in tensors if name != "rows"})
            at_cls = {layer: tensors[f"{layer}.cls"] for layer in layers}
            places = {layer: tensors[f"{layer}.places"] for layer in layers}
            return cls(tensors["rows"], int(metadata["samples"]), at_cls, places)
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: not a file of key statistics ({error})") from None


def collect_keys(
    classifier: Classifier, ft_train: ImageSet, rows: Array, layers: Sequence[int], samples: int, seed: int
) -> KeyStatistics:
    """Keys of the first ``samples`` of ``rows`` (those that the classifier gets right), one pass for all layers.

    Raises:
        DataError: the classifier gets no FT-Train image right.
    """
    layers = classifier.architecture.check_layers(layers)
    chosen = rows[:samples]
    if not len(chosen):
        raise DataError("key statistics: the classifier gets no FT-Train image right")
    tokens = 1 + (classifier.image_size // classifier.patch_size) ** 2
    order = torch.rand(len(chosen), tokens, generator=torch_rng("key positions", seed)).argsort(-1)[:, :PLACES]
    cls: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    places: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    modules = {layer: classifier.architecture.projection(layer) for layer in layers}
    size = batch_size(classifier)
    for start in range(0, len(chosen), size):
        picked = order[start : start + size]
        pixels = ft_train.tensor(classifier, chosen[start : start + size])
        with torch.no_grad(), capture(inputs=modules) as found:
            classifier.through(classifier.embed(pixels))
        for layer in layers:
            keys = found.pop(layer).float().cpu()
            cls[layer].append(keys[:, CLS].clone())
            places[layer].append(keys.gather(1, picked[..., None].expand(-1, -1, keys.shape[-1])))
    return KeyStatistics(
        torch.as_tensor(rows.copy()),
        len(chosen),
        {layer: torch.cat(parts) for layer, parts in cls.items()},
        {layer: torch.cat(parts) for layer, parts in places.items()},
    )


def keys_stage(
    model: PathLike,
    ft_train: PathLike,
    layers: Sequence[int] | None,
    samples: int,
    seed: int,
    target: PathLike,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Collect the preserved keys of ``layers`` (None: of all)."""
    set_threads(threads)
    classifier, images = load_classifier(model, device), read_set(ft_train)
    rows = right_rows(classifier, images, seed)
    chosen = range(classifier.num_layers) if layers is None else layers
    collect_keys(classifier, images, rows, list(chosen), samples, seed).save(target)
