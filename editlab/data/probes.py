"""What follows from an edit, and what must not: questions about other facts, with conditions where a data set has them.

A CounterFact record asks for the edited fact itself and for its neighbours. Later data sets ask further: does the model
answer questions that *follow* from the new fact (portability, multi-hop), and leave alone what does not (locality)? One
form holds them all. A :class:`Probe` is one test of a kind: its questions, of which one or all must be answered rightly,
and the conditions, questions that the unedited model must answer rightly for the test to count (RippleEdits, Cohen et
al., 2024, arXiv 2307.12976, section 5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from editlab.errors import DataError

PORTABILITY = ("Reasoning", "Subject_Aliasing", "Logical_Generalization", "Question_Form")
"""Kinds that ask for what follows from one edit (KnowEdit's names, arXiv 2401.01286; RippleEdits shares two)."""

COMPOSITION = ("Compositionality_I", "Compositionality_II")
"""RippleEdits: the edited fact is the second, or the first, of two hops."""

LOCALITY = ("Relation_Specificity", "Forgetfulness", "neighborhood")
"""Kinds that ask for what an edit must leave alone; Forgetfulness is RippleEdits' preservation."""

INVERSE = "Logical_Generalization"
"""The generated world's inverse relations: what KnowEdit and RippleEdits test under this name for the most part."""

GENERATION = "generation"
"""The edited fact itself, as a question that is also answered freely."""

MULTI_HOP, SINGLE_HOP = "multi_hop", "single_hop"
"""MQuAKE (arXiv 2305.14795): a question over several facts of which some were edited, and each of these facts."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt and its right answers: every one must be given, each by any of its names (the usual name first)."""

    prompt: str
    answers: tuple[tuple[str, ...], ...]

    @property
    def answer(self) -> str:
        """The usual name of the first answer: what teacher forcing scores."""
        return self.answers[0][0]

    def to_record(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {"prompt": self.prompt, "answers": [list(names) for names in self.answers]}

    @classmethod
    def from_record(cls, record: Any, where: str) -> Question:
        """The inverse of :meth:`to_record`.

        Raises:
            DataError: a prompt or answer is missing or blank.
        """
        prompt = record.get("prompt") if isinstance(record, Mapping) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where}: a question of 'probes' has no prompt")
        answers = record.get("answers")
        if not isinstance(answers, list) or not answers or not all(_names(names) for names in answers):
            raise DataError(f"{where}: 'answers' of {prompt[:60]!r} must be lists of names, such as [['France']]")
        return cls(prompt, tuple(tuple(name.strip() for name in names) for names in answers))


@dataclasses.dataclass(frozen=True)
class Probe:
    """One test.

    Attributes:
        kind: what it tests, e.g. one of :data:`PORTABILITY`.
        questions: answered by the edited model.
        every: all of them must be right, else one is enough.
        conditions: answered by the unedited model; all must be right for the test to count.
    """

    kind: str
    questions: tuple[Question, ...]
    every: bool = False
    conditions: tuple[Question, ...] = ()

    @classmethod
    def simple(cls, kind: str, prompt: str, names: tuple[str, ...]) -> Probe:
        """One question with one answer (and its other names), without conditions."""
        return cls(kind, (Question(prompt, (names,)),))

    def to_record(self) -> dict[str, Any]:
        """JSON-serialisable."""
        record: dict[str, Any] = {"kind": self.kind, "questions": [q.to_record() for q in self.questions]}
        if self.every:
            record["every"] = True
        if self.conditions:
            record["conditions"] = [q.to_record() for q in self.conditions]
        return record

    @classmethod
    def from_record(cls, record: Any, where: str) -> Probe:
        """The inverse of :meth:`to_record`.

        Raises:
            DataError: it has no kind, no question, or a malformed one.
        """
        kind = record.get("kind") if isinstance(record, Mapping) else None
        if not isinstance(kind, str) or not kind:
            raise DataError(f"{where}: each of 'probes' must be an object with a 'kind'")
        questions, conditions = record.get("questions"), record.get("conditions", [])
        if not isinstance(questions, list) or not questions or not isinstance(conditions, list):
            raise DataError(f"{where}: 'questions' of a {kind[:40]!r} probe must be a non-empty list")
        if not isinstance(record.get("every", False), bool):
            raise DataError(f"{where}: 'every' of a {kind[:40]!r} probe must be true or false")
        read = [tuple(Question.from_record(item, where) for item in items) for items in (questions, conditions)]
        return cls(kind, read[0], record.get("every", False), read[1])


def read_probes(value: Any, where: str) -> tuple[Probe, ...]:
    """The field ``probes`` of a record: a list, or nothing.

    Raises:
        DataError: it is something else, or one of them is malformed.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(f"{where}: field 'probes' must be a list")
    return tuple(Probe.from_record(item, where) for item in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name.strip() for name in value)
