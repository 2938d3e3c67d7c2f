"""Where a job's messages go: what is wrong to the terminal and the log, how far it is to the log alone."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO


class Tee:
    """A text stream that writes to several; a terminal if the first is one. The others may fail: a log on a full disk
    must not hide what went wrong."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            with contextlib.nullcontext() if stream is self.streams[0] else contextlib.suppress(OSError, ValueError):
                stream.write(text)
                stream.flush()
        return len(text)

    def flush(self) -> None:
        self.streams[0].flush()

    def isatty(self) -> bool:
        return self.streams[0].isatty()


class _Lines(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk ends the job where it writes its results, not where it says how far it is."""


@contextlib.contextmanager
def messages(terminal: TextIO, log: TextIO) -> Iterator[None]:
    """Meanwhile stderr and the library's warnings go to both; what it says of its progress to the log, with the time."""
    library, before = logging.getLogger("editlab"), (sys.stderr, logging.getLogger("editlab").level)
    warnings, progress = _Lines(terminal), _Lines(log)
    warnings.setLevel(logging.WARNING)
    progress.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    sys.stderr = Tee(terminal, log)
    library.setLevel(logging.INFO)
    for handler in (warnings, progress):
        library.addHandler(handler)
    try:
        yield
    finally:
        for handler in (warnings, progress):
            library.removeHandler(handler)
        sys.stderr, level = before
        library.setLevel(level)
