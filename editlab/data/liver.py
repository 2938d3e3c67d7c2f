"""MERIT's liver fibrosis images (arXiv 2405.02918), published as pickled arrays, converted once to a plain npz.

``imgs.npy`` holds an object array of 703 dictionaries ``{'4': (256, 256, 1) float32}``, z-scored; ``labs.npy`` the stages
0..3. A pickle may run any code, so these are read by :mod:`editlab.data.plain_pickle`: whatever class or function a file names
is refused before it is looked up, and what it says of arrays is checked before one is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from editlab.data.images import Images, Source, three_parts
from editlab.data.plain_pickle import load_arrays
from editlab.errors import DataError, one_line
from editlab.files.artifacts import atomic_path

TASKS = {
    "liver4": ([0, 1, 2, 3], ["stage 0", "stage 1", "stage 2", "stage 3"]),
    "liver2s": ([0, 0, 0, 1], ["F0-F2", "F3-F4"]),
    "liver2a": ([0, 1, 1, 1], ["F0", "F1-F4"]),
}
"""By task: the new label of each stage, and the names of the classes."""
STAGES = 4
LARGEST = 2 << 30  # bytes


def read_object_array(path: str | Path) -> Any:
    """An ``.npy`` file, pickled or not, as an array.

    Raises:
        DataError: missing, too large, not an npy file, or a pickle that asks for more than arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path}: larger than {LARGEST} bytes")
    try:
        with path.open("rb") as file:
            return _read(file)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise DataError(f"{path}: not a readable npy file ({one_line(error)})") from None


def _read(file: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        return np.asarray(load_arrays(file)).reshape(shape)
    file.seek(0)
    return np.load(file, allow_pickle=False)


def convert_liver(images: str | Path, labels: str | Path, target: str | Path) -> None:
    """Write ``images (n, 256, 256, 1) float32`` and ``labels (n,)`` of the published files as one npz.

    Raises:
        DataError: the files cannot be read, or do not hold images and stages.
    """
    found = [_image(item, k, images) for k, item in enumerate(read_object_array(images).reshape(-1))]
    stages = read_object_array(labels).reshape(-1)
    if not found or len({image.shape for image in found}) > 1:
        raise DataError(f"{images}: no images, or images of different shapes")
    try:
        numbers = stages.astype(np.int64)
        whole = bool((numbers == stages).all())
    except (TypeError, ValueError):
        whole = False
    if not whole or len(stages) != len(found) or numbers.min() < 0 or numbers.max() >= STAGES:
        raise DataError(f"{labels}: {len(stages)} labels; allowed are {len(found)} stages of 0..{STAGES - 1}")
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez(file, images=np.stack(found), labels=numbers)


def _image(item: Any, number: int, path: str | Path) -> Any:
    """One image of a dictionary with a single entry."""
    value = next(iter(item.values())) if isinstance(item, dict) and len(item) == 1 else item
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.shape[2] not in (1, 3):
        raise DataError(f"{path}: item {number} is no image (height, width, 1)")
    with np.errstate(over="ignore"):
        image = value.astype(np.float32)
    if not np.issubdtype(value.dtype, np.floating) or not bool(np.isfinite(image).all()):
        raise DataError(f"{path}: item {number} holds no finite real numbers")
    return image


def read_liver(path: str | Path, task: str, seed: int) -> Source:
    """The converted file, its stages mapped to a task's classes, stratified 60 / 20 / 20.

    Raises:
        DataError: missing or not a file of :func:`convert_liver`.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels, stages = file["images"], file["labels"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: not a converted liver file ({one_line(error)})") from None
    mapping, classes = TASKS[task]
    labels = np.asarray(mapping)[stages]
    parts = three_parts(Images(pixels, labels, np.arange(len(labels))), 0.2, 0.2, seed)
    note = f"{task}: stages 0..3 became {mapping}"
    return Source(parts, -1.0, 1.0, classes, ordinal=len(classes) > 2, one_array=True, note=note)
