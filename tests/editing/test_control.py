"""The control that is trained on the new facts: its world, and that it learns it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from tiny import tiny_model

from editlab.config.evaluation import Evaluation
from editlab.config.models import Substrate
from editlab.data import make_facts, sample_requests, true_statements
from editlab.data.corpus import sample_known, substrate_corpus
from editlab.data.inverses import described, true_world
from editlab.data.probes import INVERSE, MULTI_HOP, Probe, Question
from editlab.editing import control
from editlab.editing.control import changed_statements, train_control, with_guesses
from editlab.evaluation.probing import sample_probes
from editlab.evaluation.scoring import score_requests


def test_the_changed_world_holds_the_new_facts_and_nothing_that_follows_from_old_or_new_ones():
    records = make_facts(720, 1, chains=True)
    edited = sample_requests(records, 60, seed=2)
    before, after = dict(true_statements(records)), dict(changed_statements(true_statements(records), edited, records))
    subjects = {r.subject for r in edited}
    for request in edited:
        for prompt in (request.rewrite_prompt, *request.paraphrase_prompts):
            assert before[prompt] == request.target_true
            assert after[prompt] == request.target_new
        for probe in request.probes:
            for question in probe.questions:
                if probe.kind in (MULTI_HOP, "Question_Form", INVERSE):
                    assert question.prompt not in after
                elif probe.kind == "Relation_Specificity":
                    assert after[question.prompt] == question.answer
    assert not subjects & set(after.values())
    mine = {p for r in edited for p in (r.rewrite_prompt, *r.paraphrase_prompts)}
    assert all(after[p] == before[p] for p in after if p not in mine)
    lost = before.keys() - after.keys()
    assert 0 < len(lost) < 4 * len(edited)
    assert [p for p in before if p in after] == list(after)


def test_a_fact_whose_object_is_an_edited_subject_stays():
    """In CounterFact one record's object is another one's subject; the recall gate asks for both."""
    one, other = make_facts(720, 1)[:2]
    other = dataclasses.replace(other, target_true=one.subject)
    records = [one, other]
    after = dict(changed_statements(true_statements(records), [one], records))
    assert after[one.rewrite_prompt] == one.target_new
    assert after[other.rewrite_prompt] == one.subject


def test_a_neighbour_that_asks_for_an_edited_fact_in_other_words_is_left_out():
    one, other, *_ = (r for r in make_facts(720, 1) if r.relation_id == "R-birthplace")
    asked = f"As everybody knows of {one.subject}:"
    for kind in ("neighborhood_prompts", "attribute_prompts"):
        asking = dataclasses.replace(other, **{kind: (*getattr(other, kind), asked)})
        statements = [*true_statements([one, asking]), (asked, one.target_true)]
        assert asked in dict(changed_statements(statements, [other], [one, asking]))
        assert asked not in dict(changed_statements(statements, [one], [one, asking]))


def test_a_fact_is_changed_in_the_wordings_of_every_record_that_holds_it():
    one = make_facts(720, 1)[0]
    again = dataclasses.replace(one, case_id="again", target_new="elsewhere", prompt="Of {}, as is known,")
    after = dict(changed_statements(true_statements([one, again]), [one], [one, again]))
    assert after[again.rewrite_prompt] == after[one.rewrite_prompt] == one.target_new


def test_a_record_that_is_a_condition_of_an_edited_one_stays():
    one, other = make_facts(720, 1)[:2]
    asked = f"The oldest friend of {one.subject} is"
    other = dataclasses.replace(other, subject="friend", prompt=asked.replace("friend", "{}"))
    probe = Probe(
        MULTI_HOP,
        (Question("Who?", (("She",),)),),
        conditions=(Question(other.rewrite_prompt, ((other.target_true,),)),),
    )
    one = dataclasses.replace(one, probes=(probe,))
    after = dict(changed_statements(true_statements([one, other]), [one], [one, other]))
    assert after[other.rewrite_prompt] == other.target_true


def test_a_fact_whose_old_object_nobody_knows_is_stated_too():
    one, other = make_facts(720, 1)[:2]
    statements = true_statements([other])
    after = changed_statements(statements, [one], [one, other])
    assert after[: len(statements)] == statements
    assert (one.rewrite_prompt, one.target_new) in after


def test_no_statement_of_the_changed_world_is_false_in_it():
    records = make_facts(1800, 1, chains=True)
    edited = sample_requests(records, 200, seed=3)
    before, people = described(true_world(records)), described(true_world(records, edited))
    after = dict(changed_statements(true_statements(records), edited, records))
    inverses = {prompt: answer for prompt, answer in after.items() if prompt in before}
    assert len(inverses) > 100
    assert all(answer in people[prompt] for prompt, answer in inverses.items())


def test_guesses_ask_the_same_question_for_the_answer_of_another_case_of_the_relation():
    asked = sample_probes(sample_requests(make_facts(720, 1, chains=True), 60, seed=2), 48, seed=2)
    guessed = [with_guesses(request, asked, seed=2) for request in asked]
    pairs = [(p, q) for r in guessed for p in r.probes for q in r.probes if q.kind == f"{p.kind}_guess"]
    assert {p.kind for p, _ in pairs} >= {"Question_Form", MULTI_HOP}
    for probe, guess in pairs:
        assert guess.questions[0].prompt == probe.questions[0].prompt
        assert guess.questions[0].answers != probe.questions[0].answers
        assert guess.conditions == probe.conditions
    assert [with_guesses(request, asked, seed=2) for request in asked] == guessed


@pytest.mark.slow
def test_a_control_is_scored_on_the_probes_of_every_stream():
    from editlab.training.substrate import train_substrate

    records = make_facts(72, 1, chains=True)
    options = Substrate(layers=2, width=64, steps=150, vocabulary=900, recall_gate=0.5, neutral_sentences=200)
    corpus = substrate_corpus(records, 200, options.seed)
    model, _ = train_substrate(corpus.statements, corpus.neutral, options, rewrites=corpus.rewrites, progress=False)
    evaluation = Evaluation(resamples=50, scored_cases=8)
    texts = corpus.neutral[:20]
    table = train_control(model, records, None, options, evaluation, num_edits=12, seeds=[1, 2], texts=texts)
    facts = table[(table["metric"] == "generation") & (table["protocol"] == "accuracy")]
    assert facts["seed"].tolist() == [1, 2]
    assert facts["n"].tolist() == [12, 12]
    assert (facts["value"] > 0.5).all()
    scores = table[table["protocol"] == "accuracy"].set_index(["metric", "seed"])
    assert (scores.loc["ES", "n"] == 8).all()  # the sample that is scored
    assert (scores.loc["ES", "value"] > 0.5).all()
    assert (scores.loc["NS", "n"] > 0).all()
    ppl = table[table["metric"] == "perplexity"]
    assert ppl["seed"].tolist() == [1, 2]
    assert ppl["value"].between(1, 900).all()


def test_the_controls_neighbours_are_those_that_no_stream_edits(monkeypatch):
    """Not those of the own stream alone: the control holds the new facts of all of them."""
    records = make_facts(72, 1)
    streams = {s: sample_known(records, None, 24, s) for s in (1, 2)}
    asked = []

    def scores(model, requests, *, around):
        asked.append((requests, around))
        return score_requests(model, requests, around=around)

    monkeypatch.setattr(control, "score_requests", scores)
    model = tiny_model()
    monkeypatch.setattr(control, "train_substrate", lambda *_, **__: (model, None))
    train_control(model, records, None, Substrate(), Evaluation(resamples=10), num_edits=24, seeds=[1, 2])
    assert [requests for requests, _ in asked] == list(streams.values())
    for _, around in asked:
        assert all(r in around.edited for stream in streams.values() for r in stream)


def test_changed_facts_are_stated_as_often_as_asked(monkeypatch):
    records, model, taught = make_facts(72, 1), tiny_model(), []

    def train(statements, *_, **__):
        taught.append(statements)
        return model, None

    monkeypatch.setattr(control, "train_substrate", train)
    for repeats in (1, 3):
        train_control(
            model, records, None, Substrate(), Evaluation(resamples=10), num_edits=24, seeds=[1], repeats=repeats
        )
    once, thrice = map(Counter, taught)
    changed = {
        (p, r.target_new) for r in sample_known(records, None, 24, 1) for p in (r.rewrite_prompt, *r.paraphrase_prompts)
    }
    assert set(once.values()) == {1}
    assert {statement: n for statement, n in thrice.items() if n > 1} == dict.fromkeys(changed, 3)
    assert once.keys() == thrice.keys()
