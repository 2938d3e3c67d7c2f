"""Fields of other people's records: strings where strings are due, answers however they are nested, templates."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any

from editlab.data.requests import is_blank, unfill
from editlab.errors import DataError

PLACEHOLDER = "<|endoftext|>"
"""Stands for ``target_true`` where a data set does not know a rival answer, as in the published code: success then says
little, and accuracy is what to look at."""

NO_RIVAL = "records without a true answer (success compares with a placeholder; look at accuracy)"


def string(value: Any, field: str, where: str) -> str:
    """A string that is not blank; :class:`DataError` else."""
    if not isinstance(value, str) or is_blank(value):
        raise DataError(f"{where}: field '{field}' is missing, empty or not a string")
    return value


def strings(value: Any, field: str, where: str) -> list[str]:
    """A string or a list of them as a list; nothing for None."""
    if value is None:
        return []
    return [string(item, field, where) for item in (value if isinstance(value, list) else [value])]


def first(value: Any, field: str, where: str) -> str:
    """A string, or the first of a list of them."""
    return string(value[0] if isinstance(value, list) and value else value, field, where)


def names(value: Any) -> tuple[str, ...]:
    """All strings and numbers in an answer however its lists are nested: the usual name first, no repeats, no blanks."""
    return tuple(dict.fromkeys(text.strip() for text in _leaves(value) if not is_blank(text)))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def template_of(prompt: str, subject: str, where: str, notes: Counter[str]) -> str:
    """The prompt with ``{}`` in place of the subject: as it stands, with other capitals, or composed otherwise in Unicode;
    or the prompt itself, where it has ``{}``.

    Raises:
        DataError: the subject does not occur.
    """
    subject = subject.strip()
    found = unfill(prompt, subject)
    if found is None and (found := unfill(prompt, subject, ignore_case=True)) is not None:
        notes["subjects found with other capitals"] += 1
    if found is None:
        composed = unicodedata.normalize("NFC", prompt), unicodedata.normalize("NFC", subject)
        if (found := unfill(*composed, ignore_case=True)) is not None:
            notes["subjects found after Unicode normalisation (NFC)"] += 1
    if found is None and "{}" in prompt:
        return prompt
    if found is None:
        raise DataError(f"{where}: the subject {subject[:80]!r} does not occur in the prompt {prompt[:80]!r}")
    return found
