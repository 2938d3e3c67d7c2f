"""Imports that the jobs of the study need: made once, in the process that they are forked from."""

from __future__ import annotations

import importlib


def warm_up() -> None:
    """Import them, and the class of the base."""
    transformers = importlib.import_module("transformers")
    assert transformers.LlamaForCausalLM is not None  # loaded when it is first asked for
    for name in ("pandas", "scipy.stats", "sklearn.feature_extraction.text"):
        importlib.import_module(name)
