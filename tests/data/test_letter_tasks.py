"""The universe of letter tasks: what a task does, that splits hold out combinations alone, and what descriptions share."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editlab.data.letter_tasks import (
    ALPHABET,
    CONNECTORS,
    POSITIONS,
    SIZES,
    Task,
    latin_split,
    operation_split,
    task_grid,
    vocabulary,
)
from editlab.data.tasks import USES, letter_task_set, read_tasks
from editlab.errors import ConfigError, DataError

strings = st.lists(st.integers(0, 11), min_size=5, max_size=5)


def named(position: str, letter: str) -> Task:
    places = [p.name for p in POSITIONS], [a.name for a in ALPHABET]
    return Task(places[0].index(position), places[1].index(letter))


@given(strings)
def test_tasks_do_what_their_names_say(s):
    assert named("keep", "same").apply(s) == s
    assert named("reverse", "shift+2").apply(s) == [(x + 2) % 12 for x in reversed(s)]
    assert named("rotate-1", "shift-1").apply(s) == [(x - 1) % 12 for x in [*s[1:], s[0]]]
    assert named("sort", "flip").apply(s) == [11 - x for x in sorted(s)]
    assert named("repeat-two", "same").apply(s) == [s[0], s[1], s[0], s[1], s[0]]
    assert named("mirror", "neighbours").apply(s) == [x ^ 1 for x in [s[0], s[1], s[2], s[1], s[0]]]


def test_no_two_tasks_are_the_same_function():
    rng = random.Random(0)
    inputs = [[rng.randrange(12) for _ in range(5)] for _ in range(60)]
    answers = {str([t.apply(s) for s in inputs]) for t in task_grid()}
    assert len(answers) == 96


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", ["default", "small"])
def test_a_split_holds_out_combinations_and_never_an_operation(size, seed):
    tasks = task_grid(size)
    split = latin_split(tasks, seed)
    assert sorted([*split.train, *split.validation, *split.test], key=tasks.index) == tasks
    if size == "default":
        assert [len(p) for p in (split.train, split.validation, split.test)] == [60, 12, 24]
    for axis, count in zip(("position", "letter"), SIZES[size], strict=True):
        seen = Counter(getattr(t, axis) for t in split.train)
        assert len(seen) == count
        assert min(seen.values()) >= (5 if size == "default" else 3)


def test_the_harder_split_trains_on_neither_operation():
    split = operation_split(latin_split(task_grid(), 0))
    for task in (*split.train, *split.validation):
        assert POSITIONS[task.position].name != "rotate-2"
        assert ALPHABET[task.letter].name != "shift+2"
    assert set(split.test).isdisjoint(latin_split(task_grid(), 0).test)
    assert len(split.test) >= 10


def test_held_out_wordings_are_new_combinations_of_known_words():
    known = set(vocabulary())
    for task in task_grid():
        train, held_out = task.descriptions(), task.descriptions(held_out=True)
        assert (len(train), len(held_out)) == (24, 12)
        assert not set(train) & set(held_out)
        words = {w for text in train for w in text.split()}
        assert {w for text in held_out for w in text.split()} <= words <= known


def test_no_description_tells_two_tasks_apart_wrongly():
    texts = [text for task in task_grid() for held_out in (False, True) for text in task.descriptions(held_out)]
    assert len(set(texts)) == len(texts) == 96 * 9 * len(CONNECTORS)


def test_examples_of_tests_are_never_those_of_training():
    task = letter_task_set("default", 0).tasks[13]
    train, probe, test = ({p for p, _ in task.draw(2000, random.Random(0), use)} for use in USES)
    assert train.isdisjoint(test)
    assert train.isdisjoint(probe)
    assert probe.isdisjoint(test)
    assert task.draw(5, random.Random(3), "test") == task.draw(5, random.Random(3), "test")


def test_an_unknown_size_is_one_line():
    with pytest.raises(ConfigError, match="one of default, small, smoke"):
        task_grid("huge")


def record(name: str, split: str, **change):
    pairs = [{"prompt": f"Q{i} {name}:", "answer": f" {i}"} for i in range(6)]
    made = {"name": name, "split": split, "parts": ["a", name], "descriptions": [f"do {name}"],
            "held_out_descriptions": [f"please do {name}"], "train": pairs[:4], "test": pairs[4:]}  # fmt: skip
    return made | change


def test_tasks_of_a_file(tmp_path):
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([record("x", "train"), record("y", "validation"), record("z", "test")]))
    tasks = read_tasks(path)
    assert tasks.ends
    assert tasks.names("train", "test") == ["x", "z"]
    assert len(tasks["z"].draw(2, random.Random(0), "test")) == 2
    assert len(tasks["x"].draw(9, random.Random(0), "train")) == 9


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "list of tasks"),
        ([record("x", "train")], "no task has split 'validation'"),
        ([record("x", "dev")], "split 'dev' is not allowed"),
        ([record("x", "train", descriptions=[])], "record 0"),
        ([record("x", "train", train=[])], "record 0"),
        ([record("x", "train", train=[{"prompt": "a", "answer": 3}])], "record 0"),
        ([record("x", "train", train=record("x", "train")["test"])], "in train and in test"),
        ([record(n, s) for n, s in (("x", "train"), ("x", "validation"), ("z", "test"))], "same name"),
    ],
)
def test_a_bad_file_of_tasks_is_one_line(tmp_path, records, message):
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match=message) as error:
        read_tasks(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
