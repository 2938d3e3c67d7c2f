"""The generated world: every probe is true in it, at any size, and it is the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Container
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.config.data import MAX_OBJECTS, MAX_RELATIONS, SUBJECTS_PER_OBJECT, FactsData
from editlab.data import make_facts, sample_requests, true_statements, world
from editlab.data.corpus import reserved_facts
from editlab.data.edited import EditedFacts
from editlab.data.facts import ATTRIBUTES, MAX_SIZE, MIN_SIZE, NEIGHBORS, last_words, with_sweep_facts
from editlab.data.requests import NEIGHBOR, SWEEP, EditRequest, fill, write_requests
from editlab.data.world import FIRST_WORDS, GENERATION, RELATIONS, Relation
from editlab.errors import ConfigError

BY_ID = {relation.identifier: relation for relation in RELATIONS}
DIGEST = """
import hashlib
from editlab.data.corpus import reserved_facts
from editlab.data import make_facts
print(hashlib.sha256(repr([r.to_record() for r in make_facts(500, 3)]).encode()).hexdigest())
"""


def speaks_of(prompt: str, relation: Relation, subjects: Container[str]) -> str:
    """The one subject of which a prompt, made from one of the relation's templates, speaks."""
    found = []
    for template in relation.templates:
        before, after = template.split("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            found.append(prompt[len(before) : len(prompt) - len(after)])
    named = [name for name in found if name in subjects]
    assert len(named) == 1, prompt
    return named[0]


def check_world(facts: list[EditRequest]) -> None:
    truth = {(fact.subject, fact.relation_id): fact.target_true for fact in facts}
    names = {fact.subject for fact in facts}
    assert len(truth) == len(facts)
    for fact in facts:
        relation = BY_ID[fact.relation_id]
        assert fact.target_new != fact.target_true
        assert {fact.target_new, fact.target_true} <= set(relation.objects)
        assert fact.paraphrase_prompts == tuple(fill(t, fact.subject) for t in relation.templates[1:])
        assert len(set(fact.neighborhood_prompts)) == NEIGHBORS
        assert len(set(fact.attribute_prompts)) == ATTRIBUTES
        neighbors = {speaks_of(prompt, relation, names) for prompt in fact.neighborhood_prompts}
        assert fact.subject not in neighbors
        assert len(neighbors) >= SUBJECTS_PER_OBJECT - 1
        assert {truth[name, fact.relation_id] for name in neighbors} == {fact.target_true}
        attributes = {speaks_of(prompt, relation, names) for prompt in fact.attribute_prompts}
        assert {truth[name, fact.relation_id] for name in attributes} == {fact.target_new}
        assert len(fact.generation_prompts) >= 3
        assert all(fact.subject in prompt for prompt in fact.generation_prompts)


def check_reserve(facts: list[EditRequest]) -> None:
    """No fact of a reserved subject is edited, and half of the neighbours of every fact are such subjects."""
    reserved = {fact.subject for fact in facts if fact.reserved_for == NEIGHBOR}
    assert not reserved & {fact.subject for fact in facts if fact.reserved_for != NEIGHBOR}
    held = {p for f in facts if f.subject in reserved for p in (f.rewrite_prompt, *f.paraphrase_prompts)}
    assert all(2 * len(held.intersection(fact.neighborhood_prompts)) == NEIGHBORS for fact in facts)


@pytest.mark.parametrize("each", [1, 5])
@pytest.mark.parametrize("size", [MIN_SIZE, 61, 500, 1800])
def test_what_is_reserved_leaves_what_the_configuration_promises(size: int, each: Literal[1, 5]) -> None:
    facts = make_facts(size, 4, facts_a_subject=each)
    check_world(facts)
    check_reserve(facts)
    free = [fact for fact in facts if not fact.reserved_for]
    options = FactsData(kind="facts", size=size, facts_a_subject=each)
    assert options.editable <= len(free) <= options.editable + 2 * options.shape[0] * MAX_OBJECTS
    kept = [fact for fact in facts if fact.reserved_for == SWEEP]
    assert len(kept) <= options.kept(size) <= size // 5
    assert not {fact.subject for fact in kept} & {fact.subject for fact in free}
    if size == 1800:
        assert len(kept) > 120
        assert len(free) == 1200 - len(kept)
    per_subject = Counter(fact.subject for fact in facts)
    assert each == 5 or max(per_subject.values()) == 1
    assert each == 1 or size < 500 or max(per_subject.values()) > 3


def test_after_5000_edits_half_of_the_neighbours_are_untouched() -> None:
    facts = make_facts(6600, 1)
    stream = sample_requests([fact for fact in facts if not fact.reserved_for], 5000, 1)
    edited = EditedFacts(stream)
    shares = [sum(edited.untouched_neighbors(fact)) / NEIGHBORS for fact in stream[::50]]
    assert min(shares) >= 0.5


def test_the_constants_of_the_configuration_are_those_of_the_vocabulary() -> None:
    assert len(RELATIONS) == MAX_RELATIONS
    assert {len(relation.objects) for relation in RELATIONS} == {MAX_OBJECTS}


@pytest.mark.parametrize("size", [MIN_SIZE, 60, 200, 500])
def test_every_probe_is_true_in_the_world(size: int) -> None:
    facts = make_facts(size, seed=size)
    assert len(facts) == size
    check_world(facts)


@settings(max_examples=10, deadline=None)
@given(st.integers(MIN_SIZE, 700), st.integers(0, 2**40))
def test_any_size_and_seed_make_a_balanced_world(size: int, seed: int) -> None:
    facts = make_facts(size, seed)
    check_world(facts)
    subjects_per_object = Counter((fact.relation_id, fact.target_true) for fact in facts)
    assert min(subjects_per_object.values()) >= SUBJECTS_PER_OBJECT


def test_a_large_world_is_fast_whole_and_prefix_free() -> None:
    start = time.process_time()
    facts = make_facts(5000, seed=1)
    assert time.process_time() - start < 2
    check_world(facts)
    assert facts[0].case_id == "f00001"
    assert facts[-1].case_id == "f05000"
    names = sorted({fact.subject for fact in facts})
    assert not [pair for pair in itertools.pairwise(names) if pair[1].startswith(pair[0])]
    assert all(" " in name for name in names)
    objects = defaultdict(set)
    for fact in facts:
        objects[fact.relation_id].add(fact.target_true)
    assert len(objects) == len(RELATIONS)
    assert min(len(found) for found in objects.values()) >= 20
    assert {BY_ID[identifier].kind for identifier in objects} == set(GENERATION)


def test_1800_facts_are_enough_for_twenty_objects_a_relation() -> None:
    objects = Counter(relation for relation, _ in {(f.relation_id, f.target_true) for f in make_facts(1800, 0)})
    assert set(objects.values()) == {20}
    assert len(objects) == len(RELATIONS) == 15


def test_the_same_in_another_process() -> None:
    here = hashlib.sha256(repr([fact.to_record() for fact in make_facts(500, 3)]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True,
                              cwd=Path(__file__).parents[2], env={"PYTHONHASHSEED": hash_seed})  # fmt: skip
        assert done.stdout.strip() == here


def test_written_worlds_differ_by_seed_and_are_byte_identical_otherwise(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_requests(make_facts(60, seed), tmp_path / name)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_templates_and_objects_of_the_world() -> None:
    for relation in RELATIONS:
        assert len(set(relation.templates)) >= 6
        assert relation.templates[0].startswith("{} ")
        assert any(not template.startswith("{}") for template in relation.templates[1:])
        for template in relation.templates:
            assert template.count("{}") == 1
            assert not template.endswith((" ", "{}", "."))
        assert len(set(relation.objects)) == len(relation.objects) >= 20
        assert not [a for a, b in itertools.permutations(relation.objects, 2) if b.startswith(a)]
    assert not [word for word in BY_ID["R-occupation"].objects if re.match("[aeiou]", word)], "templates end in 'a'"
    words = [word for group in FIRST_WORDS.values() for word in group]
    assert len(set(words)) == len(words)


def test_all_statements_of_a_world_are_consistent() -> None:
    facts = make_facts(500, seed=0)
    statements = true_statements(facts)
    assert len(statements) == 500 * 6
    truth = {fact.rewrite_prompt: fact.target_true for fact in facts}
    assert all(dict(statements)[prompt] == target for prompt, target in truth.items())


@pytest.mark.parametrize("size", [-1, 0, MIN_SIZE - 1, MAX_SIZE + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"size: {size} .* between 12 and 50000"):
        make_facts(size, 0)


def test_last_words_that_start_with_another_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(world.STEMS, "person", ("Bel", "Bell"))
    monkeypatch.setitem(world.ENDINGS, "person", ("la", "lan", "a", "o"))
    assert last_words("person") == ["Bela", "Bella", "Bellla", "Bello", "Belo"]


def test_sweep_facts_depend_on_the_data_set_alone_and_are_whole_subjects_and_groups() -> None:
    plain = [dataclasses.replace(fact, reserved_for="") for fact in make_facts(300, 1)]
    facts = [dataclasses.replace(fact, group="g" if i in (3, 200) else "") for i, fact in enumerate(plain)]
    for count in (0, 7, 60):
        chosen = {f.case_id for f in with_sweep_facts(facts, count) if f.reserved_for}
        again = {f.case_id for f in with_sweep_facts(facts[::-1], count) if f.reserved_for}
        assert chosen == again
        assert count - 6 <= len(chosen) <= count
        assert len(chosen & {facts[3].case_id, facts[200].case_id}) != 1
    whole = with_sweep_facts(facts, 60)
    groups = [{f.subject for f in whole if f.group == "" and bool(f.reserved_for) == kept} for kept in (True, False)]
    assert not (groups[0] & groups[1]) - {facts[3].subject, facts[200].subject}


def test_a_reserved_fact_that_another_record_edits_is_left_out():
    facts = make_facts(600, 1)
    kept = [r for r in facts if r.reserved_for == SWEEP]
    twin = dataclasses.replace(kept[0], case_id="twin", reserved_for="")
    assert reserved_facts([*facts, twin], [twin]) == kept[1:]
    assert reserved_facts(facts, []) == kept
