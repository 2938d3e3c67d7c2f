"""CounterFact: 21,919 counterfactual statements with paraphrases, neighbours and generation prompts.

A record (Meng et al., 2022, arXiv 2202.05262, section 3.3) asks for (subject, relation) -> ``target_new`` in place of
``target_true``. Neighbourhood prompts are *other* subjects of which ``target_true`` holds: after a specific edit they
still complete to it. Attribute prompts are subjects of which ``target_new`` is true. ``counterfact.json`` and
``multi_counterfact.json`` share that layout; releases that nest differently (neighbours as ``{prompt, target}``
objects, a ``requested_rewrite`` that is a list of one) and the flat form of EasyEdit are brought to it here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from editlab.data.fields import first, names, string, strings, template_of
from editlab.data.probes import Probe
from editlab.data.requests import EditRequest
from editlab.errors import DataError

_EASYEDIT = {
    "case_id", "prompt", "subject", "relation_id", "target_new", "ground_truth",
    "rephrase_prompt", "locality_prompt", "locality_ground_truth",
}  # fmt: skip


def is_easyedit(record: Any) -> bool:
    """Whether a record has EasyEdit's flat layout."""
    return isinstance(record, Mapping) and "requested_rewrite" not in record and "prompt" in record


def is_peak(record: Mapping[str, Any]) -> bool:
    """Whether a record is PEAK's (Ma et al., 2024, arXiv 2401.17623): CounterFact's, paraphrases under another name."""
    return "requested_rewrite" in record and "para_add_prompts" in record


def peak_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One record of PEAK; its lists of right and wrong answers are kept, not scored."""
    renamed = {name: value for name, value in record.items() if name != "para_add_prompts"}
    return counterfact_requests(renamed | {"paraphrase_prompts": record["para_add_prompts"]}, index, where, notes)


def counterfact_requests(record: Mapping[str, Any], _index: int, where: str, _notes: Counter[str]) -> list[EditRequest]:
    """One official record; ``where`` (file and record) opens every error message.

    Raises:
        DataError: a field is missing or malformed.
    """
    rewrite = record.get("requested_rewrite")
    if isinstance(rewrite, list):
        if len(rewrite) != 1:
            raise DataError(f"{where}: field 'requested_rewrite' must hold one rewrite, got a list of {len(rewrite)}")
        record = {**record, "requested_rewrite": rewrite[0]}
    neighbors = record.get("neighborhood_prompts")
    if isinstance(neighbors, list) and any(isinstance(item, Mapping | list) for item in neighbors):
        record = {**record, **_split_neighbors(record, neighbors, where)}
    return [EditRequest.from_record(with_new_question(record, where), where)]


def has_new_question(record: Mapping[str, Any]) -> bool:
    """Whether a record has EasyEdit's question of portability (Yao et al., 2023, arXiv 2305.13172)."""
    portability = record.get("portability")
    return isinstance(portability, Mapping) and {"New Question", "New Answer"} <= portability.keys()


def with_new_question(record: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A record with EasyEdit's question of portability, where it has one, as a *Reasoning* probe."""
    if not has_new_question(record):
        return record
    fields = record["portability"]
    question = string(fields["New Question"], "portability.New Question", where)
    answers = names(fields["New Answer"])
    if not answers:
        raise DataError(f"{where}: field 'portability.New Answer' is missing or empty")
    rest = {f"portability.{name}": value for name, value in fields.items() if not str(name).startswith("New ")}
    probes = [*(record.get("probes") or []), Probe.simple("Reasoning", question, answers).to_record()]
    return {**{name: value for name, value in record.items() if name != "portability"}, **rest, "probes": probes}


def _split_neighbors(record: Mapping[str, Any], neighbors: list[Any], where: str) -> dict[str, list[Any]]:
    """Neighbours given as ``{prompt, target}`` objects or pairs (plain strings among them keep ``target_true``)."""
    rewrite = record.get("requested_rewrite")
    true = rewrite.get("target_true") if isinstance(rewrite, Mapping) else None
    default = true.get("str") if isinstance(true, Mapping) else true
    pairs = [_neighbor(item, default) for item in neighbors]
    if not all(isinstance(text, str) and text.strip() for pair in pairs for text in pair):
        raise DataError(f"{where}: field 'neighborhood_prompts' must hold strings, {{prompt, target}} objects or pairs")
    return {"neighborhood_prompts": [p for p, _ in pairs], "neighborhood_targets": [t for _, t in pairs]}


def _neighbor(item: Any, default: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        return item.get("prompt"), item.get("target", default)
    if isinstance(item, list):
        return (item[0], item[1]) if len(item) == 2 else (None, None)
    return item, default


def easyedit_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """One EasyEdit record: ``prompt`` arrives with the subject filled in and gets its ``{}`` back.

    ``ground_truth``, ``rephrase_prompt``, ``locality_prompt`` and ``locality_ground_truth`` may be a string or a list
    (of alternative answers: the first counts; further names of ``target_new`` are aliases). Each ``portability_prompt`` with
    its ``portability_ground_truth`` is a probe. A record without ``case_id`` takes its index.

    Raises:
        DataError: a field is missing, or the subject does not occur in the prompt.
    """
    prompt, subject = (string(record.get(name), name, where) for name in ("prompt", "subject"))
    locality = strings(record.get("locality_prompt"), "locality_prompt", where)
    answers = strings(record.get("locality_ground_truth"), "locality_ground_truth", where)
    if len(locality) != len(answers):
        raise DataError(f"{where}: locality_prompt and locality_ground_truth must be of equal length")
    standard: dict[str, Any] = {
        "case_id": record.get("case_id", index),
        "requested_rewrite": {
            "prompt": template_of(prompt, subject, where, notes),
            "subject": subject,
            "relation_id": record.get("relation_id"),
            "target_new": first(record.get("target_new"), "target_new", where),
            "target_true": first(record.get("ground_truth"), "ground_truth", where),
        },
        "paraphrase_prompts": strings(record.get("rephrase_prompt"), "rephrase_prompt", where),
        "neighborhood_prompts": locality,
        "neighborhood_targets": answers,
        "target_aliases": list(names(record["target_new"])[1:]),
    }
    extra = {k: v for k, v in record.items() if k not in _EASYEDIT or (k == "ground_truth" and isinstance(v, list))}
    probes = _portability(record, where)
    if probes:
        standard["probes"] = [probe.to_record() for probe in probes]
        extra = {k: v for k, v in extra.items() if not k.startswith("portability_")}
    return [EditRequest.from_record({**extra, **standard}, where)]


def _portability(record: Mapping[str, Any], where: str) -> list[Probe]:
    """The questions that follow: one with its answer and other names of it, or as many answers as questions."""
    prompts = strings(record.get("portability_prompt"), "portability_prompt", where)
    answers = record.get("portability_ground_truth")
    if not prompts or not names(answers):
        return []
    if len(prompts) == 1:
        answers = [answers]
    if not isinstance(answers, list) or len(answers) != len(prompts) or not all(names(answer) for answer in answers):
        raise DataError(f"{where}: portability_prompt and portability_ground_truth must be of equal length")
    return [Probe.simple("Reasoning", p, names(a)) for p, a in zip(prompts, answers, strict=True)]
