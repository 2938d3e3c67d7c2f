"""Tables that have to be made again because a file behind them is gone, told to Snakemake by a parameter.

Snakemake by itself does not look behind a file that is there: a table whose cell was deleted counts as up to date. A rule
that collects files therefore has the parameter ``missing=missing(files)``. While it plans, the parameter reads as the list
of files that are not there, unlike what was recorded when the table was made: the table is due, and its missing files with
it. When the job is done and its parameters are recorded, nothing is missing any more. No file is touched for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Missing(str):
    """Text of the files that are not there at the moment at which it is asked for; for a script, an empty text."""

    __slots__ = ("files",)
    files: tuple[str, ...]

    def __repr__(self) -> str:
        gone = [file for file in self.files if not Path(file).exists()]
        return repr(", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else ""))

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return (str, ("",))


def missing(files: Iterable[str]) -> Missing:
    """The parameter of a rule that collects ``files``."""
    found = Missing()
    found.files = tuple(map(str, files))
    return found
