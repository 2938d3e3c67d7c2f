"""Which prompts ask for edited facts, on the generated world, on real records, and on names inside names."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.data import load_requests, make_facts, sample_requests
from editlab.data.edited import EditedFacts, SubjectFacts, edited_again
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


def test_in_its_own_file_the_subject_of_a_request_counts_as_unaffected():
    """KnowEdit and zsRE name no relations; what they name as unaffected is often another fact of the same subject."""
    request = dataclasses.replace(fact("Ann Lee", ""), neighborhood_prompts=("Ann Lee speaks", "Bo Ek speaks"))
    assert EditedFacts([request]).untouched_neighbors(request) == [True, True]
    assert EditedFacts([request, fact("Bo Ek", "")]).untouched_neighbors(request) == [True, False]


def test_other_facts_of_a_subject_are_asked_until_they_are_edited():
    world = make_facts(600, 3)
    stream = sample_requests([r for r in world if not r.reserved_for], 60, 1)
    facts, edited = SubjectFacts(world, 1), EditedFacts(stream[:30])
    asked = facts.unedited(stream[0], edited, 99)
    same = {r.key for r in world if r.subject == stream[0].subject}
    assert {r.key for r in asked} == same - {r.key for r in stream[:30]}
    assert facts.unedited(stream[0], edited, 2) == asked[:2]  # a larger sample goes on from a smaller one
    edited.add(asked[:1])
    assert facts.unedited(stream[0], edited, 99) == asked[1:]
    other = SubjectFacts(world, 2)
    assert any(other.unedited(r, edited, 2) != facts.unedited(r, edited, 2) for r in stream)


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_a_subject_comes_again_or_not(names):
    stream = [fact(name, f"P{i}") for i, name in enumerate(names)]
    assert edited_again(stream) == [name in names[i + 1 :] for i, name in enumerate(names)]
