"""EditRequest: records in, records out, and one-line errors for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editlab.data.requests import EditRequest, fill, is_blank, read_json, read_records, unfill, write_requests
from editlab.errors import DataError

texts = st.text(min_size=1, max_size=20).filter(lambda text: not is_blank(text))
plain = texts.filter(lambda text: "{}" not in text)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "case_id", "requested_rewrite", "prompt", "subject", "target_new", "target_true", "relation_id", "str", "id",
    "paraphrase_prompts", "neighborhood_prompts", "neighborhood_targets", "attribute_prompts", "generation_prompts",
    "target_aliases", "probes", "group",
)  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Valid records with unknown fields at both levels."""
    unknown = st.dictionaries(plain.filter(lambda name: name not in FIELDS), json_values, max_size=3)
    neighbors = draw(st.lists(texts, max_size=3))
    target = st.fixed_dictionaries({"str": texts.map(str.strip), "id": st.none() | st.text(max_size=5)})
    before, after = draw(st.tuples(*[st.text(alphabet="abc .", max_size=8)] * 2))
    rewrite = {
        **draw(unknown),
        "prompt": f"{before}{{}}{after}",
        "subject": draw(texts).strip(),
        "relation_id": draw(st.text(max_size=5)),
        "target_new": draw(target),
        "target_true": draw(target),
    }
    record = {
        **draw(unknown),
        "case_id": draw(texts),
        "requested_rewrite": rewrite,
        "paraphrase_prompts": draw(st.lists(texts, max_size=3)),
        "neighborhood_prompts": neighbors,
        "attribute_prompts": draw(st.lists(texts, max_size=3)),
        "generation_prompts": draw(st.lists(texts, max_size=3)),
    }
    if neighbors and draw(st.booleans()):
        record["neighborhood_targets"] = [text.strip() for text in neighbors]
    return record


def valid(**changes: Any) -> dict[str, Any]:
    """A small valid record; keyword ``rewrite`` updates its ``requested_rewrite``."""
    rewrite = {
        "prompt": "{} plays", "subject": "Ann Bell", "relation_id": "R",
        "target_new": {"str": "harp", "id": None}, "target_true": {"str": "lute", "id": None},
        **changes.pop("rewrite", {}),
    }  # fmt: skip
    return {"case_id": 1, "requested_rewrite": rewrite, **changes}


@given(records())
def test_record_to_request_and_back_keeps_every_field(record: dict[str, Any]) -> None:
    request = EditRequest.from_record(record, "file: record 0")
    assert request.to_record() == record
    again = EditRequest.from_record(request.to_record(), "file: record 0")
    assert again == request
    assert again.extra == request.extra


@given(json_values | st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_garbage_raises_nothing_but_data_errors(value: Any) -> None:
    with pytest.raises(DataError, match=r"^file: record 0") as caught:
        EditRequest.from_record(value, "file: record 0")
    assert "\n" not in str(caught.value)


@given(st.lists(st.tuples(st.sampled_from(FIELDS), json_values), min_size=1, max_size=3), st.booleans())
def test_a_damaged_record_is_read_or_refused(damage: list[tuple[str, Any]], inside: bool) -> None:
    record = valid(rewrite=dict(damage)) if inside else valid(**dict(damage))
    try:
        request = EditRequest.from_record(record, "file: record 0")
    except DataError as error:
        request, message = EditRequest.from_record(valid(), "file"), str(error)
    else:
        message = "file: record 0"
    assert message.startswith("file: record 0")
    assert "\n" not in message
    assert request.prompt.count("{}") == 1
    assert request.target_new.strip()
    assert len(request.neighbors()) == len(request.neighborhood_prompts)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (valid(case_id=None), "case_id"),
        (valid(case_id=True), "case_id"),
        (valid(requested_rewrite=None), "requested_rewrite"),
        (valid(rewrite={"prompt": "Ann plays"}), "exactly once"),
        (valid(rewrite={"prompt": "{} and {}"}), "exactly once"),
        (valid(rewrite={"subject": " "}), "requested_rewrite.subject"),
        (valid(rewrite={"target_new": {"str": ""}}), "target_new.str"),
        (valid(rewrite={"target_true": None}), "target_true"),
        (valid(rewrite={"relation_id": ["P1"]}), "relation_id"),
        (valid(paraphrase_prompts="one"), "paraphrase_prompts"),
        (valid(neighborhood_prompts=["a", " "]), "neighborhood_prompts"),
        (valid(neighborhood_prompts=["a"], neighborhood_targets=["b", "c"]), "neighborhood_targets"),
    ],
)
def test_each_bad_field_is_named(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"f\.json: record 7.*{message}"):
        EditRequest.from_record(record, "f.json: record 7")


def test_neighbors_take_target_true_unless_they_have_their_own() -> None:
    record = valid(neighborhood_prompts=["Cy plays", "Di plays"])
    assert EditRequest.from_record(record, "f").neighbors() == [("Cy plays", "lute"), ("Di plays", "lute")]
    record["neighborhood_targets"] = [" oboe", "tuba"]
    assert EditRequest.from_record(record, "f").neighbors() == [("Cy plays", "oboe"), ("Di plays", "tuba")]


def test_written_requests_are_read_back(tmp_path: Path) -> None:
    requests = [EditRequest.from_record(valid(case_id=i, note="é", rewrite={"question": "?"}), "f") for i in range(3)]
    write_requests(requests, tmp_path / "requests.json")
    again = [EditRequest.from_record(record, "f") for record in read_records(tmp_path / "requests.json")]
    assert again == requests
    assert [r.extra for r in again] == [{"note": "é", "requested_rewrite": {"question": "?"}}] * 3


@given(
    st.text(alphabet="ab {}", max_size=6), plain.filter(lambda s: "{" not in s and "}" not in s), st.text(max_size=6)
)
def test_unfill_undoes_fill(before: str, subject: str, after: str) -> None:
    template = unfill(f"{before}{subject}{after}", subject)
    assert template is not None
    if "{}" not in before:
        assert fill(template, subject) == f"{before}{subject}{after}"


def test_unfill_prefers_a_whole_word() -> None:
    assert unfill("Annual report by Ann is", "Ann") == "Annual report by {} is"
    assert unfill("the ANN is", "ann", ignore_case=True) == "the {} is"
    assert unfill("the ANN is", "ann") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[{]", "line 1, column 3"),
        (b"\xff\xfe[", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "too many digits"),
        (b'["\\ud800"]', "surrogate"),
        (b"{}", "expected a JSON list"),
        (b"[]", "list of records is empty"),
    ],
)
def test_bad_files_are_one_line_errors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_records(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.json", "", "nul\0byte"])
def test_bad_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no such file|cannot be read|not a file name"):
        read_json(str(tmp_path / name) if name else tmp_path)


def test_a_byte_order_mark_and_paired_surrogates_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(["𝄞"]).encode())
    assert read_json(path) == ["𝄞"]
