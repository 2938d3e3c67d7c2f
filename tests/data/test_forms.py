"""Forms of the field's data sets: told from each other, read whole, nothing left out in silence."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forms import (
    COUNTERFACT,
    EASYEDIT,
    KNOWEDIT,
    MOTHER,
    MQUAKE,
    PEAK,
    QAEDIT,
    RECENT,
    RECORDS,
    RELATION,
    RIPPLE,
    WIKIBIO,
    ZSRE,
)
from hypothesis import given
from hypothesis import strategies as st

from editlab.data import load_requests, read_dataset, sample_requests, true_statements
from editlab.data.fields import PLACEHOLDER
from editlab.data.forms import FORMS, _read
from editlab.data.probes import MULTI_HOP, SINGLE_HOP, Probe, Question
from editlab.data.requests import EditRequest, write_requests
from editlab.errors import ConfigError, DataError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(records: Any) -> Path:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("kind", RECORDS)
def test_each_form_is_told_by_itself(write: Any, kind: str) -> None:
    path = write([RECORDS[kind]])
    data = read_dataset(path)
    assert data.account["kind"] == kind
    assert data.requests == load_requests(path, kind)
    matching = [name for name, form in FORMS.items() if form.matches(RECORDS[kind])]
    assert matching[0] == kind


@pytest.mark.parametrize("kind", RECORDS)
def test_requests_of_each_form_survive_writing(write: Any, tmp_path: Path, kind: str) -> None:
    requests = load_requests(write([RECORDS[kind]]))
    write_requests(requests, tmp_path / "again.json")
    again = read_dataset(tmp_path / "again.json")
    assert again.account["kind"] == "counterfact"
    assert again.requests == requests
    assert [r.probes for r in again.requests] == [r.probes for r in requests]


def test_knowedit(write: Any) -> None:
    data = read_dataset(write([KNOWEDIT]))
    (request,) = data.requests
    assert request.prompt == "The name of the country of citizenship of {} is"
    assert (request.target_new, request.target_true) == ("Peru", "Portugal")
    assert request.paraphrase_prompts == ("Ann Bell is a citizen of",)
    assert (
        Probe.simple("Reasoning", "The capital of the country of Ann Bell is", ("Lima", "City of Kings"))
        in request.probes
    )
    assert Probe.simple("Subject_Aliasing", "The country of A. Bell is", ("Peru",)) in request.probes
    assert Probe.simple("Relation_Specificity", "The mother of Ann Bell is", ("Eve Bell", "E. Bell")) in request.probes
    assert data.account["notes"] == {"locality.Forgetfulness questions without an answer, left out": 1}
    assert data.account["not_scored"] == {"cond": 1}


def test_wikibio_has_other_names_and_no_true_answer(write: Any) -> None:
    data = read_dataset(write([WIKIBIO]))
    (request,) = data.requests
    assert request.prompt == "This is a Wikipedia passage about ann bell. {} was born in 1901."
    assert request.target_true == PLACEHOLDER
    assert any("without a true answer" in note for note in data.account["notes"])
    assert true_statements(data.requests) == [], "the placeholder is no fact to learn"


def test_parallel_lists_of_easyedit_are_read_too(write: Any) -> None:
    record = {
        **KNOWEDIT,
        "portability": {},
        "locality": {"neighborhood": {"prompt": ["Bo is", "Cy is"], "ground_truth": ["a", "b"]}},
    }
    assert load_requests(write([record]))[0].neighbors() == [("Bo is", "a"), ("Cy is", "b")]


def test_qaedit(write: Any) -> None:
    data = read_dataset(write([QAEDIT]))
    (request,) = data.requests
    assert (request.case_id, request.prompt) == ("4", "who wrote the song {}")
    assert (request.target_new, request.target_aliases) == ("Ann Bell", ("A. Bell",))
    assert request.neighbors() == [("where is Lima", "Peru")]
    assert data.account["notes"]["locality questions without an answer, left out"] == 1
    assert data.account["not_scored"] == {"source": 1}


def test_mquake_cases_are_groups_with_questions_over_all_their_edits(write: Any) -> None:
    data = read_dataset(
        write([MQUAKE, {**MQUAKE, "case_id": 13, "requested_rewrite": MQUAKE["requested_rewrite"][:1]}])
    )
    first, second, single = data.requests
    assert [r.case_id for r in data.requests] == ["12-1", "12-2", "13"]
    assert (first.group, second.group, single.group) == ("12", "12", "13")
    assert first.probes == ()
    multi, single_hop = second.probes
    assert (multi.kind, len(multi.questions), multi.every) == (MULTI_HOP, 3, False)
    assert multi.questions[0].answers == (("Cusco", "Cuzco"),)
    assert (single_hop.kind, len(single_hop.questions), single_hop.every) == (SINGLE_HOP, 2, True)
    assert second.target_aliases == ("Cuzco",)
    assert first.paraphrase_prompts == ("What is the country of citizenship of Ann Bell?",)
    kept = {"answer": 2, "answer_alias": 2, "orig": 2, "single_hops": 2}
    assert data.account["not_scored"] == kept | {"new_single_hops.cloze": 2}


def test_samples_keep_cases_whole(write: Any) -> None:
    records = [{**MQUAKE, "case_id": i} for i in range(6)]
    requests = load_requests(write(records))
    for count in (2, 4, 7, 12):
        chosen = sample_requests(requests, count, seed=count)
        assert len({r.case_id for r in chosen}) == count
        whole = chosen[: count - count % 2]
        assert [r.group for r in whole[::2]] == [r.group for r in whole[1::2]]
    assert sample_requests(requests, 7, seed=1)[:4] == sample_requests(requests, 4, seed=1)


def test_ripple_edits(write: Any) -> None:
    data = read_dataset(write([RIPPLE]))
    (request,) = data.requests
    assert (request.prompt, request.subject) == ("The name of the country of citizenship of {} is", "Ann Bell")
    assert (request.target_new, request.target_true) == ("Peru", "Portugal")
    assert (request.target_new_id, request.target_true_id) == ("Q8", "Q9")
    assert request.target_aliases == ("Republic of Peru",)
    kinds = {probe.kind: probe for probe in request.probes}
    assert set(kinds) == {"Relation_Specificity", "Logical_Generalization", "Subject_Aliasing", "Compositionality_I"}
    assert kinds["Relation_Specificity"].conditions == (Question(MOTHER["prompt"], (("Eve Bell", "Eve B."),)),)
    assert kinds["Logical_Generalization"].every
    assert len(kinds["Logical_Generalization"].questions) == 2
    assert data.account["notes"] == {"Compositionality_II tests without an answer, left out": 1}
    assert {"edit.subject_id", "example_type"} < set(data.account["not_scored"])
    rest = set(data.account["not_scored"]) - {"edit.subject_id", "example_type"}
    assert all(path.endswith("_queries.phrase") for path in rest)


def test_recent_facts_of_ripple_edits_have_no_previous_one(write: Any) -> None:
    (request,) = load_requests(write([RECENT]))
    assert (request.prompt, request.subject) == ("The name of the position held by {} is", "Cy Dow")
    assert (request.target_new, request.target_true) == ("mayor of Oslo", PLACEHOLDER)


@pytest.mark.parametrize("subject", ["Ann Bell", "Bank of Ann", "What Love Is", "The Name"])
@pytest.mark.parametrize("previous", [None, "Bo Bell", "Bo Downs"])
@pytest.mark.parametrize(("relation", "before", "after"), [
    ("MOTHER", "The name of the mother of ", " is"),
    ("SIBLING", "The names of the siblings of ", " are"),
    ("CAPITAL", "The name of the capital city of ", " is"),
    ("SEX_OR_GENDER", "The gender of ", " is"),
    ("COUNTRY_OF_CITIZENSHIP", "The name of the country of citizenship of ", " is"),
    ("LEAGUE", "The name of the league which ", " plays in is"),
    ("COUNTRY", "The name of the country which ", " is associated with is"),
    ("POSITION_HELD", "The name of the position held by ", " is"),
    ("AWARD_RECEIVED", "The name of the award ", " won is"),
    ("NUMBER_OF_CHILDREN", "The number of children ", " has is"),
    ("CURRENCY", "The name of the currency in ", " is"),
    ("FOLLOWS", "", " follows"),
    ("FOLLOWED_BY", "", " is followed by"),
])  # fmt: skip
def test_ripple_edits_sentences_of_every_shape(
    write: Any, relation: str, before: str, after: str, previous: str | None, subject: str
) -> None:
    fact = {"subject_id": "Q1", "relation": relation, "target_id": "Q2"}
    edit = {**fact, "prompt": f"{before}{subject}{after} Bo Dow."}
    if previous:
        edit["previous_fact"] = {**fact, "prompt": f"{before}{subject}{after} {previous}."}
    (request,) = load_requests(write([{"edit": edit, "Forgetfulness": []}]))
    assert (request.prompt, request.subject) == (f"{before}{{}}{after}", subject)
    assert (request.target_new, request.target_true) == ("Bo Dow", previous or PLACEHOLDER)


def test_a_subject_that_cannot_be_told_is_an_error(write: Any) -> None:
    edit = {**RECENT["edit"], "prompt": "It is mayor of Oslo."}
    with pytest.raises(DataError, match=r"record 0: the subject cannot be told from 'It is mayor of Oslo'"):
        load_requests(write([{**RECENT, "edit": edit}]))


def test_questions_of_easyedits_portability_have_their_own_answers(write: Any) -> None:
    asked = {
        "portability_prompt": ["Its capital is", "Its coin is"],
        "portability_ground_truth": ["Lima", ["sol", "Sol"]],
    }
    (request,) = load_requests(write([{**EASYEDIT, **asked}]))
    assert request.probes == (
        Probe.simple("Reasoning", "Its capital is", ("Lima",)),
        Probe.simple("Reasoning", "Its coin is", ("sol", "Sol")),
    )
    for answers in (["Lima"], ["Lima", "sol", "x"], ["Lima", ""]):
        with pytest.raises(DataError, match="portability_ground_truth must be of equal length"):
            load_requests(write([{**EASYEDIT, **asked, "portability_ground_truth": answers}]))


def test_easyedit_may_name_the_new_object_in_several_ways(write: Any) -> None:
    (request,) = load_requests(write([{**EASYEDIT, "target_new": ["Peru", "Republic of Peru"]}]))
    assert (request.target_new, request.target_aliases) == ("Peru", ("Republic of Peru",))


def test_easyedits_new_question_follows_from_what_is_taught(write: Any) -> None:
    portability = {"Recalled Relation": "(a, b, c)", "New Question": "Which sea is near?", "New Answer": "Atlantic"}
    probe = Probe.simple("Reasoning", "Which sea is near?", ("Atlantic",))
    for record, new, true in ((COUNTERFACT, "Peru", "Portugal"), (ZSRE, "Portugal", "Peru")):
        data = read_dataset(write([{**record, "portability": portability}]))
        (request,) = data.requests
        assert (request.target_new, request.target_true, request.probes) == (new, true, (probe,))
        assert data.account["not_scored"]["portability.Recalled Relation"] == 1
        with pytest.raises(DataError, match=r"portability\.New Answer"):
            load_requests(write([{**record, "portability": {**portability, "New Answer": " "}}]))
    assert any("alt" in note for note in data.account["notes"])
    assert load_requests(write([ZSRE]))[0].target_new == "Peru"


@pytest.mark.parametrize("kind", ["easyedit", "counterfact", "mquake"])
def test_spaces_behind_a_prompt_are_taken_off_and_counted(write: Any, kind: str) -> None:
    record = json.loads(
        json.dumps(RECORDS[kind]).replace(' of"', ' of "').replace("Which city is it?", "Which city is it? ")
    )
    data, plain = read_dataset(write([record])), load_requests(write([RECORDS[kind]]))
    assert data.requests == plain
    assert [r.probes for r in data.requests] == [r.probes for r in plain]
    assert data.account["notes"]["prompts that ended in a space, which is taken off"] > 0


def test_letters_that_were_escaped_twice_are_noted(write: Any) -> None:
    data = read_dataset(write([{**EASYEDIT, "target_new": "Bras\\u00edlia"}]))
    assert data.requests[0].target_new == "Bras\\u00edlia"
    assert any("escape" in note for note in data.account["notes"])
    assert not read_dataset(write([{**EASYEDIT, "target_new": "Brasília"}])).account["notes"]


@pytest.mark.parametrize("value", ["\u200b", "\u00a0", "\x00", " \u2060 "])
def test_a_target_of_which_nothing_can_be_seen_is_refused(write: Any, value: str) -> None:
    with pytest.raises(DataError, match=r"record 0.*'target_new' is missing, empty"):
        load_requests(write([{**EASYEDIT, "target_new": value}]))


def test_spaces_around_a_subject_are_not_its_own(write: Any) -> None:
    assert load_requests(write([{**EASYEDIT, "subject": " Ann Bell "}])) == load_requests(write([EASYEDIT]))


def test_peak_has_pairs_as_neighbours(write: Any) -> None:
    data = read_dataset(write([PEAK]))
    assert data.requests[0].neighbors() == [("Ann Bell is a citizen of", "Spain"), ("Bo lives in", "Galicia")]
    assert data.requests[0].paraphrase_prompts == ("Portugal is adjacent to",)
    assert set(data.account["not_scored"]) == {"postive_list", "negtive_list", "negtive_random_list"}


@pytest.mark.parametrize("alone", [True, False])
def test_a_relation_becomes_facts(write: Any, alone: bool) -> None:
    data = read_dataset(write(RELATION if alone else [RELATION]))
    assert [r.subject for r in data.requests] == ["Peru", "Republic of Peru", "Portugal", "Spain"]
    peru = data.requests[0]
    assert (peru.target_true, peru.prompt) == ("Lima", "The capital of {} is")
    assert peru.target_new in ("Lisbon", "Madrid")
    assert peru.paraphrase_prompts == ("Peru, whose capital is", "The capital city of Peru is")
    assert peru.neighbors() == [("The capital of Republic of Peru is", "Lima")]
    assert data.account["notes"] == {"further objects of a subject, left out": 1}
    statements = dict(true_statements(data.requests))
    assert statements["The capital of Spain is"] == "Madrid"
    assert statements["The capital of Portugal is"] == "Lisbon"


def test_bad_records_can_be_left_out_and_are_counted_by_reason(write: Any) -> None:
    bad = [{**KNOWEDIT, "case_id": f"b{i}", "subject": f"Nobody {i}"} for i in range(3)]
    same = {**KNOWEDIT, "case_id": "s", "target_new": "Portugal"}
    path = write([*bad, same, KNOWEDIT, {**KNOWEDIT, "case_id": 4}])
    with pytest.raises(DataError, match=r"record 0: the subject 'Nobody 0'"):
        load_requests(path)
    data = read_dataset(path, skip_invalid=True)
    assert [r.case_id for r in data.requests] == ["4"]
    assert data.account["left_out"] == {
        "the subject ... does not occur in the prompt ...": {"count": 3, "first": 0},
        "target_new and target_true are both ...; they must differ": {"count": 1, "first": 3},
        "case_id ... is already used; case ids must be unique": {"count": 1, "first": 5},
    }


@pytest.mark.parametrize("size", [1, 2, None])
def test_the_first_records_of_a_file_can_be_read_alone(write: Any, size: int | None) -> None:
    path = write([{**KNOWEDIT, "case_id": i} for i in range(2)])
    data = read_dataset(path, size=size)
    assert [r.case_id for r in data.requests] == ["0", "1"][:size]
    assert data.account["records"] == (size or 2)


@pytest.mark.parametrize("size", [0, 3])
def test_a_size_that_the_file_does_not_have_is_refused(write: Any, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"size: {size} is not allowed; .* has 2 records"):
        load_requests(write([{**KNOWEDIT, "case_id": i} for i in range(2)]), size=size)


def test_subjects_composed_otherwise_are_found(write: Any) -> None:
    record = {**KNOWEDIT, "subject": unicodedata.normalize("NFD", "Žofie"), "prompt": "The country of Žofie is"}
    data = read_dataset(write([record]))
    assert data.requests[0].prompt == "The country of {} is"
    assert any("NFC" in note for note in data.account["notes"])


def objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a record, with the path of its fields; elements of a list share one."""
    for name, inner in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        here = path if name is None else f"{path}.{name}".lstrip(".")
        if isinstance(inner, dict):
            yield here, inner
        if isinstance(inner, dict | list):
            yield from objects(inner, here)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_field_that_no_reader_knows_is_named_wherever_it_stands(write: Any, kind: str) -> None:
    record = json.loads(json.dumps(RECORDS[kind]))
    places = [("", record), *objects(record)]
    kinds = ("portability", "locality")  # whose fields are kinds of questions
    for path, place in places:
        if not (path in kinds and kind == "knowedit") and path.split(".")[0] not in ("properties",):
            place["unheard_of"] = "x"
    told = read_dataset(write([record])).account["not_scored"]
    whole = {name for name in told if "." not in name}
    for path, place in places:
        if "unheard_of" in place:
            named = f"{path}.unheard_of".lstrip(".")
            assert named in told or path.split(".")[0] in whole


def test_the_second_of_two_names_of_a_field_is_named(write: Any) -> None:
    record = {**KNOWEDIT, "concept": "Bo", "labels": "Cuba", "rephrase_prompt": "Ann Bell votes in", "id": 3}
    account = read_dataset(write([record])).account
    assert account["not_scored"] == {"concept": 1, "cond": 1, "id": 1, "labels": 1, "rephrase": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_a_damaged_record_is_read_or_refused_in_one_line(kind: str, data: st.DataObject) -> None:
    """Any field, at any depth, replaced by anything: a list of requests or a DataError."""
    record = json.loads(json.dumps(RECORDS[kind]))
    node: Any = record
    for _ in range(data.draw(st.integers(0, 4))):
        if isinstance(node, dict | list) and node:
            key = data.draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
            if isinstance(node[key], dict | list) and node[key]:
                node = node[key]
    key = data.draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
    node[key] = data.draw(json_values)
    message = "file: record 0"
    try:
        found = _read(FORMS[kind], record, 0, "file", Counter(), {})
    except DataError as error:
        found, message = [], str(error)
    assert message.startswith("file: record 0")
    assert "\n" not in message
    assert all(isinstance(request, EditRequest) for request in found)
