"""Which prompts ask for a fact that was edited: their old answer is no longer the right one.

A neighbourhood prompt names another subject of the same relation. In a long stream that subject's fact is edited too
sooner or later, and from then on scoring the prompt against the old object rewards edits that failed. Prompts are plain
text, so the subject is looked for in the words of the prompt, among the edited subjects of the same relation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from editlab.data.requests import EditRequest

_WORD = re.compile(r"\w+")
Words = tuple[str, ...]


class EditedFacts:
    """The (subject, relation) pairs edited so far, to be asked about prompts.

    Where a data set does not name relations (zsRE), a prompt counts as soon as it names an edited subject.
    """

    def __init__(self, requests: Iterable[EditRequest] = ()) -> None:
        self._subjects: dict[str, set[Words]] = defaultdict(set)
        self._lengths: dict[str, set[int]] = defaultdict(set)
        self.add(requests)

    def add(self, requests: Iterable[EditRequest]) -> None:
        """Count these facts as edited."""
        for request in requests:
            words = _words(request.subject)
            for relation in {request.relation_id, ""}:
                self._subjects[relation].add(words)
                self._lengths[relation].add(len(words))

    def touches(self, prompt: str, relation: str) -> bool:
        """Whether the prompt, about ``relation`` ("": unknown), names a subject whose fact of that relation is edited."""
        known = self._subjects.get(relation)
        if not known:
            return False
        words = _words(prompt)
        return any(
            words[start : start + length] in known
            for length in self._lengths[relation]
            for start in range(len(words) - length + 1)
        )

    def untouched_neighbors(self, request: EditRequest) -> list[bool]:
        """For each neighbourhood prompt of a request, whether its own fact is unedited."""
        return [not self.touches(prompt, request.relation_id) for prompt in request.neighborhood_prompts]


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.casefold()))
