"""Statements about invented subjects, for files that state little."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from editlab.data import make_facts, true_statements
from editlab.data.corpus import AMPLE, ENOUGH, statistics_texts, substrate_corpus
from editlab.data.fields import PLACEHOLDER
from editlab.data.invented import invented_statements, wordings
from editlab.data.requests import EditRequest, write_requests


def sparse(count: int = 40) -> list[EditRequest]:
    """Facts in EasyEdit's manner: a prompt, a rephrased one and one neighbour each; every new object is a new word."""
    return [
        EditRequest(
            str(i),
            "{} was born in",
            f"Anna Abel{i}",
            f"Newtown {i}",
            f"Oldtown {i % 7}",
            paraphrase_prompts=(f"It rained. The home of Anna Abel{i} is",),
            neighborhood_prompts=(f"Bo Dow{i} was born in",),
        )
        for i in range(count)
    ]


def test_every_object_is_stated_and_no_statement_of_the_file_changes(caplog: pytest.LogCaptureFixture) -> None:
    requests = sparse()
    own = true_statements(requests)
    with caplog.at_level(logging.WARNING):
        corpus = substrate_corpus(requests, 5, 1)
    assert corpus.statements[: len(own)] == own
    assert len(corpus.statements) >= AMPLE * len(requests)
    assert len(dict(corpus.statements)) == len(corpus.statements)
    told = Counter(answer for _, answer in corpus.statements)
    assert all(told[request.target_new] >= 2 for request in requests)
    assert "120 true statements for 40 facts" in caplog.text
    assert set(dict(corpus.rewrites)) == {request.rewrite_prompt for request in requests}


def test_invented_subjects_have_one_fact_in_each_wording_and_no_word_of_a_subject() -> None:
    requests = sparse()
    truth = dict(true_statements(requests))
    found, names = invented_statements(requests, truth, 10)
    assert len(set(names)) == len(names)
    assert not {word for name in names for word in name.split()} & {w for r in requests for w in r.subject.split()}
    for name in names[:-1]:
        answers = {answer for prompt, answer in found.items() if name in prompt}
        assert len(answers) == 1
        assert sum(name in prompt for prompt in found) == 2
    assert invented_statements(requests, truth, 10) == (found, names)


def test_wordings_leave_no_trace_of_the_subject() -> None:
    request = EditRequest(
        "0", "{} is in", "Rome", "Peru", "Italy", paraphrase_prompts=("Rome, old Rome, is in", "It is in")
    )
    assert wordings(request) == ["{} is in"]


def test_what_cannot_be_stated_is_passed_over() -> None:
    nothing = [EditRequest("0", "{} is in", "Rome", "Peru", PLACEHOLDER)]
    assert invented_statements(nothing, {}, 10) == ({}, [])
    long = [EditRequest("0", "{} is in", "Rome", "a sentence " * 40, "Italy")]
    found, _ = invented_statements(long, {"Rome is in the country of": "Italy"}, 10)
    assert set(found.values()) == {"Italy"}
    assert invented_statements([], {}, 10) == ({}, [])


def test_a_world_that_states_enough_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    requests = make_facts(120, 1)
    corpus = substrate_corpus(requests, 5, 1)
    assert corpus.statements == true_statements(requests)
    assert len(corpus.statements) >= ENOUGH * len(requests)
    assert caplog.text == ""


def test_statistics_stream_over_what_the_substrate_learned(tmp_path) -> None:
    requests = sparse()
    write_requests(requests, tmp_path / "requests.json")
    texts = statistics_texts(None, tmp_path / "requests.json")
    assert sorted(texts) == sorted(
        f"{prompt} {answer}" for prompt, answer in substrate_corpus(requests, 0, 0).statements
    )
