"""RippleEdits (Cohen et al., 2024, arXiv 2307.12976): an edit and six kinds of tests with conditions.

A record has ``edit`` (a ``prompt`` that states the new fact, ids, and ``previous_fact`` but for recent facts) and, by kind,
tests of ``test_queries``, ``test_condition`` (AND, OR) and ``condition_queries``. The fact comes as a sentence, one of a few
forms for each relation: "The name of the mother of X is Y.", "The name of the league which X plays in is Y.", "X follows Y.".
The target is what the sentences of the new and the previous fact do not share, or what follows the last "is"; the subject
stands behind the words of the relation, or in a frame around it. Answers of one character are left out, as in the
published code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from editlab.data.fields import NO_RIVAL, PLACEHOLDER, string
from editlab.data.probes import Probe, Question
from editlab.data.requests import EditRequest
from editlab.errors import DataError

KINDS = {
    "Logical_Generalization": "Logical_Generalization",
    "Compositionality_I": "Compositionality_I",
    "Compositionality_II": "Compositionality_II",
    "Subject_Aliasing": "Subject_Aliasing",
    "Relation_Specificity": "Relation_Specificity",
    "Relation_Specifity": "Relation_Specificity",  # so spelt in the published example
    "Forgetfulness": "Forgetfulness",
}
_VERB = re.compile(r"^(.*\b(?:is|are|was|were))\s+(.+)$", re.DOTALL)
_SEQUEL = {"FOLLOWS": "follows", "FOLLOWED_BY": "is followed by"}
"""Relations whose sentence opens with the subject."""

_FRAMES = [
    re.compile(rf"^The (?:number|names?) of {words}$", re.DOTALL)
    for words in (
        r"the .+? which (.+) (?:is associated with|is a member of|is the capital of|is part of|plays in)",
        r"the award (.+) won",
        r"children (.+) has",
        r"the position held by (.+)",
        r"the currency in (.+)",
    )
] + [re.compile(r"^The (?:names? of the )?(?:(?! of ).)+? of (.+)$", re.DOTALL)]
"""Around the subject, where the words of the relation are not those of the sentence ("capital city of", "gender of")."""


def is_ripple(record: Mapping[str, Any]) -> bool:
    """Whether a record has RippleEdits' fields."""
    return isinstance(record.get("edit"), Mapping) and any(kind in record for kind in KINDS)


def ripple_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One edit with its tests.

    Raises:
        DataError: a field is missing or malformed, or subject and target cannot be told from the sentence.
    """
    edit = record["edit"]
    previous = edit.get("previous_fact")
    if previous is not None and not isinstance(previous, Mapping):
        raise DataError(f"{where}: field 'edit.previous_fact' must be an object")
    sentence = _sentence(edit, "edit.prompt", where)
    before = _sentence(previous, "edit.previous_fact.prompt", where) if previous else None
    stem, target, true = _split(sentence, before, str(edit.get("relation", "")), where)
    probes = [probe for kind in KINDS for probe in _probes(record.get(kind), kind, where, notes)]
    span = _subject(stem, edit)
    if span is None:
        raise DataError(f"{where}: the subject cannot be told from {sentence[:80]!r}")
    if true is None:
        notes[NO_RIVAL] += 1
    used = {"prompt", "subject", "relation", "target_id", "previous_fact"}
    extra = {name: value for name, value in record.items() if name not in {"edit", "case_id", *KINDS}}
    extra |= {f"edit.{name}": value for name, value in edit.items() if name not in used}
    standard = {
        "case_id": record.get("case_id", index),
        "requested_rewrite": {
            "prompt": f"{stem[: span[0]]}{{}}{stem[span[1] :]}",
            "subject": stem[slice(*span)],
            "relation_id": edit.get("relation"),
            "target_new": {"str": target, "id": edit.get("target_id")},
            "target_true": {"str": true or PLACEHOLDER, "id": previous.get("target_id") if previous else None},
        },
        "target_aliases": _aliases(record, edit.get("target_id"), target),
        "probes": [probe.to_record() for probe in probes],
    }
    return [EditRequest.from_record({**extra, **standard}, where)]


def _sentence(fact: Mapping[str, Any], field: str, where: str) -> str:
    return string(fact.get("prompt"), field, where).strip().removesuffix(".")


def _split(sentence: str, before: str | None, relation: str, where: str) -> tuple[str, str, str | None]:
    """(stem, new target, old target or None)."""
    shared = _shared(sentence, before) if before else sentence
    verb = _SEQUEL.get(relation)
    match = re.match(rf"^(.+? {verb})\s+", shared) if verb else _VERB.match(shared)
    known = shared[: max(shared.rfind(" "), 0)] if before else ""
    stem = match.group(1) if match is not None else known
    target = sentence[len(stem) :].strip()
    true = before[len(stem) :].strip() if before else None
    if not stem or not target or true == "":
        raise DataError(f"{where}: the target cannot be told from {sentence[:80]!r}")
    return stem, target, true


def _shared(one: str, other: str) -> str:
    """The start that two texts share."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _subject(stem: str, edit: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where the subject stands in the stem: as named in ``edit``, opening it, behind the relation's words, or in a frame."""
    named = edit.get("subject")
    if isinstance(named, str) and named.strip():
        at = stem.rfind(named.strip())
        return (at, at + len(named.strip())) if at >= 0 else None
    relation = str(edit.get("relation", ""))
    if relation in _SEQUEL:
        return 0, len(stem) - len(_SEQUEL[relation]) - 1
    body = re.sub(r"\s+(?:is|are|was|were)$", "", stem)
    words = re.escape(relation.replace("_", " ").strip())
    behind = re.search(rf"\b{words} of (.+)$", body, re.IGNORECASE | re.DOTALL) if words else None
    match = behind or next((found for frame in _FRAMES if (found := frame.match(body))), None)
    return match.span(1) if match else None


def _queries(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in KINDS:
        for test in record.get(kind) or []:
            for field in ("condition_queries", "test_queries"):
                yield from (q for q in (test.get(field) or []) if isinstance(q, Mapping))


def _aliases(record: Mapping[str, Any], target_id: Any, target: str) -> list[str]:
    """Other names of the new object, from a query whose answer it is."""
    for query in _queries(record):
        if query.get("target_ids") == [target_id] and query.get("query_type") == "regular":
            answers = query.get("answers") or [{}]
            aliases = answers[0].get("aliases") or []
            if answers[0].get("value") == target:
                return [alias for alias in aliases if isinstance(alias, str) and _counts(alias)]
    return []


def _probes(tests: Any, kind: str, where: str, notes: Counter[str]) -> Iterator[Probe]:
    if tests is None:
        return
    if not isinstance(tests, list) or not all(isinstance(test, Mapping) for test in tests):
        raise DataError(f"{where}: field '{kind}' must be a list of tests")
    for test in tests:
        condition = test.get("test_condition", "OR")
        if condition not in ("OR", "AND"):
            raise DataError(f"{where}: field '{kind}.test_condition' {condition!r} is not allowed; OR or AND")
        questions = _questions(test.get("test_queries"), f"{kind}.test_queries", where)
        conditions = _questions(test.get("condition_queries") or [], f"{kind}.condition_queries", where)
        if not questions or None in questions or None in conditions:
            notes[f"{KINDS[kind]} tests without an answer, left out"] += 1
            continue
        yield Probe(
            KINDS[kind], tuple(q for q in questions if q), condition == "AND", tuple(q for q in conditions if q)
        )


def _questions(queries: Any, field: str, where: str) -> list[Question | None]:
    """The queries; None for one of which no answer is left."""
    if not isinstance(queries, list) or not all(isinstance(query, Mapping) for query in queries):
        raise DataError(f"{where}: field '{field}' must be a list of queries")
    found: list[Question | None] = []
    for query in queries:
        answers = []
        for answer in query.get("answers") or []:
            values = [answer.get("value"), *(answer.get("aliases") or [])] if isinstance(answer, Mapping) else [answer]
            answers.append(tuple(str(v).strip() for v in values if v is not None and _counts(str(v).strip())))
        prompt = string(query.get("prompt"), f"{field}.prompt", where).rstrip()
        found.append(Question(prompt, tuple(answers)) if answers and all(answers) else None)
    return found


def _counts(answer: str) -> bool:
    return len(answer) > 1 or answer.isdigit()
