"""What else may be asked of a subject: relations that go together, wordings that are not scored, tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_requests

from editlab.data import make_facts
from editlab.data.requests import EditRequest
from editlab.data.subject_prompts import SubjectPrompts
from editlab.errors import DataError

WORLD = make_facts(600, seed=1)


def fact(case: str, subject: str, relation: str, **more) -> EditRequest:
    return EditRequest(case, f"{{}} {relation}s", subject, "new", "old", relation_id=relation, **more)


def test_relations_fit_that_the_data_set_has_of_the_same_subjects():
    records = [fact("1", "Ann", "work"), fact("2", "Ann", "live"), fact("3", "Oslo", "lie"), fact("4", "Bo", "work")]
    found = SubjectPrompts.of_records(records)
    assert found.asked_of(records[3], 8, 0) == ["{} lives"]  # known of Bo is the other alone
    assert found.asked_of(records[2], 8, 0) == []
    assert found.asked_of(records[0], 8, 0, leave_out={"live"}) == []
    assert found.asked_of(fact("5", "Cy", "unheard"), 8, 0) == []


def test_a_rare_companion_does_not_fit():
    records = [fact(f"{r}{i}", f"s{i}", r) for i in range(20) for r in ("work", "live")]
    records += [fact("odd", "s1", "flow")]
    assert SubjectPrompts.of_records(records).fitting["work"] == ("live",)


def test_wordings_are_those_that_are_not_scored_and_recur():
    one = fact("1", "Ann", "work", paraphrase_prompts=("It rains. Ann, a", "The job of Ann is"))
    two = fact("2", "Bo", "work", paraphrase_prompts=("Snow falls. Bo, a", "The job of Bo is"))
    assert SubjectPrompts.of_records([one, two]).templates["work"] == ("The job of {} is",)
    assert SubjectPrompts.of_records([one]).templates["work"] == ("{} works",)  # of one subject nothing recurs
    scored = {(r.key[1], r.prompt) for r in WORLD}
    for relation, templates in SubjectPrompts.of_records(WORLD).templates.items():
        assert templates
        assert not {(relation, t) for t in templates} & scored


@given(st.integers(0, 599), st.integers(0, 5), st.integers(1, 12))
def test_what_is_asked_is_of_other_relations_one_wording_each(number, seed, most):
    prompts, request = SubjectPrompts.of_records(WORLD), WORLD[number]
    asked = prompts.asked_of(request, most, seed)
    assert asked == prompts.asked_of(request, most, seed)
    relations = [r for t in asked for r, templates in prompts.templates.items() if t in templates]
    assert len(asked) == len(set(relations)) == min(most, len(prompts.fitting[request.key[1]]))
    assert request.key[1] not in relations


def test_a_share_is_never_held():
    prompts = SubjectPrompts.of_records(WORLD)
    apart = prompts.apart(0.5, 1)
    assert len(apart) == len(prompts.templates) // 2
    assert prompts.apart(1.0, 1) == frozenset()
    assert len({prompts.apart(0.5, seed) for seed in range(5)}) > 1
    asked = {t for r in WORLD for t in prompts.asked_of(r, 8, 0, apart)}
    assert asked
    assert not asked & {t for r in apart for t in prompts.templates[r]}


def test_a_table_by_type_of_subject():
    table = {
        "born": {"type": "person", "templates": ["{} was born in"]},
        "job": {"type": "person", "templates": ["{} works as"]},
        "lies": {"type": "place", "templates": ["{} lies in"]},
    }
    request = fact("1", "Ann", "born")
    assert SubjectPrompts.of_table(table, "table").asked_of(request, 8, 0) == ["{} works as"]
    bare = {name: entry["templates"] for name, entry in table.items()}
    assert set(SubjectPrompts.of_table(bare, "table").asked_of(request, 8, 0)) == {"{} works as", "{} lies in"}
    for wrong, text in (([], "must be an object"), ({"a": []}, "list of templates"), ({"a": ["x"]}, "exactly once")):
        with pytest.raises(DataError, match=text):
            SubjectPrompts.of_table(wrong, "table")


def test_no_answer_is_read():
    records = tiny_requests(300)
    blind = [EditRequest(r.case_id, r.prompt, r.subject, "?", "?", r.relation_id, paraphrase_prompts=r.paraphrase_prompts)
             for r in records]  # fmt: skip
    assert SubjectPrompts.of_records(blind) == SubjectPrompts.of_records(records)
