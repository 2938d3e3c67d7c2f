"""Probes of the generated world, exactly and without a judge: aliases of a subject, and what else is true of it.

A person's name is two words; ``C. Tadora`` is an alias of ``Carla Tadora`` that no statement of the world uses, and that a
trained substrate mostly understands. Both kinds are conditioned on the unedited model's answer, so that a failure is the
edit's and not the model's. Two-hop questions need facts of their own and belong to a world with ``chains``
(:mod:`editlab.data.chains`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

from editlab.data.probes import Probe, Question
from editlab.data.requests import EditRequest, fill
from editlab.data.world import RELATIONS

_RELATIONS = {relation.identifier for relation in RELATIONS}
OTHER_FACTS = 1
"""Other facts of a subject that are asked, at most."""


def with_world_probes(
    chosen: Sequence[EditRequest], records: Sequence[EditRequest], held_out: Sequence[EditRequest] = ()
) -> list[EditRequest]:
    """The requests of a stream with probes by alias and about the unedited facts of the same subject.

    Requests of other data sets, and those that have such probes already, stay as they are.

    Args:
        records: all facts of the world.
        held_out: facts that are not asked, because a guard looks at them.
    """
    aliases = unique_aliases(records)
    edited = {request.key for request in [*chosen, *held_out]}
    others: dict[str, list[EditRequest]] = defaultdict(list)
    for record in records:
        if record.key not in edited:
            others[record.subject].append(record)
    return [_with_probes(request, aliases.get(request.subject), others[request.subject]) for request in chosen]


def unique_aliases(records: Sequence[EditRequest]) -> dict[str, str]:
    """Initial and last word of each subject of two words, where no other subject has the same."""
    found = {}
    for subject in sorted({record.subject for record in records if record.relation_id in _RELATIONS}):
        words = subject.split()
        if len(words) == 2:
            found[subject] = f"{words[0][0]}. {words[1]}"
    shared = Counter(found.values())
    return {subject: alias for subject, alias in found.items() if shared[alias] == 1}


def _with_probes(request: EditRequest, alias: str | None, others: Sequence[EditRequest]) -> EditRequest:
    kinds = {probe.kind for probe in request.probes}
    probes = list(request.probes)
    if alias is not None and "Subject_Aliasing" not in kinds:
        prompt = fill(request.prompt, alias)
        known = Question(prompt, ((request.target_true,),))
        probes.append(Probe("Subject_Aliasing", (Question(prompt, ((request.target_new,),)),), conditions=(known,)))
    if request.relation_id in _RELATIONS and "Relation_Specificity" not in kinds:
        for other in others[:OTHER_FACTS]:
            fact = Question(other.rewrite_prompt, ((other.target_true,),))
            probes.append(Probe("Relation_Specificity", (fact,), conditions=(fact,)))
    return dataclasses.replace(request, probes=tuple(probes))
