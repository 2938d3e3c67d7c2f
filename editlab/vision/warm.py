"""Imports that the jobs of the study need: made once, in the process that they are forked from."""

from __future__ import annotations

import importlib

MODULES = (
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.metrics",
    "sklearn.model_selection",
    "editlab.vision.methods",
    "editlab.vision.outcomes",
    "editlab.vision.search",
    "editlab.vision.training",
    "editlab.vision.trial",
)


def warm_up() -> None:
    """Import them, and the class of the classifier."""
    for name in MODULES:
        importlib.import_module(name)
    transformers = importlib.import_module("transformers")
    assert transformers.ViTForImageClassification is not None  # loaded when it is first asked for
