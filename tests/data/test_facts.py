"""The generated world: every probe is true in it, at any size, and it is the same in every process."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Container
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.data import make_facts, true_statements, world
from editlab.data.facts import ATTRIBUTES, MAX_SIZE, MIN_SIZE, NEIGHBORS, SUBJECTS_PER_OBJECT, last_words
from editlab.data.requests import EditRequest, fill, write_requests
from editlab.data.world import FIRST_WORDS, GENERATION, RELATIONS, Relation
from editlab.errors import ConfigError

BY_ID = {relation.identifier: relation for relation in RELATIONS}
DIGEST = """
import hashlib
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
