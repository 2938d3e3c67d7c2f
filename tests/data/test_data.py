"""Readers of real data sets, and what is derived from a list of requests."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editlab.data import (
    load_requests,
    make_facts,
    read_text,
    sample_requests,
    true_statements,
)
from editlab.data.fields import PLACEHOLDER
from editlab.data.requests import EditRequest, write_requests
from editlab.errors import ConfigError, DataError

Write = Callable[[Any], Path]

OFFICIAL: dict[str, Any] = {
    "case_id": 5,
    "pararel_idx": 9,
    "requested_rewrite": {
        "prompt": "{} plays the", "relation_id": "P1303", "subject": "Ann Bell",
        "target_new": {"str": "harp", "id": "Q1"}, "target_true": {"str": "lute", "id": "Q2"},
    },
    "paraphrase_prompts": ["Noise. Ann Bell plays"],
    "neighborhood_prompts": ["Cy Dow plays the"],
    "attribute_prompts": ["Di Eng plays the"],
    "generation_prompts": ["Ann Bell likes"],
}  # fmt: skip
EASYEDIT: dict[str, Any] = {
    "prompt": "The mother tongue of Ann is", "subject": "Ann", "target_new": "Greek", "ground_truth": "Irish",
    "rephrase_prompt": "Ann speaks", "locality_prompt": "Cy speaks", "locality_ground_truth": "Welsh",
    "portability_prompt": "Ann lives in",
}  # fmt: skip
ZSRE: dict[str, Any] = {
    "subject": "Munich", "src": "Who governs Munich?", "pred": "Bo", "rephrase": "Munich is led by whom?", "alt": "Al",
    "answers": ["Di", "D."], "loc": "nq question: who sang it", "loc_ans": "Cy", "cond": "x",
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(value: Any) -> Path:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return to_file


def changed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in {**record, **changes}.items() if v is not ...}


# --- real files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "records", "subjects", "statements"),
    [
        ("counterfact/counterfact_500.json", 500, 498, 10_207),
        ("counterfact/counterfact_rebuilt.json", 6292, 6135, 41_121),
        ("zsre/zsre_mend_train-1k.json", 1000, 991, 2992),
    ],
)
def test_real_files_load_whole(shared_data: Path, file: str, records: int, subjects: int, statements: int) -> None:
    requests = load_requests(shared_data / file)
    assert len(requests) == len({r.case_id for r in requests}) == records
    assert len({r.subject for r in requests}) == subjects
    assert len(true_statements(requests)) == statements
    assert all(r.subject in r.rewrite_prompt and r.target_new != r.target_true for r in requests)
    raw = json.loads((shared_data / file).read_text(encoding="utf-8"))
    extras = {"pararel_idx", "source", "relation_inferred", "cond", "pred"}
    assert all(extras & set(record) == extras & set(r.extra) for record, r in zip(raw, requests, strict=True))


def test_real_records_survive_a_round_trip(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "counterfact" / "counterfact_500.json"
    requests = load_requests(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert [r.to_record() for r in requests] == [{**record, "case_id": str(record["case_id"])} for record in raw]
    write_requests(requests, tmp_path / "again.json")
    assert load_requests(tmp_path / "again.json") == requests


def test_real_zsre_follows_memit(shared_data: Path) -> None:
    path = shared_data / "zsre" / "zsre_mend_train-1k.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    requests = load_requests(path)
    assert [r.target_new for r in requests] == [record["answers"][0].strip() for record in raw]
    assert [r.rewrite_prompt for r in requests] == [record["src"] for record in raw]
    assert all(p.startswith("nq question: ") and p.endswith("?") for r in requests for p in r.neighborhood_prompts)
    assert sum(r.target_true == PLACEHOLDER for r in requests) == 2


def test_known_facts_are_not_requests(shared_data: Path) -> None:
    with pytest.raises(DataError, match=r"known_1000\.json: record 0: field 'target_new'"):
        load_requests(shared_data / "counterfact" / "known_1000.json")


# --- layouts ------------------------------------------------------------------------------------------------------


def test_official_layout(write: Write) -> None:
    (request,) = load_requests(write([OFFICIAL]))
    assert request.rewrite_prompt == "Ann Bell plays the"
    assert request.extra == {"pararel_idx": 9}
    assert request.neighbors() == [("Cy Dow plays the", "lute")]


def test_nested_neighbors_and_a_list_of_one_rewrite(write: Write) -> None:
    nested = changed(
        OFFICIAL,
        requested_rewrite=[OFFICIAL["requested_rewrite"]],
        neighborhood_prompts=[
            {"prompt": "Cy plays the", "target": " oboe"},
            {"prompt": "Bo plays the"},
            "Al plays the",
        ],
    )
    (request,) = load_requests(write([nested]))
    assert request.neighbors() == [("Cy plays the", "oboe"), ("Bo plays the", "lute"), ("Al plays the", "lute")]


def test_easyedit_layout(write: Write) -> None:
    requests = load_requests(write([EASYEDIT, changed(EASYEDIT, case_id="x", ground_truth=["Irish", "Gaelic"])]))
    assert [r.case_id for r in requests] == ["0", "x"]
    assert requests[0].prompt == "The mother tongue of {} is"
    assert (requests[0].target_new, requests[0].target_true) == ("Greek", "Irish")
    assert requests[0].paraphrase_prompts == ("Ann speaks",)
    assert requests[0].neighbors() == [("Cy speaks", "Welsh")]
    assert requests[0].extra == {"portability_prompt": "Ann lives in"}
    assert requests[1].target_true == "Irish"
    assert requests[1].extra["ground_truth"] == ["Irish", "Gaelic"]


def test_zsre_layout(write: Write) -> None:
    (request,) = load_requests(write([ZSRE]))
    assert request.prompt == "Who governs {}?"
    assert (request.target_new, request.target_true) == ("Di", "Bo")
    assert request.neighbors() == [("nq question: who sang it?", "Cy")]
    assert request.extra == {"pred": "Bo", "alt": "Al", "answers": ["Di", "D."], "cond": "x"}


@pytest.mark.parametrize(
    ("pred", "alt", "rival"),
    [("Bo", "Al", "Bo"), (" Di ", "Al", "Al"), ("", "Al", "Al"), (..., "Al", "Al"), ("Di", "", PLACEHOLDER)],
)
def test_the_rival_answer_of_zsre(write: Write, pred: Any, alt: str, rival: str) -> None:
    assert load_requests(write([changed(ZSRE, pred=pred, alt=alt)]))[0].target_true == rival


def test_zsre_needs_its_subject_in_whatever_capitals(write: Write) -> None:
    assert load_requests(write([changed(ZSRE, subject="munich")]))[0].prompt == "Who governs {}?"
    with pytest.raises(DataError, match=r"record 1: the subject 'Berlin' does not occur"):
        load_requests(write([ZSRE, changed(ZSRE, subject="Berlin")]))


# --- bad input ----------------------------------------------------------------------------------------------------


def rewrite(**changes: Any) -> dict[str, Any]:
    return changed(OFFICIAL, requested_rewrite=changed(OFFICIAL["requested_rewrite"], **changes))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "expected a JSON list"),
        ([], "list of records is empty"),
        ([3], "record 0: a record must be an object"),
        ([OFFICIAL, None], "record 1: a record must be an object"),
        ([{"a": 1}], r"record 0: unknown layout with fields \['a'\]"),
        ([OFFICIAL, changed(OFFICIAL, case_id=...)], "record 1: field 'case_id'"),
        ([OFFICIAL, OFFICIAL], "case_id '5' of record 1 is already used by record 0"),
        ([OFFICIAL, changed(OFFICIAL, case_id="5")], "already used"),
        ([rewrite(prompt="Ann Bell plays")], r"must hold '\{\}' exactly once"),
        ([rewrite(target_new={"str": " "})], "target_new.str"),
        ([rewrite(target_true=...)], "target_true"),
        ([rewrite(target_new={"str": " lute"})], "target_new and target_true are both 'lute'"),
        ([changed(OFFICIAL, requested_rewrite=[{}, {}])], "must hold one rewrite, got a list of 2"),
        ([changed(OFFICIAL, neighborhood_prompts=[{"prompt": 3}])], "neighborhood_prompts"),
        ([changed(EASYEDIT, subject="Bob")], "subject 'Bob' does not occur"),
        ([changed(EASYEDIT, target_new="")], "'target_new' is missing"),
        ([changed(EASYEDIT, ground_truth=[])], "'ground_truth' is missing"),
        ([changed(EASYEDIT, locality_ground_truth=...)], "equal length"),
        ([changed(ZSRE, answers=[])], "'answers' must be a list"),
        ([changed(ZSRE, answers=...)], "'answers' must be a list"),
        ([changed(ZSRE, loc_ans=" ")], "'loc_ans' is missing"),
        ([changed(ZSRE, src="Who governs {} or Munich?")], "exactly once"),
        ([changed(ZSRE, pred=3)], "'pred' must be a string"),
    ],
)
def test_bad_records_are_named(write: Write, records: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.json.*{message}") as caught:
        load_requests(write(records))
    assert "\n" not in str(caught.value)


class Bomb:
    """Leaves a file behind when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_is_refused_and_not_executed(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "executed"), protocol=protocol))
    with pytest.raises(DataError, match=r"data\.json: (not UTF-8|broken JSON)"):
        load_requests(path)
    assert not (tmp_path / "executed").exists()


def test_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.arange(1000.0))
    with pytest.raises(DataError, match=r"data\.npz: not UTF-8 text"):
        load_requests(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"data\.npz: not"):
        read_text(tmp_path / "data.npz")


def test_paths_and_kinds_that_cannot_be_read(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_requests(tmp_path / "absent.json")
    with pytest.raises(DataError, match="cannot be read"):
        load_requests(tmp_path)
    with pytest.raises(ConfigError, match="kind: 'wiki' is not allowed; use one of auto, counterfact"):
        load_requests(write([OFFICIAL]), kind="wiki")
    with pytest.raises(DataError, match=r"record 0: not of the kind 'zsre' but of 'counterfact'"):
        load_requests(write([OFFICIAL]), kind="zsre")


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6) | st.just("Ann {}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(OFFICIAL)), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from([OFFICIAL, EASYEDIT, ZSRE]), st.data())
def test_damaged_files_raise_nothing_but_data_errors(write: Write, record: dict[str, Any], data: st.DataObject) -> None:
    keys = st.sampled_from(sorted({*record, "case_id", "prompt", "neighborhood_prompts"}))
    damaged = {**record, **data.draw(st.dictionaries(keys, garbage, max_size=3))}
    path = write(data.draw(st.sampled_from([[damaged], [record, damaged], damaged, [[damaged]]])))
    requests, message = [], str(path)
    try:
        requests = load_requests(path)
    except DataError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert all(r.prompt.count("{}") == 1 for r in requests)


# --- statements and samples ---------------------------------------------------------------------------------------


def fact(case: str, subject: str, new: str = "harp", true: str = "lute", **probes: tuple[str, ...]) -> EditRequest:
    return EditRequest(case, "{} plays", subject, new, true, **probes)  # type: ignore[arg-type]


def test_true_statements_keep_the_stronger_of_two_contradicting_claims() -> None:
    requests = [
        fact("1", "A", neighborhood_prompts=("B plays", "C plays"), attribute_prompts=("C plays", "D plays")),
        fact("2", "B", true="tuba", paraphrase_prompts=("B blows the", "D plays")),
        fact("3", "A", true="oboe"),
    ]
    assert true_statements(requests) == [
        ("A plays", "lute"), ("B plays", "tuba"), ("B blows the", "tuba"), ("D plays", "tuba"), ("C plays", "lute"),
    ]  # fmt: skip
    assert true_statements([]) == []


def test_samples_depend_on_the_seed_and_not_on_the_file_order() -> None:
    requests = make_facts(100, seed=0)
    shuffled = random.Random(1).sample(requests, len(requests))
    sample = sample_requests(requests, 20, seed=4)
    assert sample == sample_requests(shuffled, 20, seed=4)
    assert sample[:5] == sample_requests(requests, 5, seed=4)
    assert sample != sample_requests(requests, 20, seed=5)
    assert [r.case_id for r in sample] != sorted(r.case_id for r in sample)
    assert len({r.subject for r in sample}) == 20


def test_samples_draw_every_subject_before_any_comes_twice_or_fail_with_both_numbers() -> None:
    requests = [fact("1", "A"), fact("2", "A", new="tuba"), fact("3", "B")]
    for seed in range(5):
        drawn = [r.subject for r in sample_requests(requests, 3, seed)]
        assert set(drawn[:2]) == {"A", "B"}
        assert drawn[2] == "A"
    with pytest.raises(DataError, match=r"4 requests asked for, but only 3"):
        sample_requests(requests, 4, seed=0)
    with pytest.raises(ConfigError, match=r"count: -1"):
        sample_requests(requests, -1, seed=0)
    assert sample_requests(requests, 0, seed=0) == []
