"""MedMNIST files (Yang et al. 2023, Scientific Data 10:41): ``{name}.npz`` and ``{name}_224.npz``, with every claim checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from editlab.data.download import check_file
from editlab.data.images import PARTS, Array, Images, Source
from editlab.errors import DataError, one_line

CLASSES = {"pathmnist": 9, "dermamnist": 7, "retinamnist": 5, "organamnist": 11, "bloodmnist": 8, "tissuemnist": 8}
ORDINAL = ("retinamnist",)


def read_medmnist(path: str | Path, name: str, md5: str | None = None) -> Source:
    """Read a file with the arrays ``{train,val,test}_{images,labels}``.

    Raises:
        DataError: no such file, another checksum, not an npz, pickled, missing arrays, wrong shapes, labels out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a MedMNIST file, or its url and md5")
    if md5 is not None:
        check_file(path, md5)
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for part in PARTS for key in (f"{part}_images", f"{part}_labels") if key not in file.files]
            if missing:
                found = ", ".join(sorted(file.files)) or "none"
                raise DataError(f"{path}: array {missing[0]} is missing; found: {found[:200]}")
            arrays = {key: np.asarray(file[key]) for part in PARTS for key in (f"{part}_images", f"{part}_labels")}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser fail in as many ways as a file can be damaged
        raise DataError(f"{path}: not a plain npz file ({one_line(error)})") from None
    parts = {part: _part(path, part, arrays, CLASSES[name]) for part in PARTS}
    return Source(parts, 0.0, 255.0, [str(k) for k in range(CLASSES[name])], ordinal=name in ORDINAL)


def _part(path: Path, part: str, arrays: dict[str, Any], classes: int) -> Images:
    pixels, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    grey = pixels.ndim == 3
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 4 and pixels.shape[3] in (1, 3))) or pixels.size == 0:
        shape = f"{pixels.dtype} {pixels.shape}"
        raise DataError(
            f"{path}: {part}_images is {shape}; allowed is uint8 (n, height, width) or (n, height, width, 3)"
        )
    if labels.shape not in ((len(pixels), 1), (len(pixels),)) or not np.issubdtype(labels.dtype, np.integer):
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{path}: {part}_labels is {found}; allowed are {len(pixels)} whole numbers, one an image")
    flat: Array = labels.reshape(-1).astype(np.int64)
    if flat.min() < 0 or flat.max() >= classes:
        bad = flat.min() if flat.min() < 0 else flat.max()
        raise DataError(f"{path}: {part}_labels holds {bad}; allowed are 0..{classes - 1}")
    return Images(pixels[..., None] if grey else pixels, flat, np.arange(len(flat)))
