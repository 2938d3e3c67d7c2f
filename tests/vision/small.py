"""A small classifier of the digits and the four sets, made once for all tests of the study."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from second_device import on_the_cpu

from editlab.config.images import Digits, ScratchViT
from editlab.data.image_sets import write_sets
from editlab.data.images import SETS
from editlab.networks.vision import Classifier, load_classifier
from editlab.vision.pixels import ImageSet, read_set
from editlab.vision.training import initial_classifier, save_classifier, train

DIGITS = Digits(kind="digits", model="tiny", min_errors=5, min_accuracy=0.3)
MODEL = ScratchViT.model_validate(
    {"source": "scratch", "width": 32, "layers": 3, "heads": 2, "inner": 64, "training": {"epochs": 6, "lr": 3e-3}}
)


@functools.cache
def folder() -> Path:
    """Where the sets and the classifier are."""
    directory = Path(tempfile.mkdtemp(prefix="editlab-vision-"))
    write_sets(directory, DIGITS)
    sets = {name: read_set(directory / f"{name}.csv") for name in SETS}
    torch.set_num_threads(1)
    with on_the_cpu():  # rounding would make another classifier elsewhere
        made = initial_classifier(MODEL, sets["test"].classes, 1)
        train(made, sets["ft_train"], sets["ft_val"], MODEL.training, 1)
    save_classifier(made, directory / "model")
    return directory


def image_set(name: str) -> ImageSet:
    return read_set(folder() / f"{name}.csv")


def classifier() -> Classifier:
    """A fresh copy: tests may change it."""
    return load_classifier(folder() / "model")
