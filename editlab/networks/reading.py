"""A reader beside a model: it sees the text of every prompt before the model does.

Retrieval in the prompt and answers by lookup of text change no weight and no hidden state: they change what the model is
shown, or answer in its place. What scores and continues prompts asks here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Reader(Protocol):
    """What stands beside a model."""

    def shown(self, prompts: Sequence[str]) -> list[str]:
        """What the model is shown in the place of each prompt."""
        ...

    def answers(self, prompts: Sequence[str]) -> list[str | None]:
        """The answers that are given without the model; None: the model is asked."""
        ...


@contextlib.contextmanager
def reading(model: Any, reader: Reader) -> Iterator[None]:
    """The reader stands beside the model; before and after, the one that stood there."""
    before = reader_of(model)
    model.reader = reader
    try:
        yield
    finally:
        if before is None:
            del model.reader
        else:
            model.reader = before


def reader_of(model: Any) -> Reader | None:
    """The reader beside a model, if there is one."""
    found: Reader | None = getattr(model, "reader", None)
    return found
