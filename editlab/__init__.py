"""editlab: reproducible editing of knowledge in neural networks.

The public functions are loaded on first use, so that ``import editlab`` costs nothing:
:func:`load_model`, :func:`load_requests`, :func:`collect_statistics`, :func:`collect_curvature`,
:func:`edit`, :class:`Edit`, :func:`evaluate`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Edit",
    "EditRequest",
    "collect_curvature",
    "collect_statistics",
    "edit",
    "evaluate",
    "load_model",
    "load_requests",
]

_HOMES = {
    "Edit": "editlab.edits.edit",
    "EditRequest": "editlab.data.requests",
    "collect_curvature": "editlab.editing.api",
    "collect_statistics": "editlab.editing.api",
    "edit": "editlab.editing.api",
    "evaluate": "editlab.evaluation",
    "load_model": "editlab.networks.loading",
    "load_requests": "editlab.data",
}

if TYPE_CHECKING:
    from editlab.data import load_requests
    from editlab.data.requests import EditRequest
    from editlab.editing.api import collect_curvature, collect_statistics, edit
    from editlab.edits.edit import Edit
    from editlab.evaluation import evaluate
    from editlab.networks.loading import load_model


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'editlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
