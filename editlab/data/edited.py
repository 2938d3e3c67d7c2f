"""Which prompts ask for a fact that was edited: their old answer is no longer the right one.

A neighbourhood prompt names another subject of the same relation. In a long stream that subject's fact is edited too
sooner or later, and from then on scoring the prompt against the old object rewards edits that failed. Prompts are plain
text, so the subject is looked for in the words of the prompt, among the edited subjects of the same relation.

The other facts of an edited subject are the nearest of all: they share the key at the subject's end.
:class:`SubjectFacts` names those of them that no edit has touched.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from editlab.data.requests import EditRequest
from editlab.randomness import python_rng

_WORD = re.compile(r"\w+")
Words = tuple[str, ...]


class EditedFacts:
    """The (subject, relation) pairs edited so far, to be asked about prompts.

    Where a data set does not name relations (zsRE), a prompt counts as soon as it names an edited subject.
    """

    def __init__(self, requests: Iterable[EditRequest] = ()) -> None:
        self._subjects: dict[str, set[Words]] = defaultdict(set)
        self._lengths: dict[str, set[int]] = defaultdict(set)
        self._keys: set[tuple[str, str]] = set()
        self.add(requests)

    def __contains__(self, request: EditRequest) -> bool:
        """Whether the fact of a request is edited."""
        return request.key in self._keys

    def add(self, requests: Iterable[EditRequest]) -> None:
        """Count these facts as edited."""
        for request in requests:
            words = _words(request.subject)
            self._keys.add(request.key)
            for relation in {request.relation_id, ""}:
                self._subjects[relation].add(words)
                self._lengths[relation].add(len(words))

    def touches(self, prompt: str, relation: str, besides: str | None = None) -> bool:
        """Whether the prompt, about ``relation`` ("": unknown), names a subject whose fact of that relation is edited.

        Args:
            besides: a subject that does not count.
        """
        known = self._subjects.get(relation)
        if not known:
            return False
        words, own = _words(prompt), None if besides is None else _words(besides)
        return any(
            found in known and found != own
            for length in self._lengths[relation]
            for found in (words[start : start + length] for start in range(len(words) - length + 1))
        )

    def untouched_neighbors(self, request: EditRequest) -> list[bool]:
        """For each neighbourhood prompt of a request, whether its own fact is unedited.

        Where relations are unknown, the subject of the request itself does not count: what a file names as unaffected
        (KnowEdit's locality) is often another fact of that very subject.
        """
        besides = None if request.relation_id else request.subject
        return [not self.touches(prompt, request.relation_id, besides) for prompt in request.neighborhood_prompts]


class SubjectFacts:
    """The facts of a data set by subject.

    Args:
        records: all facts that may be asked.
        seed: of the order in which the facts of a subject are asked.
    """

    def __init__(self, records: Iterable[EditRequest] = (), seed: int = 0) -> None:
        self.seed = seed
        self._facts: dict[str, list[EditRequest]] = defaultdict(list)
        for record in records:
            self._facts[record.subject].append(record)

    def unedited(self, request: EditRequest, edited: EditedFacts, most: int) -> list[EditRequest]:
        """At most ``most`` other facts of the subject of a request that are not edited, in a seeded order."""
        others = [r for r in self._facts.get(request.subject, ()) if r.key != request.key]
        python_rng("same subject", self.seed, request.case_id).shuffle(others)
        return [r for r in others if r not in edited][:most]


def edited_again(requests: Iterable[EditRequest]) -> list[bool]:
    """For each fact of a stream, whether its subject comes again later."""
    found: list[bool] = []
    last: dict[str, int] = {}
    for position, request in enumerate(requests):
        if request.subject in last:
            found[last[request.subject]] = True
        last[request.subject] = position
        found.append(False)
    return found


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.casefold()))
