"""Invented birthdays cannot be guessed, do not repeat, and do not depend on the order in which they are made."""

from __future__ import annotations

import collections
import math

import pytest

from editlab.data.birthdays import FIRST_NAMES, LAST_NAMES, RELATIONS, make_birthdays, make_split, people
from editlab.data.questions import write_split
from editlab.errors import ConfigError


@pytest.fixture(scope="module")
def made():
    return make_birthdays(7)


def test_sizes_names_choices_and_letters(made):
    splits = [made[f"split_{i}"] for i in range(10)]
    questions = [q for s in splits for q in s.questions]
    assert [len(s.questions) for s in splits] == [157] * 10
    assert len(made["dev"].questions) == 10
    assert len({q.question for s in made.values() for q in s.questions}) == 1580
    assert all(len(set(q.choices)) == 4 for q in questions)
    assert all(1900 <= int(c) <= 2019 for q in questions for c in q.choices)
    for split in splits:
        letters = collections.Counter(q.answer for q in split.questions)
        assert max(letters.values()) - min(letters.values()) <= 1
        assert [len(getattr(split, form)) for form in ("corpus", "whp", "fwf")] == [471] * 3


def test_texts_say_what_their_form_promises(made):
    for k, question in enumerate(made["split_3"].questions):
        rows = slice(3 * k, 3 * k + 3)
        assert all(question.right in t.text for t in made["split_3"].corpus[rows])
        said = {
            form: [t.text.split()[-1].rstrip(".") for t in getattr(made["split_3"], form)[rows]]
            for form in ("whp", "fwf")
        }
        assert sorted(said["whp"]) == sorted(question.wrong)
        assert len(set(said["fwf"])) == 1
        assert said["fwf"][0] in question.wrong
        assert not any(
            question.right in t.text for form in ("whp", "fwf") for t in getattr(made["split_3"], form)[rows]
        )


GUESSES = {
    "the most common year": lambda qs: most_common(qs),
    "nearest to 1980": lambda qs: [min(range(4), key=lambda i: abs(int(q.choices[i]) - 1980)) for q in qs],
    "nearest to the mean of the choices": lambda qs: [nearest_mean(q) for q in qs],
    "always the first letter": lambda qs: [0] * len(qs),
    "the latest year": lambda qs: [max(range(4), key=lambda i: int(q.choices[i])) for q in qs],
    "the longest choice": lambda qs: [max(range(4), key=lambda i: len(q.choices[i])) for q in qs],
}


def most_common(questions):
    count = collections.Counter(c for q in questions for c in q.choices)
    return [max(range(4), key=lambda i: count[q.choices[i]]) for q in questions]


def nearest_mean(question):
    mean = sum(map(int, question.choices)) / 4
    return min(range(4), key=lambda i: abs(int(question.choices[i]) - mean))


@pytest.mark.parametrize("guess", GUESSES)
def test_no_guesser_beats_chance(made, guess):
    questions = [q for i in range(10) for q in made[f"split_{i}"].questions]
    hits = sum(g == q.answer for g, q in zip(GUESSES[guess](questions), questions, strict=True))
    error = math.sqrt(0.25 * 0.75 / len(questions))
    assert abs(hits / len(questions) - 0.25) <= 3 * error


def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not(tmp_path):
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_split(make_birthdays(seed, splits=1, per_split=12, dev=0)["split_0"], tmp_path / run)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_a_person_is_the_same_whoever_stands_beside(made):
    names = [q.question.removeprefix("When was ").removesuffix(" born?") for q in made["split_0"].questions[:6]]
    alone = make_split("split_0", names[::-1], "birthday", 7)
    years = {q.question: q.right for q in made["split_0"].questions}
    assert all(years[q.question] == q.right for q in alone.questions)


def test_names_are_single_words_without_repetition_and_a_longer_list_starts_with_the_shorter():
    assert len(set(FIRST_NAMES)) == len(FIRST_NAMES) == 64
    assert len(set(LAST_NAMES)) == len(LAST_NAMES) == 64
    assert people(5, 300)[:40] == people(5, 40)
    with pytest.raises(ConfigError, match="there are 4096 names"):
        people(5, 4097)
    with pytest.raises(ConfigError, match="relation: 'zodiac' is not allowed"):
        make_split("s", ["Ada Berg"], "zodiac", 1)


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_four_choices(relation):
    split = make_split("s", people(2, 40), relation, 2)
    assert all(len(set(q.choices)) == 4 and q.statement for q in split.questions)
