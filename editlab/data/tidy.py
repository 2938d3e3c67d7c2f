"""Small faults of published files: what can be mended without a guess is mended, the rest is noted."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Any

from editlab.data.probes import Question
from editlab.data.requests import EditRequest

_LISTS = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def tidied(request: EditRequest, notes: Counter[str]) -> EditRequest:
    """The request with its prompts cut behind their last word: what follows them brings its own space.

    Noted are prompts that were cut, and requests whose subject or objects hold an escape that was escaped twice
    (``Bras\\u00edlia``, letter by letter), which are left as they are.
    """
    cut = 0

    def trim(prompt: str) -> str:
        nonlocal cut
        cut += prompt != prompt.rstrip(" \t")
        return prompt.rstrip(" \t")

    def ask(questions: tuple[Question, ...]) -> tuple[Question, ...]:
        return tuple(dataclasses.replace(q, prompt=trim(q.prompt)) for q in questions)

    probes = tuple(
        dataclasses.replace(p, questions=ask(p.questions), conditions=ask(p.conditions)) for p in request.probes
    )
    lists: dict[str, Any] = {name: tuple(trim(prompt) for prompt in getattr(request, name)) for name in _LISTS}
    changed = dataclasses.replace(request, prompt=trim(request.prompt), probes=probes, **lists)
    if cut:
        notes["prompts that ended in a space, which is taken off"] += cut
    if any(_ESCAPE.search(text) for text in (request.subject, request.target_new, request.target_true)):
        notes["requests with a letter written as an escape (\\u00ed), left as they are"] += 1
    return changed if cut else request
