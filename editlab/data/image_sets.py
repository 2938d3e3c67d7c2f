"""Which image sets there are: from a section of the configuration to three official parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from editlab.config.images import Digits, ImageData, Liver, MedMnist
from editlab.data.images import (
    DESCRIPTION,
    Images,
    Source,
    check_disjoint,
    four_sets,
    split_info,
    three_parts,
    write_images,
)
from editlab.data.liver import read_liver
from editlab.data.medmnist import read_medmnist
from editlab.files.artifacts import write_csv, write_json


def read_source(data: ImageData, file: str | Path | None = None) -> Source:
    """Read a data set of the configuration.

    Args:
        file: the downloaded MedMNIST file, or the converted liver file; default: the file that the section names.

    Raises:
        DataError: a file is missing, malformed, or not what its checksum says.
    """
    if isinstance(data, MedMnist):
        return read_medmnist(file or data.path, data.name, data.md5)
    if isinstance(data, Liver):
        return read_liver(file or data.images, data.task, data.split_seed)
    assert isinstance(data, Digits)
    return read_digits(data)


def read_digits(data: Digits) -> Source:
    """The handwritten digits of scikit-learn, stratified into three parts."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = bunch.images.astype(np.uint8)[..., None]
    whole = Images(pixels, bunch.target.astype(np.int64), np.arange(len(pixels)))
    parts = three_parts(whole, data.val_ratio, data.test_ratio, data.split_seed)
    return Source(parts, 0.0, 16.0, [str(digit) for digit in range(10)], one_array=True)


def write_sets(directory: str | Path, data: ImageData, file: str | Path | None = None) -> None:
    """Read a data set, split it and write the four sets with ``data_split_info.csv`` and ``data.json``.

    Raises:
        DataError: as :func:`read_source`, or the sets cannot be made or overlap.
    """
    directory, source = Path(directory), read_source(data, file)
    sets = four_sets(source, data.ft_train_ratio, data.split_seed)
    check_disjoint(sets, source.one_array)
    for name, images in sets.items():
        write_images(directory, name, images)
    description = {"low": source.low, "high": source.high, "classes": source.classes, "ordinal": source.ordinal}
    write_json(directory / DESCRIPTION, {**description, "note": source.note})
    write_csv(directory / "data_split_info.csv", split_info(sets, source, data))
