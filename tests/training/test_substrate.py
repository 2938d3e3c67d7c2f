"""A small model trained from scratch knows its facts, the same ones for the same seed, and says so when it does not."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from tiny import tiny_requests

from editlab.config.base import validated
from editlab.config.models import Substrate
from editlab.data import neutral_sentences, true_statements
from editlab.errors import ConfigError, DataError, ModelError
from editlab.networks.loading import load_model
from editlab.networks.tokenization import Encoder
from editlab.training import substrate
from editlab.training.muon import orthogonalised
from editlab.training.statements import Row, TrainingRows, grouped, predictions, recall, subject_spans
from editlab.training.substrate import train_substrate, train_tokenizer

SMALL = {"layers": 2, "width": 48, "heads": 2, "vocabulary": 500, "context": 48, "batch": 32, "recall_gate": 0.0}


def statements() -> list[tuple[str, str]]:
    return true_statements(tiny_requests(12, neighbors=0))


def train(partial=None, code="", **changes):
    options = Substrate(**{**SMALL, "lr": 0.03, "embedding_lr": 0.01, "weight_decay": 0.01, **changes})
    texts, given = neutral_sentences(50, 0), {"partial": partial, "code": code}
    return train_substrate(statements(), texts, options, rewrites=statements()[:12], progress=False, **given)


@functools.cache
def trained(architecture: str = "gpt2"):
    return train(architecture=architecture, steps=80, context_share=0.5, prompt_share=0.1, recall_gate=0.95)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_it_knows_what_it_was_told_bare_and_in_context(architecture):
    model, log = trained(architecture)
    assert recall(model, statements()) >= 0.95
    assert recall(model, statements(), contexts=["The old mill was rebuilt. {}"]) >= 0.9
    assert log[-1]["recall"] >= 0.95
    assert log[-1]["step"] == 80
    assert log[0]["loss"] > log[-1]["loss"]
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_seed_decides_the_weights_and_the_global_generator_does_not():
    torch.manual_seed(5)
    first, _ = train(steps=4)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected)
    again, _ = train(steps=4)
    other, _ = train(steps=4, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_the_number_of_threads_changes_no_bit():
    threads, models = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            models.append(train(steps=5)[0])
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


class Killed(BaseException):
    """What ends a run in the middle."""


def killed(monkeypatch, path, at: int, **changes):
    """A run that saves itself every 3 steps and is killed in the middle of step ``at``."""
    draw, count = TrainingRows.draw, itertools.count()

    def dying(corpus):
        if next(count) == at:
            raise Killed
        return draw(corpus)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRows, "draw", dying)
        with pytest.raises(Killed):
            train(partial=path, **changes)


def bits(model):
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_killed_training_goes_on_to_the_same_bits(architecture, monkeypatch, tmp_path):
    monkeypatch.setattr(substrate, "SAVE_EVERY", 3)
    given = {"architecture": architecture, "steps": 10}
    undisturbed, log = train(**given)
    path = tmp_path / "partial.safetensors"
    killed(monkeypatch, path, 8, **given)
    drawn = []
    draw = TrainingRows.draw
    monkeypatch.setattr(TrainingRows, "draw", lambda corpus: drawn.append(1) or draw(corpus))
    resumed, same = train(partial=path, **given)
    assert len(drawn) == 4  # steps 7 to 10: those before are not made again
    assert same == log
    assert all(map(torch.equal, bits(resumed), bits(undisturbed)))


@pytest.mark.parametrize("changes", [{"seed": 2}, {"lr": 0.02}, {"code": "other"}])
def test_a_state_of_another_run_is_not_gone_on_from(changes, monkeypatch, tmp_path):
    monkeypatch.setattr(substrate, "SAVE_EVERY", 3)
    path = tmp_path / "partial.safetensors"
    killed(monkeypatch, path, 4, steps=6)
    found, _ = train(partial=path, steps=6, **changes)
    expected, _ = train(steps=6, **changes)
    assert all(map(torch.equal, bits(found), bits(expected)))


def test_a_damaged_state_is_told_and_not_used(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(substrate, "SAVE_EVERY", 3)
    path = tmp_path / "partial.safetensors"
    path.write_bytes(b"half a file")
    found, _ = train(partial=path, steps=4)
    assert all(map(torch.equal, bits(found), bits(train(steps=4)[0])))
    assert "partial.safetensors" in caplog.text


def test_it_is_saved_and_loaded_as_any_model(tmp_path):
    model, _ = trained()
    model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert recall(loaded, statements()) == recall(model, statements())
    assert loaded.tokenizer(" Anna lives.").input_ids == model.tokenizer(" Anna lives.").input_ids


def test_a_recall_under_the_gate_is_one_line():
    with pytest.raises(ModelError, match=r"recall on the rewrite prompts is 0\.\d+, below recall_gate 0\.95") as caught:
        train(steps=2, recall_gate=0.95)
    assert "\n" not in str(caught.value)


def test_recall_agrees_with_plain_decoding():
    model, _ = trained()
    wrong = [(prompt, "Cairo") for prompt, _ in statements()[:9]]
    right = statements()[:9]
    hits = 0
    for prompt, completion in wrong + right:
        target = model.tokenizer(f" {completion}").input_ids
        ids = model.tokenizer(prompt, return_tensors="pt").input_ids
        for token in target:
            with torch.no_grad():
                best = int(model(ids).logits[0, -1].argmax())
            if best != token:
                break
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
        else:
            hits += 1
    assert recall(model, wrong + right) == pytest.approx(hits / 18)
    assert recall(model, wrong + right, batch_tokens=20) == pytest.approx(hits / 18)


def test_the_tokenizer_is_byte_level_with_leading_spaces_and_deterministic():
    texts = [f"{prompt} {completion}." for prompt, completion in statements()]
    first, again = train_tokenizer(texts, 400), train_tokenizer(texts, 400)
    assert first.get_vocab() == again.get_vocab()
    assert len(first) == 400
    (row,) = Encoder(first).pairs(["The prompt"], ["word"])
    assert row.prompt == first("The prompt").input_ids
    assert row.target == first(" word").input_ids
    for text in ("Ünïcödé 你好 \U0001f600", " two  spaces\n"):
        assert first.decode(first(text).input_ids) == text
    assert first.bos_token == first.eos_token == first.pad_token == first.unk_token == "<|endoftext|>"


def rows(**changes) -> TrainingRows:
    options = Substrate(**{**SMALL, "batch": 10, **changes})
    encoder = Encoder(train_tokenizer([f"{p} {c}." for p, c in statements()], 500))
    return TrainingRows(statements(), neutral_sentences(20, 0), encoder, options)


def test_every_statement_is_drawn_once_before_any_comes_twice():
    corpus = rows(context_share=0.0, neutral_share=0.0, prompt_share=0.0, batch=len(statements()))
    drawn = sorted(row.ids for row in corpus.draw())
    assert drawn == sorted(p + c for p, c in zip(corpus.bare, corpus.completions, strict=True))


def test_rows_learn_the_completion_the_stop_and_the_end():
    corpus = rows(context_share=1.0, neutral_share=0.0, prompt_share=0.0)
    tokenizer = train_tokenizer([f"{p} {c}." for p, c in statements()], 500)
    truth = {f" {prompt} {completion}." for prompt, completion in statements()}
    completions = {f" {completion}.<|endoftext|>" for _, completion in statements()}
    for row in corpus.draw():
        text = tokenizer.decode(row.ids)
        assert text[text.index(". ") + 1 :].removesuffix("<|endoftext|>") in truth
        assert tokenizer.decode(row.ids[row.first + 1 :]) in completions


def test_neutral_text_has_its_share_and_fills_the_context():
    corpus = rows(neutral_share=0.5)
    tokens = neutral = 0
    for _ in range(60):
        for row in corpus.draw():
            passage = len(row.ids) == SMALL["context"]
            neutral += len(row.ids) * passage
            tokens += len(row.ids) * (not passage)
    assert neutral / tokens == pytest.approx(0.5, rel=0.2)


def test_a_statement_longer_than_the_context_is_named():
    with pytest.raises(DataError, match="context: 8 is too short"):
        rows(context=8)
    with pytest.raises(DataError, match="no statements"):
        train_substrate([], [], Substrate(), progress=False)


def test_groups_hold_every_row_once_with_little_padding():
    lengths = sorted([3] * 40 + [9] * 5 + [17] * 30 + [40])
    found = list(grouped([Row([0] * n, 0) for n in lengths], 200))
    assert [len(row.ids) for group in found for row in group] == lengths
    assert all(len(group) * len(group[-1].ids) <= 200 for group in found)


def test_predictions_ignore_padding():
    model, _ = trained()
    short, long = Row(list(range(5, 12)), 2), Row(list(range(30, 50)), 0)
    together, alone = predictions(model, [short, long], 0), predictions(model, [short], 0)
    torch.testing.assert_close(together[0][:4], alone[0])
    assert together[1][:4].tolist() == [8, 9, 10, 11]
    assert together[2].tolist() == [0] * 4 + [1] * 19


@pytest.mark.parametrize(
    ("key", "value"), [("architecture", "rnn"), ("steps", 0), ("context_share", 1.5), ("heads", 5), ("lr", -1.0)]
)
def test_bad_options_are_config_errors(key, value):
    with pytest.raises(ConfigError, match=key):
        validated(Substrate, {key: value}, "substrate")


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_muon_steps_have_nearly_equal_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_only_the_last_token_of_a_subject_is_seen_from_after_it():
    subjects = [request.subject for request in tiny_requests(12)]
    encoder = Encoder(trained()[0].tokenizer)
    spans = subject_spans(encoder, [f" {prompt}" for prompt, _ in statements()], subjects)
    prompts = encoder.prompts([f" {prompt}" for prompt, _ in statements()])
    for ids, span, (prompt, _) in zip(prompts, spans, statements(), strict=True):
        named = encoder.tokenizer.decode(ids[len(ids) - span[0] : len(ids) - span[1] + 1]).strip()
        assert named in subjects
        assert named in prompt
    row = Row(list(range(10, 20)), 0, (2, 4))
    changed = Row([*row.ids[:3], 99, *row.ids[4:]], 0, (2, 4))  # a token that is hidden from after position 4
    model = single_block()
    before, after = (predictions(model, [r], 0)[0] for r in (row, changed))
    torch.testing.assert_close(before[5:], after[5:])
    assert not torch.allclose(before[3:5], after[3:5])


def single_block():
    """With one block, what a position may not look at cannot reach it by another way."""
    model, _ = train(steps=1, layers=1)
    return model
