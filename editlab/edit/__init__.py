"""The edit study: targets, keys, solvers, replay and the editing session.

The package is callable: ``editlab.edit(model, requests, method="memit", ...)`` is
:func:`editlab.edit.editor.edit`, imported on first use.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _EditPackage(ModuleType):
    """Python lets a module have a class of its own; this one only adds the call."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from editlab.edit.editor import edit

        return edit(*args, **kwargs)


sys.modules[__name__].__class__ = _EditPackage
