"""Second moments as files: written with their factors, read back, or taken from the MEMIT code's statistics."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from editlab.algebra.second_moment import SecondMoment
from editlab.errors import ArtifactError, ConfigError, NumericalError, one_line
from editlab.files.artifacts import load_tensors, save_tensors


def save_statistics(
    path: str | Path,
    layer: int,
    moment: SecondMoment,
    metadata: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> None:
    """Write one layer's second moment with its Cholesky factor and eigen-decomposition, computed here if need be.

    At d_in = 14,336 these take hours on a CPU and minutes on a GPU: ``device`` is where.

    A singular ``C`` (fewer tokens than d_in) is factored with the smallest ridge that the solver accepts; the file
    records it, absolute and relative to the mean of the diagonal.

    Raises:
        NumericalError: the moment is not finite, or no ridge makes it solvable.
        ArtifactError: the file cannot be written.
    """
    moment = moment.to(device)
    lower = moment.factor()
    eigenvalues, eigenvectors = moment.eigh()
    tensors = {"second_moment": moment.matrix, "cholesky": lower}
    tensors |= {"eigenvalues": eigenvalues, "eigenvectors": eigenvectors}
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    mean = float(moment.matrix.diagonal().mean())
    facts = {
        "layer": int(layer),
        "count": int(moment.count),
        "ridge": moment.ridge,
        "relative_ridge": moment.ridge / mean,
    }
    save_tensors(path, tensors, {**(metadata or {}), **facts})


def read_published(path: str | Path) -> SecondMoment:
    """The second moment in a statistics file (``.npz``) of the MEMIT code: ``mom2.mom2``, a sum, over ``mom2.count``.

    Raises:
        ArtifactError: missing, damaged, of another kind, or not square and finite.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as found:
            total, count = found["mom2.mom2"], int(found["mom2.count"])
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path}: not a statistics file of the MEMIT code ({one_line(error)})") from None
    if count < 1 or total.ndim != 2 or not np.issubdtype(total.dtype, np.floating):
        raise ArtifactError(f"{path}: mom2.mom2 of shape {total.shape} over {count} tokens is no second moment")
    matrix = torch.from_numpy(total.astype(np.float64)) / count
    try:
        return SecondMoment((matrix + matrix.T) / 2, count).validate()
    except NumericalError as error:
        raise ArtifactError(f"{path}: {error}") from None
    except RuntimeError:
        raise ArtifactError(f"{path}: mom2.mom2 of shape {total.shape} is not square") from None


def load_statistics(path: str | Path) -> tuple[int, SecondMoment]:
    """Read (layer, second moment) from a file of :func:`save_statistics`.

    Raises:
        ArtifactError: missing, truncated, not such a file, wrong shapes, or numbers that do not belong together.
    """
    tensors, metadata = load_tensors(path)
    try:
        names = ("second_moment", "cholesky", "eigenvalues", "eigenvectors")
        matrix, lower, eigenvalues, eigenvectors = (tensors[name] for name in names)
        layer, count, ridge = int(metadata["layer"]), int(metadata["count"]), float(metadata["ridge"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a statistics file ({error} is missing or malformed)") from None
    size = matrix.shape[0] if matrix.ndim else 0
    shapes = [tuple(t.shape) for t in (matrix, lower, eigenvalues, eigenvectors)]
    if size == 0 or shapes != [(size, size), (size, size), (size,), (size, size)]:
        raise ArtifactError(f"{path}: tensors of shapes {shapes} do not belong together; delete it and rerun")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ArtifactError(f"{path}: holds NaN or infinite values; delete it and rerun")
    moment = SecondMoment(
        matrix, count, cholesky=lower, eigenvalues=eigenvalues, eigenvectors=eigenvectors, ridge=ridge
    )
    try:
        return layer, moment.validate()
    except NumericalError as error:
        raise ArtifactError(f"{path}: {error}; delete it and rerun") from None


def resolve_statistics(
    statistics: Any, layers: Sequence[int], d_in: Mapping[int, int] | None = None
) -> dict[int, SecondMoment]:
    """The second moments of ``layers`` from whatever a caller may hold.

    Args:
        statistics: None (gives {}), a statistics file, a directory of ``layer-<n>.safetensors``, a list of files, or
            {layer: (d_in, d_in) tensor, :class:`SecondMoment` or file}; with its layer, a ``.npz`` of the MEMIT code will do.
        layers: those needed; files of other layers in a directory are not read.
        d_in: expected size by layer, checked when given.

    Raises:
        ConfigError: a needed layer is missing, something has the wrong type or shape.
        ArtifactError: a file is missing or damaged.
    """
    if statistics is None:
        return {}
    found = by_layer(
        statistics,
        layers,
        "layer-{}.safetensors",
        load_statistics,
        _moment,
        "a file, a directory, a list of files or {layer: second moment}",
    )
    for layer in layers:
        if d_in is not None and found[layer].size != d_in[layer]:
            raise ConfigError(f"statistics: layer {layer} has size {found[layer].size}; the model needs {d_in[layer]}")
    return found


T = TypeVar("T")


def by_layer(
    statistics: Any,
    layers: Sequence[int],
    name: str,
    load: Callable[[str | Path], tuple[int, T]],
    checked: Callable[[Any, int], T],
    allowed: str,
    what: str = "",
) -> dict[int, T]:
    """What a caller holds of ``layers``: a file, a directory, a list of files, or by layer.

    Args:
        name: of a layer's file in a directory, with ``{}`` for the layer.
        load: reads (layer, value) from a file.
        checked: the value that was given for a layer, which may be a file.
        allowed: what may be given, in words.
        what: of a layer is asked for, as ``the curvature of ``.

    Raises:
        ConfigError: a layer is missing, or something else was given.
        ArtifactError: a file is missing or damaged, or holds another layer.
    """
    if isinstance(statistics, Mapping):
        found = {int(layer): checked(statistics[layer], int(layer)) for layer in statistics if int(layer) in layers}
    elif isinstance(statistics, str | Path) and Path(statistics).is_dir():
        found = {layer: of_layer(load, Path(statistics) / name.format(layer), layer) for layer in layers}
    elif isinstance(statistics, str | Path):
        found = dict([load(statistics)])
    elif isinstance(statistics, Sequence) and all(isinstance(item, str | Path) for item in statistics):
        found = dict(load(item) for item in statistics)
    else:
        raise ConfigError(f"statistics: {type(statistics).__name__} is not allowed; give {allowed}")
    given = sorted(int(layer) for layer in (statistics if isinstance(statistics, Mapping) else found))
    for layer in layers:
        if layer not in found:
            raise ConfigError(f"statistics: {what}layer {layer} is missing; given: {given}")
    return {layer: found[layer] for layer in layers}


def of_layer(load: Callable[[str | Path], tuple[int, T]], path: str | Path, layer: int) -> T:
    """The value in a file, which must be that of this layer.

    Raises:
        ArtifactError: it is another layer's, or the file is damaged.
    """
    found, value = load(path)
    if found != layer:
        raise ArtifactError(f"{path}: holds layer {found}, not layer {layer}")
    return value


def _moment(value: Any, layer: int) -> SecondMoment:
    """A given second moment, checked; a bare tensor has an unknown count (0)."""
    if isinstance(value, str | Path):
        published = Path(value).suffix == ".npz"
        return read_published(value) if published else of_layer(load_statistics, value, layer)
    if isinstance(value, Tensor):
        value = SecondMoment(value.detach(), 0)
    if not isinstance(value, SecondMoment):
        raise ConfigError(
            f"statistics: layer {layer}: {type(value).__name__} is not allowed; give a tensor (d_in, d_in), a "
            "SecondMoment or a file"
        )
    try:
        return value.validate()
    except NumericalError as error:
        raise ConfigError(f"statistics: layer {layer}: {error}") from None
