"""The curvature of maps as files: one a layer, beside that of its second moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.curvature import Curvature
from editlab.algebra.second_moment import SecondMoment
from editlab.errors import ArtifactError, ConfigError, NumericalError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.moments.stored import by_layer, of_layer

_FACTORS = ("inputs", "gradients")
_PARTS = ("matrix", "eigenvalues", "eigenvectors")


def save_curvature(path: str | Path, layer: int, curvature: Curvature, *, device: torch.device | str = "cpu") -> None:
    """Write one layer's curvature with the eigen-decompositions of both factors, computed here on ``device``.

    Raises:
        NumericalError: a factor is not finite.
        ArtifactError: the file cannot be written.
    """
    moved = curvature.to(device)
    tensors: dict[str, Tensor] = {}
    for name in _FACTORS:
        moment: SecondMoment = getattr(moved, name)
        values = (moment.matrix, *moment.eigh())
        tensors |= {f"{name}.{part}": value.cpu() for part, value in zip(_PARTS, values, strict=True)}
    save_tensors(path, tensors, {"layer": int(layer), "count": int(curvature.count)})


def load_curvature(path: str | Path) -> tuple[int, Curvature]:
    """Read (layer, curvature) from a file of :func:`save_curvature`.

    Raises:
        ArtifactError: missing, truncated, not such a file, wrong shapes, or not finite.
    """
    tensors, metadata = load_tensors(path)
    try:
        layer, count = int(metadata["layer"]), int(metadata["count"])
        factors = [[tensors[f"{name}.{part}"] for part in _PARTS] for name in _FACTORS]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a file of curvature ({error} is missing or malformed)") from None
    moments = []
    for matrix, values, vectors in factors:
        size = matrix.shape[0] if matrix.ndim else 0
        shapes = [tuple(t.shape) for t in (matrix, values, vectors)]
        if size == 0 or shapes != [(size, size), (size,), (size, size)]:
            raise ArtifactError(f"{path}: tensors of shapes {shapes} do not belong together; delete it and rerun")
        if not all(bool(t.isfinite().all()) for t in (matrix, values, vectors)):
            raise ArtifactError(f"{path}: holds NaN or infinite values; delete it and rerun")
        moments.append(SecondMoment(matrix, count, eigenvalues=values, eigenvectors=vectors))
    try:
        return layer, Curvature(moments[0].validate(), moments[1].validate())
    except NumericalError as error:
        raise ArtifactError(f"{path}: {error}; delete it and rerun") from None


def resolve_curvature(
    statistics: Any, layers: Sequence[int], shapes: Mapping[int, tuple[int, int]]
) -> dict[int, Curvature]:
    """The curvature of ``layers`` from whatever a caller may hold.

    Args:
        statistics: a file, a directory of ``curvature-<n>.safetensors``, a list of files, or ``{layer: curvature or file}``.
        shapes: by layer, (d_out, d_in) of the map.

    Raises:
        ConfigError: a layer is missing, or something has the wrong type or shape.
        ArtifactError: a file is missing or damaged.
    """
    found = by_layer(
        statistics,
        layers,
        "curvature-{}.safetensors",
        load_curvature,
        _curvature,
        "a file of curvature, a directory or list of them, or {layer: curvature}",
        "the curvature of ",
    )
    for layer in layers:
        if found[layer].shape != shapes[layer]:
            raise ConfigError(
                f"statistics: the curvature of layer {layer} is of a map {found[layer].shape}; the model's is {shapes[layer]}"
            )
    return found


def _curvature(value: Any, layer: int) -> Curvature:
    if isinstance(value, str | Path):
        return of_layer(load_curvature, value, layer)
    if not isinstance(value, Curvature):
        raise ConfigError(
            f"statistics: layer {layer}: {type(value).__name__} is not allowed; give what collect_curvature returns, or a file"
        )
    return value
