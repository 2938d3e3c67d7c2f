"""editlab: reproducible editing of knowledge in neural networks.

The public functions are loaded on first use, so that ``import editlab`` costs nothing:
:func:`load_model`, :func:`load_requests`, :func:`edit`, :class:`Edit`, :func:`evaluate`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Edit", "EditRequest", "edit", "evaluate", "load_model", "load_requests"]

_HOMES = {
    "Edit": "editlab.edit.record",
    "EditRequest": "editlab.requests",
    "edit": "editlab.edit",
    "evaluate": "editlab.evaluation",
    "load_model": "editlab.models",
    "load_requests": "editlab.data",
}

if TYPE_CHECKING:
    from editlab import edit
    from editlab.data import load_requests
    from editlab.edit.record import Edit
    from editlab.evaluation import evaluate
    from editlab.models import load_model
    from editlab.requests import EditRequest


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'editlab' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    # ``editlab.edit`` is the package of the edit study; calling it edits (see editlab/edit/__init__.py).
    return module if name == "edit" else getattr(module, name)
