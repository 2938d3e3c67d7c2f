"""Tables that have to be made again because a file behind them is gone, told to Snakemake by a parameter.

Snakemake by itself does not look behind a file that is there: a table whose cell was deleted counts as up to date. A rule
that collects files therefore has the parameter ``missing=Missing(files)``. It is recorded as an empty text; while a file is
missing it is unlike that record, and equal to it again as soon as all are there. So the table is due, its missing files
with it, and neither a plan nor a run has to touch a file for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


class Missing(str):
    """An empty text that differs from itself on record while one of its files is missing.

    Snakemake keeps the ``repr`` of a parameter and compares sets of them; a script gets a plain empty text.
    """

    __slots__ = ("_files",)
    _files: tuple[str, ...]

    def __new__(cls, files: Iterable[str] = ()) -> Missing:
        """The parameter of a rule that collects ``files``."""
        made = super().__new__(cls)
        made._files = tuple(map(str, files))
        return made

    @property
    def gone(self) -> list[str]:
        """The files that are not there now."""
        return [file for file in self._files if not os.path.exists(file)]

    def __repr__(self) -> str:
        return self

    def __eq__(self, other: object) -> bool:
        return not self.gone and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return 1 if self.gone else str.__hash__(self)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return (str, ("",))
