"""Text of a hub data set, through the package ``datasets`` where it is installed."""

from __future__ import annotations

import hashlib

from editlab.errors import DataError, one_line


def hub_text(
    id: str, name: str | None, revision: str | None, split: str, column: str, characters: int, sha256: str | None = None
) -> str:
    """The first ``characters`` of a text column, one row a line.

    Raises:
        DataError: the package is missing or so old that it runs code of the data set, the data set cannot be reached or
            has no such column, or the text has not the checksum ``sha256``.
    """
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(f"statistics.hub: {id!r} needs the package 'datasets': pip install 'datasets>=4'") from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"statistics.hub: datasets {datasets.__version__} is not allowed, it runs scripts of data sets; "
            "pip install 'datasets>=4'"
        )
    try:
        rows = datasets.load_dataset(id, name, revision=revision, split=split, streaming=True)
        parts, length = [], 0
        for row in rows:
            text = str(row[column]).strip()
            if text:
                parts.append(text)
                length += len(text) + 1
            if length >= characters:
                break
    except Exception as error:
        raise DataError(f"statistics.hub: {id!r} cannot be read ({one_line(error)})") from None
    text = "\n".join(parts)[:characters] + "\n"
    found = hashlib.sha256(text.encode()).hexdigest()
    if sha256 not in (None, found):
        raise DataError(f"statistics.hub: the text of {id!r} has sha256 {found}, expected {sha256}; name its revision")
    return text
