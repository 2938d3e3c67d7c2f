"""Git LFS pointers: small text files that stand in a clone where the large ones were not fetched."""

from __future__ import annotations

from pathlib import Path

_FIRST_LINE = b"version https://git-lfs.github.com/spec/"
REMEDY = "a Git LFS pointer, not the file itself; fetch it with: git lfs pull"


def is_lfs_pointer(path: str | Path) -> bool:
    """Whether a file is such a pointer; False where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_FIRST_LINE)) == _FIRST_LINE
    except (OSError, ValueError):
        return False
