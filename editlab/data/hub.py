"""Text of a hub data set, through the package ``datasets`` where it is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from editlab.config.preparation import HubText
from editlab.errors import DataError, one_line


def hub_text(options: HubText) -> Iterator[str]:
    """The rows of a text column, one after another, until ``options.characters`` or ``options.texts`` have been given; nothing
    is held.

    Raises:
        DataError: the package is missing or so old that it runs code of the data set, the data set cannot be reached or
            has no such column, or (after the last row) the text has not the checksum ``options.sha256``.
    """
    rows = _rows(options)
    digest, left, texts = hashlib.sha256(), options.characters, 0
    try:
        for row in rows:
            text = str(row[options.column]).strip()[:left]
            if text:
                digest.update(f"{text}\n".encode())
                left -= len(text) + 1
                texts += 1
                yield text
            if left <= 0 or texts == options.texts:
                break
    except GeneratorExit:
        raise
    except Exception as error:
        raise DataError(f"statistics.hub: {options.id!r} cannot be read ({one_line(error)})") from None
    if options.sha256 not in (None, digest.hexdigest()):
        raise DataError(
            f"statistics.hub: the text of {options.id!r} has sha256 {digest.hexdigest()}, expected {options.sha256}; "
            "name its revision"
        )


def _rows(options: HubText) -> Any:
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(
            f"statistics.hub: {options.id!r} needs the package 'datasets': pip install -r requirements-hub.lock"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"statistics.hub: datasets {datasets.__version__} is not allowed, it runs scripts of data sets; "
            "pip install 'datasets>=4'"
        )
    try:
        return datasets.load_dataset(
            options.id, options.name, revision=options.revision, split=options.split, streaming=True
        )
    except Exception as error:
        raise DataError(f"statistics.hub: {options.id!r} cannot be read ({one_line(error)})") from None
