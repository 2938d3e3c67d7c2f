"""Relation tables of LRE (Hernandez et al., 2024, arXiv 2308.09124): one JSON a relation, as facts to edit.

A table has ``name``, ``prompt_templates`` (and ``prompt_templates_zs``) with ``{}``, and ``samples`` of ``subject`` and
``object``. Every sample becomes a request: the new object is another one of the relation, drawn by name; neighbours are
the other subjects with the same object, attribute prompts those of which the new one is true. Of a subject with several
objects the first counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from editlab.data.fields import string, strings
from editlab.data.requests import EditRequest, fill
from editlab.errors import DataError
from editlab.randomness import python_rng

NEIGHBORS = 10
_USED = {"name", "prompt_templates", "prompt_templates_zs", "samples"}


def is_relation(record: Mapping[str, Any]) -> bool:
    """Whether a record is a relation's table."""
    return "prompt_templates" in record and "samples" in record


def relation_requests(record: Mapping[str, Any], index: int, where: str, notes: Counter[str]) -> list[EditRequest]:
    """The facts of one relation.

    Raises:
        DataError: a field is missing or malformed, or the relation has one object only.
    """
    name = string(record.get("name"), "name", where)
    templates = [t for f in ("prompt_templates", "prompt_templates_zs") for t in strings(record.get(f), f, where)]
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise DataError(f"{where}: the templates of {name[:40]!r} must hold '{{}}' exactly once each")
    objects = _objects(record.get("samples"), where, notes)
    subjects = defaultdict(list)
    for subject, target in objects.items():
        subjects[target].append(subject)
    if len(subjects) < 2:
        raise DataError(f"{where}: relation {name[:40]!r} has one object only; an edit needs another one")
    extra = {field: value for field, value in record.items() if field not in _USED}
    return [
        _request(name, number, subject, templates, objects, subjects, extra if not number else {}, where)
        for number, subject in enumerate(objects)
    ]


def _objects(samples: Any, where: str, notes: Counter[str]) -> dict[str, str]:
    if not isinstance(samples, list) or not all(isinstance(sample, Mapping) for sample in samples):
        raise DataError(f"{where}: field 'samples' must be a list of {{subject, object}} objects")
    objects: dict[str, str] = {}
    for sample in samples:
        subject, target = (
            string(sample.get(field), f"samples.{field}", where).strip() for field in ("subject", "object")
        )
        if objects.setdefault(subject, target) != target:
            notes["further objects of a subject, left out"] += 1
    return objects


def _request(
    name: str,
    number: int,
    subject: str,
    templates: list[str],
    objects: Mapping[str, str],
    subjects: Mapping[str, list[str]],
    extra: Mapping[str, Any],
    where: str,
) -> EditRequest:
    rng = python_rng("relation table", name, subject)
    true = objects[subject]
    new = rng.choice(sorted(target for target in subjects if target != true))
    others = {target: rng.sample(found := sorted(set(subjects[target]) - {subject}), min(NEIGHBORS, len(found)))
              for target in (true, new)}  # fmt: skip
    standard = {
        "case_id": f"{name}-{number}",
        "requested_rewrite": {
            "prompt": templates[0], "subject": subject, "relation_id": name, "target_new": new, "target_true": true,
        },
        "paraphrase_prompts": [fill(template, subject) for template in templates[1:]],
        "neighborhood_prompts": [fill(templates[0], other) for other in others[true]],
        "attribute_prompts": [fill(templates[0], other) for other in others[new]],
    }  # fmt: skip
    return EditRequest.from_record({**extra, **standard}, where)
