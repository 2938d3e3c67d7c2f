"""Which images a classifier gets wrong, and which of them an edit is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from editlab.config.images import DATA, ImageData
from editlab.data.images import Array
from editlab.errors import DataError
from editlab.files.artifacts import write_csv
from editlab.networks.vision import Classifier, load_classifier
from editlab.randomness import python_rng, set_threads, torch_rng
from editlab.vision.pixels import ImageSet, Prefix, read_set

PathLike = str | Path


def find_errors(classifier: Classifier, images: ImageSet) -> pd.DataFrame:
    """One row an image: position, index, label, predicted, right, p_label, p_predicted, gap (of the two best)."""
    probabilities = Prefix(classifier, images).logits().double().softmax(-1)
    top = probabilities.topk(2, dim=-1)
    labels = images.labels
    return pd.DataFrame(
        {
            "position": np.arange(len(images)),
            "index": images.images.index,
            "label": labels.numpy(),
            "predicted": top.indices[:, 0].numpy(),
            "right": (top.indices[:, 0] == labels).numpy(),
            "p_label": probabilities[torch.arange(len(labels)), labels].numpy(),
            "p_predicted": top.values[:, 0].numpy(),
            "gap": (top.values[:, 0] - top.values[:, 1]).numpy(),
        }
    )


def check_errors(table: pd.DataFrame, data: ImageData, name: str) -> None:
    """Raise :class:`DataError` unless there are enough errors to edit."""
    errors = int((~table["right"]).sum())
    if errors < data.min_errors:
        raise DataError(
            f"datasets.{name}: {errors} discovery errors are fewer than min_errors {data.min_errors}; "
            "lower ft_train_ratio, train less, or lower min_errors"
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """The images of one edit.

    Attributes:
        number: of the draw.
        rows: positions in the discovery set.
        targets: the class that each shall get.
        requested: how many were asked for; fewer are used where there are fewer.
    """

    number: int
    rows: Array
    targets: Array
    requested: int

    @property
    def clipped(self) -> bool:
        return len(self.rows) < self.requested


def draw_samples(table: pd.DataFrame, number: int, max_edits: int, classes: int, control: str | None = None) -> Draw:
    """A seeded random draw of errors, the same for all methods; a larger ``max_edits`` adds to a smaller one.

    Args:
        table: of :func:`find_errors`.
        control: ``already_right`` draws images that the classifier gets right, ``wrong_labels`` gives each error a class that
            is neither its own nor the predicted one.

    Raises:
        DataError: nothing to draw, or too few classes for wrong labels.
    """
    right = control == "already_right"
    positions = [int(p) for p in table.loc[table["right"] == right, "position"]]
    if not positions:
        raise DataError("discovery: no error to edit" if not right else "discovery: no image is right")
    python_rng("vision draw", number, right).shuffle(positions)
    rows = np.array(positions[:max_edits])
    chosen = table.set_index("position").loc[rows]
    targets = np.array(chosen["label"], dtype=np.int64)
    if control == "wrong_labels":
        targets = _wrong(chosen, number, classes)
    return Draw(number, rows, targets, max_edits)


def _wrong(chosen: pd.DataFrame, number: int, classes: int) -> Any:
    """For each image, a class that is neither true nor predicted."""
    if classes < 3:
        raise DataError(f"wrong_labels: {classes} classes leave no class that is neither true nor predicted")
    found = []
    for position, row in chosen.iterrows():
        others = [k for k in range(classes) if k not in (row["label"], row["predicted"])]
        found.append(python_rng("wrong label", number, int(str(position))).choice(others))
    return np.array(found, dtype=np.int64)


def right_rows(classifier: Classifier, images: ImageSet, seed: int) -> Array:
    """Positions of the images that the classifier gets right, in a seeded order."""
    right = (Prefix(classifier, images).logits().argmax(-1) == images.labels).nonzero().flatten()
    order = torch.randperm(len(right), generator=torch_rng("right samples", seed))
    return right[order].numpy()


def errors_stage(
    model: PathLike,
    discovery: PathLike,
    data: ImageData,
    name: str,
    target: PathLike,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Find the discovery errors.

    Raises:
        DataError: there are fewer than ``min_errors``.
    """
    set_threads(threads)
    data = DATA.validate_python(data)
    table = find_errors(load_classifier(model, device), read_set(discovery))
    check_errors(table, data, name)
    write_csv(target, table)
