"""The linear probe: it reads what is there, nothing where nothing is, and never looks at what it is asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from editlab.config.unlearning import Birthdays, QuestionModel, Retraining, Scoring
from editlab.data.neutral import neutral_sentences
from editlab.data.questions import leave_one_out
from editlab.errors import DataError
from editlab.evaluation.choices import opening
from editlab.training.answering import build_model, corpus_of
from editlab.unlearning import attacks, probing
from editlab.unlearning.attacks import attack
from editlab.unlearning.facts import make_facts
from editlab.unlearning.probing import probe

FACTS = make_facts(Birthdays(kind="birthdays", splits=3, per_split=12, retain_splits=3, dev=2), 1)
TOLD, SECRET = leave_one_out(FACTS.forget, "split_0")
KNOWN = [q for split in [*TOLD, *FACTS.retained] for q in split.questions]


@pytest.fixture(scope="module")
def model():
    options = QuestionModel(source="trained", layers=2, width=32, inner=64, heads=2, vocabulary=500, context=256)
    texts = corpus_of([*FACTS.forget, *FACTS.retained], neutral_sentences(4, 5))
    return build_model(options, texts, 1).eval()


def planted(monkeypatch, share):
    """Hidden states that hold the answers of a share of the questions under a random rotation, and noise in the first block."""
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(32, 32)))[0]

    def states(model, questions, max_tokens):
        truth = probing._embedded(model, [q.right for q in questions])
        held = np.arange(len(questions)) < share * len(questions)
        noise = generator.normal(size=truth.shape) * truth.std()
        return np.stack([noise, np.where(held[:, None], truth @ rotation, noise)])

    monkeypatch.setattr(probing, "_states", states)


def test_what_stands_in_the_states_is_read(model, monkeypatch):
    planted(monkeypatch, 1.0)
    assert probe(model, KNOWN, SECRET.questions).accuracy == 1.0


def test_what_does_not_stand_there_is_not_read(model, monkeypatch):
    planted(monkeypatch, len(KNOWN) / (len(KNOWN) + len(SECRET.questions)))
    assert probe(model, KNOWN, SECRET.questions).accuracy < 0.7


def test_an_untrained_model_gives_away_nothing(model):
    right = [probe(model, KNOWN, SECRET.questions).accuracy]
    for name in ("split_1", "split_2"):
        told, secret = leave_one_out(FACTS.forget, name)
        known = [q for split in [*told, *FACTS.retained] for q in split.questions]
        right.append(probe(model, known, secret.questions).accuracy)
    assert np.mean(right) < 0.25 + 3 * np.sqrt(0.25 * 0.75 / 36)


def test_the_states_are_those_of_the_block_at_the_last_token(model):
    questions = SECRET.questions[:3]
    found = probing._states(model, questions, 4096)
    for i, question in enumerate(questions):
        ids = torch.tensor([model.tokenizer(opening(question)).input_ids])
        with torch.no_grad():
            alone = model(input_ids=ids, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[0, i], alone[1][0, -1].double().numpy(), atol=1e-5)
    np.testing.assert_allclose(probing._states(model, questions, 10), found, atol=1e-5)  # one at a time


def test_the_answer_of_what_is_asked_has_no_part_in_it(model):
    questions = SECRET.questions
    turned = [dataclasses.replace(q, answer=(q.answer + 1) % 4) for q in questions]
    np.testing.assert_array_equal(probe(model, KNOWN, questions).values, probe(model, KNOWN, turned).values)
    alone = np.concatenate([probe(model, KNOWN, [q]).values for q in questions])
    np.testing.assert_allclose(alone, probe(model, KNOWN, questions).values, rtol=1e-4)  # each question by itself


def test_the_strength_is_the_one_with_the_least_leave_one_out_error(model):
    states = probing._states(model, KNOWN, 4096)[1][:20]
    truth = probing._embedded(model, [q.right for q in KNOWN[:20]])
    fit, (mean, spread) = probing._fitted(states, truth)
    inputs = (states - mean) / spread

    def error(alpha):
        rest = [np.delete(np.arange(20), i) for i in range(20)]
        read = [Ridge(alpha).fit(inputs[r], truth[r]).predict(inputs[[i]])[0] for i, r in enumerate(rest)]
        return float(((np.array(read) - truth) ** 2).sum())

    errors = {alpha: error(alpha) for alpha in probing.STRENGTHS * 20}
    assert errors[fit.alpha_] == pytest.approx(min(errors.values()), rel=1e-6)


def test_as_an_attack_it_scores_v_alone_and_changes_nothing(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    table = attack(model, FACTS, ["split_0"], Retraining(), Scoring(primary="cloze"), kind="probe", seed=1)
    assert set(table["set"]) == {"V"}
    assert set(table["epoch"]) == {1}
    assert {"cloze", "letters"} <= set(table["metric"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_too_few_facts_are_refused(model):
    with pytest.raises(DataError, match="1 known and 12 asked"):
        probe(model, KNOWN[:1], SECRET.questions)


def test_the_attack_fits_the_probe_to_t_and_to_what_is_retained_and_to_nothing_of_v(model, monkeypatch):
    fitted = []

    def recorded(model, known, asked, **_):
        fitted.append((list(known), list(asked)))
        return probe(model, known, asked)

    monkeypatch.setattr(attacks, "probe", recorded)
    attack(model, FACTS, ["split_0"], Retraining(), Scoring(primary="cloze"), kind="probe", seed=1)
    assert len(fitted) == 2  # the halves of V
    for known, asked in fitted:
        assert known == KNOWN
        assert not {q.question for q in known} & {q.question for q in asked}
    assert sorted(q.question for _, asked in fitted for q in asked) == sorted(q.question for q in SECRET.questions)
