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


def test_real_records(shared_data):
    """In a stream of 2,000 of 6,292 records some 7 % of the neighbours are edited themselves; none is overlooked."""
    records = load_requests(shared_data / "counterfact" / "counterfact_rebuilt.json")
    stream = sample_requests(records, 2000, 1)
    edited, own = EditedFacts(stream), {p for r in stream for p in (r.rewrite_prompt, *r.paraphrase_prompts)}
    flags = [
        (p, flag) for r in stream for p, flag in zip(r.neighborhood_prompts, edited.untouched_neighbors(r), strict=True)
    ]
    assert not any(flag for prompt, flag in flags if prompt in own)
    assert 0.05 < 1 - sum(flag for _, flag in flags) / len(flags) < 0.12


@pytest.mark.parametrize("case", range(3))
def test_names_in_other_scripts(case):
    subject = ["Łódź Fabryczna", "東京 タワー", "Ó Súilleabháin"][case]
    assert EditedFacts([fact(subject)]).touches(f"{subject} was born in", "P1")
    assert not EditedFacts([dataclasses.replace(fact(subject), subject="Other")]).touches(f"{subject} was", "P1")
