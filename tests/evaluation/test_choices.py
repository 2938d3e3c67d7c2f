"""Scores of four-choice questions against one forward pass at a time, with every trap of letters and tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, tiny_model

from editlab.data.birthdays import make_birthdays
from editlab.data.questions import letter_prompt, read_splits
from editlab.errors import DataError, ModelError
from editlab.evaluation.choices import ChoiceScores, letter_ids, score_cloze, score_letters

MADE = make_birthdays(4, splits=1, per_split=9, dev=3)
QUESTIONS, DEV = MADE["split_0"].questions, MADE["dev"].questions


@pytest.mark.parametrize("family", FAMILIES)
def test_letters_are_the_logits_after_each_prompt_alone(family):
    model = tiny_model(family)
    scores = score_letters(model, QUESTIONS, max_tokens=300)
    for row, question in zip(scores.values, QUESTIONS, strict=True):
        prompt = letter_prompt(question)
        ids = [model.tokenizer(f"{prompt} {letter}").input_ids[-1] for letter in "ABCD"]
        with torch.no_grad():
            logits = model(**model.tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        assert np.allclose(row, logits[ids].double().numpy(), atol=1e-4)
    assert scores.answers.tolist() == [q.answer for q in QUESTIONS]


def test_batches_change_no_score():
    model = tiny_model("llama")
    one, many = (score_letters(model, QUESTIONS, max_tokens=tokens).values for tokens in (1, 10**6))
    assert np.allclose(one, many, atol=1e-4)


def test_the_letter_after_a_prompt_has_its_space_and_the_one_of_a_line_has_not():
    tokenizer = tiny_model("gpt2").tokenizer
    prompt = letter_prompt(QUESTIONS[0])
    after, line = letter_ids(tokenizer, prompt), letter_ids(tokenizer, prompt, "line_start")
    assert not set(after) & set(line)
    assert [tokenizer.decode([i]) for i in after] == [" A", " B", " C", " D"]
    assert [tokenizer.decode([i]) for i in line] == ["A", "B", "C", "D"]


def test_letters_that_share_a_token_are_refused():
    class OneToken:
        def __call__(self, text, **_):
            return type("E", (), {"input_ids": [1, 2, 3] if text.endswith((" A", " B", " C", " D")) else [1, 2]})

    with pytest.raises(ModelError, match="not four different ones"):
        letter_ids(OneToken(), "x")


def test_examples_change_the_prompt_and_long_prompts_keep_their_end():
    model = tiny_model("llama", max_position_embeddings=128)
    assert not np.allclose(
        score_letters(model, QUESTIONS, examples=DEV[:1]).values, score_letters(model, QUESTIONS).values
    )
    scores = score_letters(model, QUESTIONS[:1], examples=DEV)
    ids = model.tokenizer(letter_prompt(QUESTIONS[0], DEV)).input_ids
    assert len(ids) > 128
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[-128:]])).logits[0, -1]
    assert np.allclose(scores.values[0], logits[letter_ids(model.tokenizer, "Answer:")].double().numpy(), atol=1e-4)


@pytest.mark.parametrize("shown", [(), DEV[:2]])
def test_cloze_is_the_log_probability_of_the_whole_choice(shown):
    model = tiny_model("gpt2")
    scores = score_cloze(model, QUESTIONS[:3], examples=shown)
    before = "".join(f"{q.statement} {q.right}.\n" for q in shown)
    for row, question in zip(scores.values, QUESTIONS, strict=False):
        for value, choice in zip(row, question.choices, strict=True):
            prompt = model.tokenizer(before + question.statement).input_ids
            target = model.tokenizer(f" {choice}").input_ids
            with torch.no_grad():
                log_p = model(input_ids=torch.tensor([prompt + target])).logits[0].double().log_softmax(-1)
            expected = sum(float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(target))
            assert value == pytest.approx(expected, abs=1e-3)


def test_a_broken_model_is_never_right():
    scores = ChoiceScores(np.full((4, 4), np.nan), np.arange(4))
    assert scores.accuracy == 0
    assert scores.letter_entropy == 0


def test_calibration_takes_out_a_constant_preference_and_entropy_shows_it():
    generator = np.random.default_rng(1)
    answers = np.arange(80) % 4
    values = generator.normal(size=(80, 4)) * 0.1
    values[np.arange(80), answers] += 1.0
    fair = ChoiceScores(values, answers)
    biased = ChoiceScores(values + np.array([0, 50.0, 0, 0]), answers)
    assert fair.accuracy == fair.calibrated_accuracy == 1
    assert biased.accuracy == 0.25
    assert biased.calibrated_accuracy == 1
    assert biased.letter_entropy == 0
    assert fair.letter_entropy == pytest.approx(2.0)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=20))
def test_accuracy_counts_the_best_and_entropy_is_at_most_two_bits(rows):
    values = np.array(rows)
    answers = np.zeros(len(rows), dtype=np.int64)
    scores = ChoiceScores(values, answers)
    assert 0 <= scores.letter_entropy <= 2 + 1e-9
    assert scores.accuracy == pytest.approx(float(np.mean([max(row) == row[0] for row in rows])))
    assert math.isclose(scores.take(range(len(rows))).accuracy, scores.accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random_bd", "dates-years-trimmed", "mmlu_cats_random_trimmed"])
def test_published_files_are_scored_at_chance_by_a_random_model(shared_data, name):
    questions = [q for s in read_splits(shared_data / "unlearning" / name).values() for q in s.questions][:400]
    scores = score_letters(tiny_model("llama", max_position_embeddings=512), questions)
    assert scores.values.shape == (len(questions), 4)
    assert abs(scores.accuracy - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(questions))


def test_no_questions_is_an_error():
    for score in (score_letters, score_cloze):
        with pytest.raises(DataError, match="no questions"):
            score(tiny_model("gpt2"), [])
