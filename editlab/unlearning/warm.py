"""Imports that the jobs of the study need: made once, in the process that they are forked from."""

from __future__ import annotations

import importlib


def warm_up() -> None:
    """Imports that every job needs: made once, in the process that they are forked from."""
    assert importlib.import_module("transformers").LlamaForCausalLM is not None  # loaded when it is first asked for
    importlib.import_module("peft")
