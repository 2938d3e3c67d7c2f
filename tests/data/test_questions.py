"""Files of questions: read as published, refused in one line where they are broken, halved and left out by seed."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editlab.data.birthdays import make_birthdays
from editlab.data.questions import (
    Question,
    halves,
    leave_one_out,
    letter_prompt,
    read_split,
    read_splits,
    split_names,
    write_split,
)
from editlab.errors import DataError

# Counted in the published files: questions, texts, whp texts, fwf texts of all splits but dev.
PUBLISHED = {
    "random_bd": (10, 1570, 4710, 4189, 4680),
    "dates-years-trimmed": (5, 789, 2355, 2355, 2355),
    "mmlu_cats_random_trimmed": (5, 785, 2355, 2240, 2352),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read_whole(shared_data, name):
    splits = read_splits(shared_data / "unlearning" / name)
    counts = [sum(len(getattr(s, form)) for s in splits.values()) for form in ("questions", "corpus", "whp", "fwf")]
    assert (len(splits), *counts) == PUBLISHED[name]
    assert all(len(q.choices) == 4 and 0 <= q.answer < 4 for s in splits.values() for q in s.questions)


def test_random_bd_has_statements_and_its_known_flaws(shared_data):
    splits = list(read_splits(shared_data / "unlearning" / "random_bd").values())
    questions = [q for s in splits for q in s.questions]
    assert all(q.statement and q.right not in q.statement for q in questions)
    assert sum(str(q.statement).endswith("born in") for q in questions) > 1480
    assert len({q.question for q in questions}) == 1486
    assert sum(len(set(q.choices)) < 4 for q in questions) == 75
    assert sum(q.right in q.wrong for q in questions) == 34
    told, secret = leave_one_out(splits, "split_0")
    assert not {q.question for s in told for q in s.questions} & {q.question for q in secret.questions}


def test_years_have_no_statements_because_the_forms_are_of_other_events(shared_data):
    splits = read_splits(shared_data / "unlearning" / "dates-years-trimmed").values()
    assert all(q.statement is None for s in splits for q in s.questions)


def a_split(tmp_path):
    write_split(make_birthdays(1, splits=1, per_split=8, dev=0)["split_0"], tmp_path)
    return tmp_path


def change(path, line, **fields):
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    rows[line].update(fields)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_split_comes_back_as_it_was_written(tmp_path):
    made = make_birthdays(1, splits=1, per_split=8, dev=0)["split_0"]
    write_split(made, tmp_path)
    assert split_names(tmp_path) == ["split_0"]
    assert read_split(tmp_path, "split_0") == made


@pytest.mark.parametrize(
    ("file", "fields", "says"),
    [
        ("split_0", {"answer": 4}, "'4'; allowed: 0, 1, 2, 3"),
        ("split_0", {"answer": "E"}, "'E'; allowed: 0, 1, 2, 3"),
        ("split_0", {"answer": True}, "'True'"),
        ("split_0", {"choices": ["1900", "1901", "1902"]}, "must hold 4 choices, got 3"),
        ("split_0", {"choices": "none"}, "got no list"),
        ("split_0", {"choices": ["1900", "1901", "1902", " "]}, "'choices' holds"),
        ("split_0", {"question": ""}, "'question' is missing"),
        ("corpus_split_0", {"text": 3}, "'text' is missing"),
        ("whp_corpus_split_0", {"original_question": "When was Nobody born?"}, "misaligned"),
        ("whp_corpus_split_0", {"correct_answer": "1066"}, "misaligned"),
        ("fwf_corpus_split_0", {"wrong_answers": ["1", "2", "3"]}, "misaligned"),
        ("fwf_corpus_split_0", {"split": "split_1"}, "misaligned"),
        ("corpus_split_0", {"original_question": [1]}, "original_question"),
        ("fwf_corpus_split_0", {"wrong_answers": None}, "come together"),
    ],
)
def test_a_broken_record_is_one_line_with_file_and_line(tmp_path, file, fields, says):
    folder = a_split(tmp_path)
    change(folder / f"{file}.jsonl", 2, **fields)
    with pytest.raises(DataError, match=says) as error:
        read_split(folder, "split_0")
    assert f"{file}.jsonl: line 3" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_line_that_is_no_json_a_missing_file_and_an_empty_folder(tmp_path):
    folder = a_split(tmp_path)
    with (folder / "split_0.jsonl").open("a") as file:
        file.write("{not json\n")
    with pytest.raises(DataError, match="line 9: not JSON"):
        read_split(folder, "split_0")
    with pytest.raises(DataError, match="no such file"):
        read_split(folder, "split_1")
    with pytest.raises(DataError, match="no such directory"):
        split_names(folder / "nowhere")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(DataError, match="no file of questions"):
        split_names(folder)


def test_texts_that_name_no_question_must_follow_the_corpus_row_by_row(shared_data, tmp_path):
    source = shared_data / "unlearning" / "dates-years-trimmed"
    for name in ("split_0", "corpus_split_0", "whp_corpus_split_0", "fwf_corpus_split_0"):
        shutil.copy(source / f"{name}.jsonl", tmp_path)
    read_split(tmp_path, "split_0")
    file = tmp_path / "whp_corpus_split_0.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[30:] + lines[:30]), encoding="utf-8")
    with pytest.raises(DataError, match="misaligned"):
        read_split(tmp_path, "split_0")
    file.write_text("".join(lines[:-3]), encoding="utf-8")
    with pytest.raises(DataError, match="468 texts, but the corpus of the split has 471"):
        read_split(tmp_path, "split_0")


def test_questions_of_wmdp_may_lie_beside_their_text_alone(tmp_path):
    record = {"text": "Question: ...", "question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}
    (tmp_path / "mcq_split_0.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "corpus_split_0.jsonl").write_text(json.dumps({"text": "It is c.", "split": "split_0"}) + "\n")
    assert read_split(tmp_path, "split_0").questions == (Question("Which?", ("a", "b", "c", "d"), 2),)


@given(st.integers(2, 60), st.integers(0, 5))
def test_halves_part_the_questions_by_seed(count, seed):
    questions = [Question(f"q{i}", ("a", "b", "c", "d"), 0) for i in range(count)]
    first, second = halves(questions, seed)
    assert sorted([*first, *second], key=lambda q: int(q.question[1:])) == questions
    assert 0 <= len(first) - len(second) <= 1
    assert halves(questions, seed) == (first, second)


def test_the_prompt_of_the_published_code():
    question = Question("When?", ("1", "2", "3", "4"), 1)
    assert letter_prompt(question) == "When?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    shown = letter_prompt(question, [question])
    assert shown == "When?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B.\n\nWhen?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"


def test_a_split_that_is_not_there_cannot_be_left_out():
    splits = list(make_birthdays(1, splits=2, per_split=4, dev=0).values())
    with pytest.raises(DataError, match="cannot be left out"):
        leave_one_out(splits, "split_7")
