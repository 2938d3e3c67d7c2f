"""Text of a hub data set, through the package ``datasets`` where it is installed."""

from __future__ import annotations

from editlab.errors import DataError


def hub_text(id: str, name: str | None, revision: str | None, split: str, column: str, characters: int) -> str:
    """The first ``characters`` of a text column, one row a line.

    Raises:
        DataError: the package is missing, the data set cannot be reached or has no such column.
    """
    try:
        from datasets import load_dataset  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(f"statistics.hub: {id!r} needs the package 'datasets': pip install datasets") from None
    try:
        rows = load_dataset(id, name, revision=revision, split=split, streaming=True)
        parts, length = [], 0
        for row in rows:
            text = str(row[column]).strip()
            if text:
                parts.append(text)
                length += len(text) + 1
            if length >= characters:
                break
    except Exception as error:
        raise DataError(f"statistics.hub: {id!r} cannot be read ({str(error).splitlines()[0][:200]})") from None
    return "\n".join(parts)[:characters] + "\n"
