"""CounterFact: 21,919 counterfactual statements with paraphrases, neighbours and generation prompts.

A record (Meng et al., 2022, arXiv 2202.05262, section 3.3) asks for (subject, relation) -> ``target_new`` in place of
``target_true``. Neighbourhood prompts are *other* subjects of which ``target_true`` holds: after a specific edit they
still complete to it. Attribute prompts are subjects of which ``target_new`` is true. ``counterfact.json`` and
``multi_counterfact.json`` share that layout; releases that nest differently (neighbours as ``{prompt, target}``
objects, a ``requested_rewrite`` that is a list of one) and the flat form of EasyEdit are brought to it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editlab.data.requests import EditRequest, unfill
from editlab.errors import DataError

_EASYEDIT = {
    "case_id", "prompt", "subject", "relation_id", "target_new", "ground_truth",
    "rephrase_prompt", "locality_prompt", "locality_ground_truth",
}  # fmt: skip


def is_easyedit(record: Any) -> bool:
    """Whether a record has EasyEdit's flat layout."""
    return isinstance(record, Mapping) and "requested_rewrite" not in record and "prompt" in record


def counterfact_request(record: Any, index: int, source: str) -> EditRequest:
    """One official record; ``source`` (the file) and ``index`` open every error message.

    Raises:
        DataError: a field is missing or malformed.
    """
    where = f"{source}: record {index}"
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a record must be an object, got {type(record).__name__}")
    rewrite = record.get("requested_rewrite")
    if isinstance(rewrite, list):
        if len(rewrite) != 1:
            raise DataError(f"{where}: field 'requested_rewrite' must hold one rewrite, got a list of {len(rewrite)}")
        record = {**record, "requested_rewrite": rewrite[0]}
    neighbors = record.get("neighborhood_prompts")
    if isinstance(neighbors, list) and any(isinstance(item, Mapping) for item in neighbors):
        record = {**record, **_split_neighbors(record, neighbors, where)}
    return EditRequest.from_record(record, where)


def _split_neighbors(record: Mapping[str, Any], neighbors: list[Any], where: str) -> dict[str, list[Any]]:
    """Neighbours given as ``{prompt, target}`` objects (plain strings among them keep ``target_true``)."""
    rewrite = record.get("requested_rewrite")
    true = rewrite.get("target_true") if isinstance(rewrite, Mapping) else None
    default = true.get("str") if isinstance(true, Mapping) else true
    pairs = [(n.get("prompt"), n.get("target", default)) if isinstance(n, Mapping) else (n, default) for n in neighbors]
    if not all(isinstance(text, str) and text.strip() for pair in pairs for text in pair):
        raise DataError(f"{where}: field 'neighborhood_prompts' must hold strings or {{prompt, target}} objects")
    return {"neighborhood_prompts": [p for p, _ in pairs], "neighborhood_targets": [t for _, t in pairs]}


def easyedit_request(record: Any, index: int, source: str) -> EditRequest:
    """One EasyEdit record: ``prompt`` arrives with the subject filled in and gets its ``{}`` back.

    ``ground_truth``, ``rephrase_prompt``, ``locality_prompt`` and ``locality_ground_truth`` may be a string or a list
    (of alternative answers: the first counts). A record without ``case_id`` takes its index.

    Raises:
        DataError: a field is missing, or the subject does not occur in the prompt.
    """
    where = f"{source}: record {index}"
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a record must be an object, got {type(record).__name__}")
    prompt, subject = (_string(record.get(name), name, where) for name in ("prompt", "subject"))
    template = unfill(prompt, subject)
    if template is None and "{}" not in prompt:
        raise DataError(f"{where}: the subject {subject[:80]!r} does not occur in the prompt {prompt[:80]!r}")
    locality = _strings(record.get("locality_prompt"), "locality_prompt", where)
    answers = _strings(record.get("locality_ground_truth"), "locality_ground_truth", where)
    if len(locality) != len(answers):
        raise DataError(f"{where}: locality_prompt and locality_ground_truth must be of equal length")
    standard = {
        "case_id": record.get("case_id", index),
        "requested_rewrite": {
            "prompt": template or prompt,
            "subject": subject,
            "relation_id": record.get("relation_id"),
            "target_new": _first(record.get("target_new"), "target_new", where),
            "target_true": _first(record.get("ground_truth"), "ground_truth", where),
        },
        "paraphrase_prompts": _strings(record.get("rephrase_prompt"), "rephrase_prompt", where),
        "neighborhood_prompts": locality,
        "neighborhood_targets": answers,
    }
    extra = {k: v for k, v in record.items() if k not in _EASYEDIT or (k == "ground_truth" and isinstance(v, list))}
    return EditRequest.from_record({**extra, **standard}, where)


def _string(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field '{field}' is missing, empty or not a string")
    return value


def _strings(value: Any, field: str, where: str) -> list[str]:
    if value is None:
        return []
    return [_string(item, field, where) for item in (value if isinstance(value, list) else [value])]


def _first(value: Any, field: str, where: str) -> str:
    return _string(value[0] if isinstance(value, list) and value else value, field, where)
