"""Which prompts ask for edited facts, on the generated world, on real records, and on names inside names."""

from __future__ import annotations

import dataclasses

import pytest

from editlab.data import load_requests, make_facts, sample_requests
from editlab.data.edited import EditedFacts
from editlab.data.requests import EditRequest


def fact(subject: str, relation: str = "P1", **more) -> EditRequest:
    return EditRequest("1", "{} was born in", subject, "Rome", "Oslo", relation_id=relation, **more)


def test_the_subject_counts_only_as_whole_words_and_in_its_relation():
    edited = EditedFacts([fact("Ann Lee"), fact("Bo", "P2")])
    assert edited.touches("Ann Lee was born in", "P1")
    assert edited.touches("The birthplace of ANN LEE's brother is", "P1")
    assert not edited.touches("Ann Leeson was born in", "P1")
    assert not edited.touches("Joann Lee was born in", "P1")
    assert not edited.touches("Ann Lee was born in", "P2")
    assert not edited.touches("Bo was born in", "P1")
    assert edited.touches("Bo speaks", "")  # an unknown relation: any edited subject counts
    assert not EditedFacts().touches("Ann Lee was born in", "P1")


def test_in_the_generated_world_it_finds_exactly_the_prompts_of_edited_facts():
    world = make_facts(600, 3)
    stream = sample_requests(world, 200, 1)
    edited = EditedFacts(stream)
    own = {p for r in stream for p in (r.rewrite_prompt, *r.paraphrase_prompts)}
    for request in world:
        expected = [prompt not in own for prompt in request.neighborhood_prompts]
        assert edited.untouched_neighbors(request) == expected


def test_adding_one_by_one_is_adding_all():
    world = make_facts(120, 3)
    slowly = EditedFacts()
    for request in world[:40]:
        slowly.add([request])
    at_once = EditedFacts(world[:40])
    assert [slowly.untouched_neighbors(r) for r in world] == [at_once.untouched_neighbors(r) for r in world]


def test_real_records_share_few_neighbours(shared_data):
    records = load_requests(shared_data / "counterfact" / "counterfact_rebuilt.json")
    edited = EditedFacts(records)
    prompts = [flag for r in records for flag in edited.untouched_neighbors(r)]
    touched = 1 - sum(prompts) / len(prompts)
    assert 0.03 < touched < 0.15
    # A record's own subject is never among its neighbours, save where a name holds another.
    alone = [all(EditedFacts([r]).untouched_neighbors(r)) for r in records[:500]]
    assert sum(alone) > 490


@pytest.mark.parametrize("case", range(3))
def test_names_in_other_scripts(case):
    subject = ["Łódź Fabryczna", "東京 タワー", "Ó Súilleabháin"][case]
    assert EditedFacts([fact(subject)]).touches(f"{subject} was born in", "P1")
    assert not EditedFacts([dataclasses.replace(fact(subject), subject="Other")]).touches(f"{subject} was", "P1")
