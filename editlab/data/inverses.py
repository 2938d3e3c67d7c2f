"""Inverse relations of the generated world: from the object back to the person.

Many people are born in one town, so that its name alone does not lead back to one of them. Together with an occupation it
mostly does: *the baker who was born in Lisbon*. A world with chains states this of everybody whom it singles out, before
the edit and after it; when an edit moves the baker to Rome, who *the baker who was born in Rome* is follows exactly. A
model of the left-to-right kind learns the two directions apart (the reversal curse, Berglund et al., 2024, arXiv
2309.12288), so that this is the hardest of the probes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from editlab.data.probes import INVERSE, Probe, Question
from editlab.data.requests import EditRequest

CLAUSES = {
    "R-birthplace": "who was born in {}",
    "R-citizenship": "with a passport of {}",
    "R-mother-tongue": "whose first language is {}",
    "R-employer": "on the payroll of {}",
    "R-sport": "who won a medal in {}",
    "R-instrument": "who plays the {}",
}
OCCUPATION, WITH_OCCUPATION = "R-occupation", "R-birthplace"
"""Each relation is inverted together with the occupation; the occupation itself together with the birthplace."""

World = Mapping[tuple[str, str], str]
"""(subject, relation) -> object."""


def true_world(requests: Iterable[EditRequest], edited: Iterable[EditRequest] = ()) -> dict[tuple[str, str], str]:
    """What is true: of every fact before the edits, of the ``edited`` ones after them."""
    world = {(r.subject, r.relation_id): r.target_true for r in requests}
    return world | {(r.subject, r.relation_id): r.target_new for r in edited}


def with_inverses(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests with a probe of the inverse relation, where it has one right answer before the edit and after it."""
    world = true_world(requests)
    people = described(world)
    found = []
    for request in requests:
        subject, relation = request.subject, request.relation_id
        old = _description(subject, relation, world)
        new = _description(subject, relation, world, request.target_new)
        if old is not None and new is not None and people[old] == {subject} and new not in people:
            name = ((subject,),)
            probe = Probe(INVERSE, (Question(new, name),), conditions=(Question(old, name),))
            request = dataclasses.replace(request, probes=(*request.probes, probe))
        found.append(request)
    return found


def described(world: World) -> dict[str, set[str]]:
    """Whom each description fits."""
    found: dict[str, set[str]] = {}
    for subject, relation in world:
        prompt = _description(subject, relation, world)
        if prompt is not None:
            found.setdefault(prompt, set()).add(subject)
    return found


def _description(subject: str, relation: str, world: World, thing: str | None = None) -> str | None:
    """What leads back to a subject by a fact (whose object is ``thing``, if given); None where nothing does."""
    facts = {name: world.get((subject, name)) for name in (OCCUPATION, WITH_OCCUPATION, relation)}
    if thing is not None:
        facts[relation] = thing
    other = WITH_OCCUPATION if relation == OCCUPATION else relation
    if other not in CLAUSES or facts[OCCUPATION] is None or facts[other] is None:
        return None
    return f"The {facts[OCCUPATION]} {CLAUSES[other].format(facts[other])} is"
