"""Image sets on disk, and the four-set protocol that keeps what is edited apart from what is trained and tested on.

| set | taken from | used for |
|---|---|---|
| ft_train | most of the official training part | training; statistics of keys, Fisher information |
| discovery | the rest of it | finding errors, tracing, choosing; never trained on |
| ft_val | the official validation part | early stopping alone |
| test | the official test part | the final comparison alone |

A set is two files: ``NAME.npy`` (images, memory-mapped when read) and ``NAME.csv`` (index in the source part, label). Images
are (n, height, width, channels); how their values map to [-1, 1] stands in ``data.json`` beside them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.config.images import ImageData
from editlab.errors import ArtifactError, DataError, one_line
from editlab.files.artifacts import atomic_path, write_csv
from editlab.randomness import derive_seed

SETS = ("ft_train", "discovery", "ft_val", "test")
PARTS = ("train", "val", "test")
DESCRIPTION = "data.json"
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their labels.

    Attributes:
        pixels: (n, height, width, channels), uint8 or float32.
        labels: (n,) of 0 .. classes - 1.
        index: (n,) position in the source part.
    """

    pixels: Array
    labels: Array
    index: Array

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: Array) -> Images:
        """The images at these positions of this set."""
        return Images(self.pixels[chosen], self.labels[chosen], self.index[chosen])


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was published: three parts and what its pixels and labels mean.

    Attributes:
        parts: by name of :data:`PARTS`.
        low, high: pixel values that become -1 and 1.
        classes: names of the classes.
        ordinal: the classes have an order (quadratic kappa is reported).
        one_array: the parts were cut from one array, and ``index`` counts in it.
        note: what was done to it (a remapping of labels), for the description.
    """

    parts: dict[str, Images]
    low: float
    high: float
    classes: list[str]
    ordinal: bool = False
    one_array: bool = False
    note: str = ""


def three_parts(whole: Images, val_ratio: float, test_ratio: float, seed: int) -> dict[str, Images]:
    """Train, val and test from one set, stratified."""
    rest, test = stratified(whole.labels, test_ratio, "test", seed)
    train, val = stratified(whole.labels[rest], val_ratio / (1 - test_ratio), "val", seed)
    return {"train": whole.rows(rest[train]), "val": whole.rows(rest[val]), "test": whole.rows(test)}


def stratified(labels: Array, share: float, *coordinates: object) -> tuple[Array, Array]:
    """Positions (kept, split off), both ascending; every class gives about ``share`` of its images.

    Raises:
        DataError: a class has too few images to be in both.
    """
    from sklearn.model_selection import train_test_split

    try:
        kept, off = train_test_split(
            np.arange(len(labels)),
            test_size=share,
            stratify=labels,
            random_state=derive_seed("split", *coordinates),
        )
    except ValueError as error:
        raise DataError(f"images cannot be split at {share:g} with every class in both ({one_line(error)})") from None
    return np.sort(kept), np.sort(off)


def four_sets(source: Source, ft_train_ratio: float, seed: int) -> dict[str, Images]:
    """The sets of the protocol."""
    train = source.parts["train"]
    ft_train, discovery = stratified(train.labels, 1 - ft_train_ratio, "discovery", seed)
    return {
        "ft_train": train.rows(ft_train),
        "discovery": train.rows(discovery),
        "ft_val": source.parts["val"],
        "test": source.parts["test"],
    }


def check_disjoint(sets: dict[str, Images], one_array: bool = False) -> None:
    """Sets that come from one array share no image: FT-Train and discovery always, all four with ``one_array``. Within a
    set, none occurs twice.

    Raises:
        DataError: they do.
    """
    for name, images in sets.items():
        if len(np.unique(images.index)) < len(images):
            raise DataError(f"{name}: an image occurs twice")
    for one, other in itertools.combinations(sets, 2) if one_array else [("ft_train", "discovery")]:
        shared = np.intersect1d(sets[one].index, sets[other].index)
        if len(shared):
            raise DataError(f"{one} and {other} share {len(shared)} images, the first is {shared[0]}")


def split_info(sets: dict[str, Images], source: Source, data: ImageData) -> pd.DataFrame:
    """One row a set: where it comes from, how many images of each class, seed and ratio."""
    rows = []
    for name in SETS:
        counts = np.bincount(sets[name].labels, minlength=len(source.classes))
        part = "train" if name in ("ft_train", "discovery") else name.removeprefix("ft_")
        row = {"set": name, "part": part, "images": len(sets[name]), "ft_train_ratio": data.ft_train_ratio}
        row |= {"split_seed": data.split_seed, "note": source.note}
        rows.append(row | {f"class_{label}": int(count) for label, count in enumerate(counts)})
    return pd.DataFrame(rows)


def write_images(directory: str | Path, name: str, images: Images) -> None:
    """Write one set."""
    with atomic_path(Path(directory, f"{name}.npy")) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(images.pixels), allow_pickle=False)
    write_csv(Path(directory, f"{name}.csv"), pd.DataFrame({"index": images.index, "label": images.labels}))


def read_images(table: str | Path) -> Images:
    """Read one set by its ``NAME.csv``; its pixels stay on disk until they are used.

    Raises:
        ArtifactError: missing or damaged files.
    """
    path = Path(table)
    try:
        rows = pd.read_csv(path)
        pixels = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        labels, index = rows["label"].to_numpy(np.int64), rows["index"].to_numpy(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: not a readable image set ({one_line(error)})") from None
    if pixels.ndim != 4 or len(pixels) != len(labels):
        raise ArtifactError(f"{path}: {len(labels)} labels for images of shape {pixels.shape}")
    return Images(pixels, labels, index)
