"""MQuAKE-CF and -T (Zhong et al., 2023, arXiv 2305.14795): cases of one to four rewrites, and questions over all of them.

A record has ``requested_rewrite`` (a list; each with ``question``, the fact as a question), three multi-hop
``questions`` with ``new_answer`` and ``new_answer_alias``, and ``new_single_hops``, the questions of which they are made.
Every rewrite becomes a request of the case's ``group``; the last one carries the case's probes: ``multi_hop`` (one of the
three questions answered is enough, as published) and ``single_hop`` (every hop right), by which the multi-hop score is
also given among the cases that know all their hops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from editlab.data.fields import names, string, strings
from editlab.data.probes import MULTI_HOP, SINGLE_HOP, Probe, Question
from editlab.data.requests import EditRequest
from editlab.errors import DataError

_USED = {"case_id", "requested_rewrite", "questions", "new_answer", "new_answer_alias", "new_single_hops"}


def is_mquake(record: Mapping[str, Any]) -> bool:
    """Whether a record has MQuAKE's fields."""
    return "requested_rewrite" in record and "questions" in record and "new_answer" in record


def mquake_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One case: a request a rewrite.

    Raises:
        DataError: a field is missing or malformed.
    """
    rewrites = record["requested_rewrite"]
    rewrites = rewrites if isinstance(rewrites, list) else [rewrites]
    if not rewrites or not all(isinstance(rewrite, Mapping) for rewrite in rewrites):
        raise DataError(f"{where}: field 'requested_rewrite' must hold one rewrite or more")
    case, hops = str(record.get("case_id", index)), _hops(record.get("new_single_hops"), where)
    aliases = {question.answer: list(question.answers[0][1:]) for question in hops}
    extra = {name: value for name, value in record.items() if name not in _USED}
    requests = []
    for number, rewrite in enumerate(rewrites, start=1):
        last = number == len(rewrites)
        new = rewrite.get("target_new")
        standard = {
            "case_id": case if len(rewrites) == 1 else f"{case}-{number}",
            "group": case,
            "requested_rewrite": {name: value for name, value in rewrite.items() if name != "question"},
            "paraphrase_prompts": strings(rewrite.get("question"), "requested_rewrite.question", where),
            "target_aliases": aliases.get(str(new.get("str")) if isinstance(new, Mapping) else "", []),
            "probes": [probe.to_record() for probe in _probes(record, hops, where)] if last else [],
        }
        requests.append(EditRequest.from_record({**(extra if last else {}), **standard}, where))
    notes["rewrites"] += len(rewrites)
    return requests


def _hops(value: Any, where: str) -> list[Question]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(hop, Mapping) for hop in value):
        raise DataError(f"{where}: field 'new_single_hops' must be a list of objects")
    found = []
    for hop in value:
        answers = names([hop.get("answer"), hop.get("answer_alias") or []])
        if not answers:
            raise DataError(f"{where}: a hop of 'new_single_hops' has no answer")
        found.append(Question(string(hop.get("question"), "new_single_hops.question", where), (answers,)))
    return found


def _probes(record: Mapping[str, Any], hops: list[Question], where: str) -> list[Probe]:
    answers = names([record.get("new_answer"), record.get("new_answer_alias") or []])
    questions = strings(record.get("questions"), "questions", where)
    if not answers or not questions:
        raise DataError(f"{where}: fields 'questions' and 'new_answer' must not be empty")
    probes = [Probe(MULTI_HOP, tuple(Question(question, (answers,)) for question in questions))]
    return [*probes, Probe(SINGLE_HOP, tuple(hops), every=True)] if hops else probes
