"""Text of a hub data set, through the package ``datasets`` where it is installed."""

from __future__ import annotations

import hashlib

from editlab.config.edit import HubText
from editlab.errors import DataError, one_line


def hub_text(options: HubText) -> str:
    """The first ``options.characters`` of a text column, one row a line.

    Raises:
        DataError: the package is missing or so old that it runs code of the data set, the data set cannot be reached or
            has no such column, or the text has not the checksum ``options.sha256``.
    """
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(
            f"statistics.hub: {options.id!r} needs the package 'datasets': pip install 'datasets>=4'"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"statistics.hub: datasets {datasets.__version__} is not allowed, it runs scripts of data sets; "
            "pip install 'datasets>=4'"
        )
    try:
        rows = datasets.load_dataset(
            options.id, options.name, revision=options.revision, split=options.split, streaming=True
        )
        parts, length = [], 0
        for row in rows:
            text = str(row[options.column]).strip()
            if text:
                parts.append(text)
                length += len(text) + 1
            if length >= options.characters:
                break
    except Exception as error:
        raise DataError(f"statistics.hub: {options.id!r} cannot be read ({one_line(error)})") from None
    text = "\n".join(parts)[: options.characters] + "\n"
    found = hashlib.sha256(text.encode()).hexdigest()
    if options.sha256 not in (None, found):
        raise DataError(
            f"statistics.hub: the text of {options.id!r} has sha256 {found}, expected {options.sha256}; name its revision"
        )
    return text
