"""KnowEdit (Zhang et al., 2024, arXiv 2401.01286) and QAEdit (Yang et al., 2025, arXiv 2502.11177): EasyEdit's JSON.

A KnowEdit record (wiki_recent, wiki_counterfact, ZsRE, WikiBio) has ``subject`` (WikiBio: ``concept``), ``prompt``
(``text``), ``target_new`` (``labels``), often ``ground_truth``, and two dictionaries of further questions by kind,
``portability`` (Reasoning, Subject_Aliasing, Logical_Generalization) and ``locality`` (Relation_Specificity,
Forgetfulness). A QAEdit record has ``prompt``, ``target``, ``subject``, ``rephrase`` and a list ``locality`` of
``{loc, loc_ans}``. Of nested answers the first name counts for teacher forcing, as in the published code, and all of them
for generated text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from editlab.data.fields import NO_RIVAL, PLACEHOLDER, first, names, string, strings, template_of
from editlab.data.probes import Probe
from editlab.data.requests import EditRequest
from editlab.errors import DataError

_QAEDIT = {"id", "subject", "prompt", "target", "rephrase", "relation_id", "locality"}
_KNOWEDIT = {"case_id", "ground_truth", "relation_id", "portability", "locality"}
_OTHERWISE = {"subject": "concept", "prompt": "text", "target_new": "labels", "rephrase_prompt": "rephrase"}
"""WikiBio's names of fields, and KnowEdit's other name of a rephrased prompt: read where the first name is absent."""

_KINDS = {"reasoning": "Reasoning"}  # spellings that occur beside the usual ones


def is_knowedit(record: Mapping[str, Any]) -> bool:
    """Whether a record has KnowEdit's dictionaries of further questions, or WikiBio's names of fields."""
    dictionaries = any(isinstance(record.get(name), Mapping) for name in ("portability", "locality"))
    return ("prompt" in record and dictionaries) or ("text" in record and "labels" in record)


def is_qaedit(record: Mapping[str, Any]) -> bool:
    """Whether a record has QAEdit's fields."""
    return "prompt" in record and "target" in record and "target_new" not in record


def knowedit_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One KnowEdit record.

    Raises:
        DataError: a field is missing or of the wrong type, or the subject does not occur in the prompt.
    """
    chosen = {name: name if name in record else other for name, other in _OTHERWISE.items()}
    subject, prompt = (string(record.get(chosen[name]), name, where) for name in ("subject", "prompt"))
    target = names(record.get(chosen["target_new"]))
    if not target:
        raise DataError(f"{where}: field 'target_new' is missing or empty")
    probes = [*_probes(record, "portability", where, notes), *_probes(record, "locality", where, notes)]
    rephrased = strings(record.get(chosen["rephrase_prompt"]), "rephrase_prompt", where)
    used = _KNOWEDIT | set(chosen.values())
    return [_request(record, used, record.get("case_id", index), template_of(prompt, subject, where, notes), subject,
                     target, names(record.get("ground_truth")), rephrased, probes, where, notes)]  # fmt: skip


def qaedit_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One QAEdit record.

    Raises:
        DataError: as :func:`knowedit_requests`.
    """
    subject, prompt = (string(record.get(name), name, where) for name in ("subject", "prompt"))
    target = names(record.get("target"))
    if not target:
        raise DataError(f"{where}: field 'target' is missing or empty")
    locality = record.get("locality") or []
    if not isinstance(locality, list) or not all(isinstance(item, Mapping) for item in locality):
        raise DataError(f"{where}: field 'locality' must be a list of {{loc, loc_ans}} objects")
    probes = []
    for item in locality:
        answer = names(item.get("loc_ans"))
        if answer:
            probes.append(Probe.simple("neighborhood", string(item.get("loc"), "locality.loc", where), answer))
        else:
            notes["locality questions without an answer, left out"] += 1
    rephrased = strings(record.get("rephrase"), "rephrase", where)
    return [_request(record, _QAEDIT, record.get("id", index), template_of(prompt, subject, where, notes), subject, target, (),
                     rephrased, probes, where, notes)]  # fmt: skip


def _request(
    record: Mapping[str, Any],
    used: set[str],
    case_id: Any,
    template: str,
    subject: str,
    target: tuple[str, ...],
    truth: tuple[str, ...],
    rephrased: list[str],
    probes: list[Probe],
    where: str,
    notes: Counter[str],
) -> EditRequest:
    if not truth:
        notes[NO_RIVAL] += 1
    neighbors = [p.questions[0] for p in probes if p.kind == "neighborhood"]
    standard: dict[str, Any] = {
        "case_id": case_id,
        "requested_rewrite": {
            "prompt": template,
            "subject": subject,
            "relation_id": record.get("relation_id"),
            "target_new": target[0],
            "target_true": truth[0] if truth else PLACEHOLDER,
        },
        "paraphrase_prompts": rephrased,
        "neighborhood_prompts": [question.prompt for question in neighbors],
        "neighborhood_targets": [question.answer for question in neighbors],
        "target_aliases": list(target[1:]),
        "probes": [p.to_record() for p in probes if p.kind != "neighborhood"],
    }
    extra = {name: value for name, value in record.items() if name not in used}
    return EditRequest.from_record({**extra, **standard}, where)


def _probes(record: Mapping[str, Any], field: str, where: str, notes: Counter[str]) -> Iterator[Probe]:
    """The questions of one dictionary, by kind."""
    kinds = record.get(field) or {}
    if not isinstance(kinds, Mapping):
        raise DataError(f"{where}: field '{field}' must be an object of kinds of questions")
    for name, items in kinds.items():
        kind = str(name)
        for prompt, answer in _items(items, f"{field}.{kind}", where):
            known = names(answer)
            if not known:
                notes[f"{field}.{kind} questions without an answer, left out"] += 1
                continue
            yield Probe.simple(_KINDS.get(kind, kind), first(prompt, f"{field}.{kind}.prompt", where), known)


def _items(items: Any, field: str, where: str) -> Iterator[tuple[Any, Any]]:
    """(prompt, answer) of ``[{prompt, ground_truth}, ...]``, of one such object, or of one that holds two lists."""
    if items is None:
        return
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, Mapping) or "prompt" not in item or "ground_truth" not in item:
            raise DataError(f"{where}: field '{field}' must hold objects with 'prompt' and 'ground_truth'")
        prompt, answer = item["prompt"], item["ground_truth"]
        if isinstance(prompt, list) and isinstance(answer, list) and len(prompt) == len(answer):
            yield from zip(prompt, answer, strict=True)
        else:
            yield prompt, answer
