"""Probes of the generated world, exactly and without a judge: aliases of a subject, and what else is true of it.

A person's name is two words; ``C. Tadora`` is an alias of ``Carla Tadora`` that no statement of the world uses, and that a
trained substrate mostly understands. Both kinds are conditioned on the unedited model's answer, so that a failure is the
edit's and not the model's. Two-hop questions and inverse relations need facts of their own and belong to a world with
``chains`` (:mod:`editlab.data.chains`, :mod:`editlab.data.inverses`); of these, an inverse relation is asked only while
the edits of the stream leave it one right answer.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from editlab.data.inverses import described, true_world
from editlab.data.probes import INVERSE, Probe, Question
from editlab.data.requests import EditRequest, fill
from editlab.data.world import RELATIONS

_RELATIONS = {relation.identifier for relation in RELATIONS}
OTHER_FACTS = 1
"""Other facts of a subject that are asked, at most."""


def with_world_probes(
    chosen: Sequence[EditRequest],
    records: Sequence[EditRequest],
    held_out: Sequence[EditRequest] = (),
    edited: Sequence[EditRequest] = (),
) -> list[EditRequest]:
    """The requests of a stream with probes by alias and about the unedited facts of the same subject.

    Requests of other data sets, and those that have such probes already, stay as they are.

    Args:
        records: all facts of the world.
        held_out: facts that are not asked, because a guard looks at them.
        edited: facts that the model has anew beside the chosen ones.
    """
    aliases = unique_aliases(records)
    people = described(true_world(records, [*chosen, *edited]))
    untold = {request.key for request in [*chosen, *held_out, *edited]}
    others: dict[str, list[EditRequest]] = defaultdict(list)
    for record in records:
        if record.key not in untold:
            others[record.subject].append(record)
    single = [_without_ambiguous(request, people) for request in chosen]
    return [_with_probes(request, aliases.get(request.subject), others[request.subject]) for request in single]


def unique_aliases(records: Sequence[EditRequest]) -> dict[str, str]:
    """Initial and last word of each subject of two words, where no other subject has the same."""
    found = {}
    for subject in sorted({record.subject for record in records if record.relation_id in _RELATIONS}):
        words = subject.split()
        if len(words) == 2:
            found[subject] = f"{words[0][0]}. {words[1]}"
    shared = Counter(found.values())
    return {subject: alias for subject, alias in found.items() if shared[alias] == 1}


def _without_ambiguous(request: EditRequest, people: Mapping[str, set[str]]) -> EditRequest:
    """Without inverse relations that lead to somebody else too, or to nobody, after the edits."""
    if request.relation_id not in _RELATIONS:
        return request
    probes = tuple(
        p for p in request.probes if p.kind != INVERSE or people.get(p.questions[0].prompt) == {request.subject}
    )
    return dataclasses.replace(request, probes=probes)


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
