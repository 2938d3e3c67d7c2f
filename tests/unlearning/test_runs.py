"""The stages of the unlearning study on tiny models: what they write, what they leave as it was, what they refuse."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from second_device import placed

from editlab.config.base import validated
from editlab.config.unlearning import Birthdays, Learning, Method, QuestionFiles, QuestionModel, Retraining, Scoring
from editlab.data.neutral import neutral_sentences
from editlab.data.questions import leave_one_out, split_names
from editlab.errors import ConfigError, DataError, ModelError
from editlab.files.artifacts import write_csv, write_json
from editlab.networks.loading import load_model
from editlab.training.answering import build_model, corpus_of, learn, train_answerer
from editlab.training.parametrisation import save_model
from editlab.unlearning import attacks
from editlab.unlearning.attacks import attack, attack_kept, attack_stage
from editlab.unlearning.facts import load_facts, load_neutral, make_facts, neutral_texts, read_published, write_facts
from editlab.unlearning.runs import check_reloaded, keep_point, run_unlearning, texts_of, unlearn_stage
from editlab.unlearning.scores import score_model
from editlab.unlearning.selection import NO_POINT
from editlab.unlearning.teaching import learned

FACTS = make_facts(Birthdays(kind="birthdays", splits=2, per_split=6, retain_splits=2, dev=3), 1)
NEUTRAL = neutral_sentences(4, 5)
BOTH = {"training": neutral_sentences(6, 6), "held_out": NEUTRAL}
SCORING = Scoring(primary="cloze")
RTT = Retraining(lrs=[1e-3], lora_lrs=[1e-2], epochs=2, batch=8, lora_rank=2, shots=2)


def small():
    """An untrained model whose tokenizer knows the facts."""
    options = QuestionModel(source="trained", layers=2, width=32, inner=64, heads=2, vocabulary=500, context=256)
    return placed(build_model(options, corpus_of([*FACTS.forget, *FACTS.retained], NEUTRAL), 1).eval())


def method(name="gd", **fields):
    return validated(Method, {"lrs": [1e-3], "epochs": 2, "batch": 12, "objective": {"name": name}, **fields}, "method")


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(chosen, rank=0):
    return run_unlearning(small(), FACTS, BOTH, chosen, SCORING, rank=rank, lr=1e-2, retain=1.0, seed=1)


def test_a_run_is_scored_on_every_set_before_and_after_each_epoch():
    table = run(method())
    assert sorted(set(table["epoch"])) == [0, 1, 2]
    assert set(table["set"]) == {"forget", "same", "other", "neutral"}
    assert set(table["metric"]) == {"letters", "letters_calibrated", "letter_entropy", "cloze", "perplexity", "kl"}
    assert set(table.loc[table["set"] == "same", "half"]) == {"select", "report"}
    kl = table[table["metric"] == "kl"].set_index("epoch")["value"]
    assert kl[0] == pytest.approx(0, abs=1e-7)
    assert 0 < kl[1] < kl[2]
    counted = table[(table["metric"] == "cloze") & (table["epoch"] == 1)].groupby("set")["n"].sum()
    assert counted.to_dict() == {"forget": 12, "same": 12, "other": 12}
    pd.testing.assert_frame_equal(table, run(method()), check_exact=True)


@pytest.mark.parametrize(("chosen", "rank"), [(method(), 0), (method(parametrisation="lora", ranks=[2]), 2)])
def test_a_kept_point_is_the_epoch_that_was_scored(chosen, rank, tmp_path):
    table = run(chosen, rank)
    point = {"lr": 1e-2, "retain": 1.0, "epoch": 1}
    after = keep_point(small, FACTS, BOTH, chosen, SCORING, tmp_path, point, rank=rank, seed=1)
    seen = table[(table["epoch"] == 1) & (table["metric"] != "kl")].reset_index(drop=True)
    assert len(after) == len(seen)
    check_reloaded(seen, after, "there")
    assert (tmp_path / "adapter").is_dir() == bool(rank)
    assert load_model(tmp_path).config.num_hidden_layers == 2


def test_stages_do_what_their_scripts_tell_them_in_json(tmp_path):
    """The scores of a run, then an attack on the same model, from files alone."""
    write_facts(FACTS, tmp_path / "facts")
    write_json(tmp_path / "facts" / "neutral.json", BOTH)
    save_model(small(), tmp_path / "model")
    about = {"model": str(tmp_path / "model"), "facts": str(tmp_path / "facts"), "loading": {"dtype": "float32"}}
    given = json.loads(json.dumps({**about, "scoring": SCORING.model_dump(mode="json"), "seed": 1, "threads": 1}))
    chosen = method().model_dump(mode="json")
    unlearn_stage(given=given, method=chosen, rank=0, lr=1e-2, retain=1.0, target=str(tmp_path / "run.csv"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run.csv"), pd.read_csv(written(run(method()), tmp_path)))
    options = RTT.model_dump(mode="json")
    attack_stage(given=given, splits=["split_0"], options=options, kind="prompt", target=str(tmp_path / "attack.csv"))
    expected = attack(small(), FACTS, ["split_0"], RTT, SCORING, kind="prompt", seed=1)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "attack.csv"), pd.read_csv(written(expected, tmp_path)))


def written(table, folder):
    write_csv(folder / "expected.csv", table)
    return folder / "expected.csv"


def test_no_point_leaves_a_note_and_no_rows(tmp_path):
    kept = keep_point(small, FACTS, BOTH, method(), SCORING, tmp_path, None, rank=0, seed=1)
    assert not len(kept)
    assert (tmp_path / NO_POINT).is_file()
    looked = attack_kept(tmp_path, small, FACTS, ["split_0"], RTT, SCORING, kind="full", seed=1)
    assert not len(looked)


def test_a_dtype_that_swallows_the_update_is_refused():
    before = score_model(small(), FACTS, [], SCORING, 1)
    after = before.assign(value=before["value"].where(before["metric"] != "cloze", 1 - before["value"]))
    with pytest.raises(ModelError, match="after reloading"):
        check_reloaded(before, after, "there")
    check_reloaded(before, before, "there")


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("loss", ["question_letter_answer", "corpus"])
def test_an_attack_leaves_the_model_as_it_was_and_learns_what_it_is_told(kind, loss):
    model = small()
    before = weights(model)
    options = RTT.model_copy(update={"loss": loss, "epochs": 6, "lrs": [3e-3]})
    table = attack(model, FACTS, ["split_1"], options, SCORING, kind=kind, seed=1)
    assert weights(model).keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert sorted(set(table["epoch"])) == list(range(7))
    assert {("V", "first"), ("V", "second"), ("T", "all"), ("same", "report")} <= set(
        zip(table["set"], table["half"], strict=True)
    )
    if loss == "corpus" and kind == "full":
        told = table[(table["set"] == "T") & (table["metric"] == "cloze")].set_index("epoch")["value"]
        assert told[6] >= told[0]


def test_prompting_shows_facts_of_t_alone():
    model = small()
    before = weights(model)
    table = attack(model, FACTS, ["split_0"], RTT, SCORING, kind="prompt", seed=1)
    assert set(table["set"]) == {"V"}
    assert set(table["lr"]) == {0}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    told, secret = leave_one_out(FACTS.forget, "split_0")
    assert [s.name for s in told] == ["split_1"]
    assert secret.name == "split_0"


def test_unknown_attacks_and_splits_are_refused():
    for arguments, says in (
        (("split_0", "magic"), "'magic' is not allowed"),
        (("split_9", "full"), "cannot be left out"),
    ):
        with pytest.raises(DataError, match=says):
            attack(small(), FACTS, [arguments[0]], RTT, SCORING, kind=arguments[1], seed=1)


def test_learning_gates_and_the_lower_half_leaves_the_upper_one_alone():
    model = small()
    before = weights(model)
    learn(model, FACTS.forget, FACTS.retained, Learning(epochs=1, lr=1e-2), 1, lower_half=True)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("layers.0." in name for name in changed)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ModelError, match=r"below gate 0\.99"):
        learned(small(), FACTS, NEUTRAL, Learning(epochs=1, lr=1e-6, gate=0.99), 1)


def test_what_is_learned_beside_the_facts_is_what_the_options_say(monkeypatch):
    from editlab.training import answering

    seen = {}

    def recorded(model, rows, *, epochs, **_):
        seen.update(rows=len(rows), epochs=epochs)

    monkeypatch.setattr(answering, "finetune", recorded)
    options = Learning(epochs=2, questions=False)
    learn(small(), FACTS.forget, FACTS.retained, options, 1, neutral=NEUTRAL)
    assert seen == {"rows": 2 * 36, "epochs": 2}  # 12 people, three texts each, and as many of what is retained
    more = options.model_copy(update={"questions": True, "neutral": 3, "hidden_epochs": 5})
    learn(small(), FACTS.forget, FACTS.retained, more, 1, neutral=NEUTRAL, lower_half=True)
    assert seen == {"rows": 2 * (36 + 12) + 3, "epochs": 5}


@pytest.mark.slow
def test_a_small_model_learns_what_it_is_told_and_nothing_else():
    options = QuestionModel(
        source="trained", layers=2, width=64, inner=128, vocabulary=600, skill_steps=5, steps=150, neutral_sentences=50
    )
    model, log = train_answerer(FACTS.retained, FACTS.forget, neutral_sentences(50, 1), options, 1)
    assert log
    table = score_model(model, FACTS, NEUTRAL, SCORING, 1)
    known = table[table["metric"] == "cloze"].groupby("set")["value"].mean()
    assert known["same"] > 0.8
    assert known["forget"] < 0.6


def test_facts_come_back_as_they_were_written(tmp_path):
    write_facts(FACTS, tmp_path)
    assert load_facts(tmp_path) == FACTS
    assert split_names(tmp_path / "other") == ["city_0", "job_1"]
    questions = [q.question for splits in FACTS.sets.values() for s in splits for q in s.questions]
    assert len(set(questions)) == len(questions)


def test_neutral_texts_are_held_out():
    options = Birthdays(kind="birthdays")
    texts = neutral_texts(options, 300, 40, 1)
    assert len(texts["held_out"]) == 40
    assert not set(texts["held_out"]) & set(texts["training"])


def test_published_directories_are_sets_of_a_study(shared_data, tmp_path):
    folder = shared_data / "unlearning"
    options = validated(
        QuestionFiles,
        {
            "kind": "files",
            "forget": str(folder / "random_bd"),
            "forget_splits": ["split_0", "split_1"],
            "same": str(folder / "random_bd"),
            "same_splits": ["split_5"],
            "retain": str(folder / "mmlu_cats_random_trimmed"),
        },
        "data",
    )
    facts = read_published(options)
    assert [len(s.questions) for s in facts.forget] == [157, 157]
    assert len(facts.other) == 5
    assert len(facts.dev) == 10
    write_facts(facts, tmp_path)
    assert load_facts(tmp_path).forget == facts.forget
    assert not (tmp_path / "neutral.json").exists()
    with pytest.raises(DataError, match="no such file"):
        load_neutral(tmp_path)


def test_one_split_cannot_be_attacked():
    with pytest.raises(ConfigError, match="splits"):
        validated(Birthdays, {"kind": "birthdays", "splits": 1}, "data")


def test_every_split_is_held_out_in_turn_and_the_same_epoch_zero_is_looked_at():
    model = small()
    table = attack(model, FACTS, ["split_0", "split_1"], RTT, SCORING, kind="full", seed=1)
    alone = attack(model, FACTS, ["split_1"], RTT, SCORING, kind="full", seed=1)
    second = table[table["v_split"] == "split_1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(second, alone, check_exact=True)  # what came before leaves no trace
    scores = score_model(model, FACTS, [], SCORING, 1)
    before = table[(table["epoch"] == 0) & (table["metric"] == "cloze") & (table["set"] == "V")]
    by_split = (before["value"] * before["n"]).groupby(before["v_split"]).sum() / before["n"].groupby(
        before["v_split"]
    ).sum()
    asked = scores[(scores["set"] == "forget") & (scores["metric"] == "cloze")].set_index("split")["value"]
    pd.testing.assert_series_equal(by_split, asked[by_split.index], check_names=False)
    told = table[table["set"] == "T"]
    assert sorted(set(told["epoch"])) == [0, RTT.epochs]


def test_letters_can_be_left_out():
    scores = score_model(small(), FACTS, [], Scoring(primary="cloze", letters=False), 1)
    assert set(scores["metric"]) == {"cloze"}
    for kind in ("full", "prompt"):
        table = attack(small(), FACTS, ["split_0"], RTT, Scoring(primary="cloze", letters=False), kind=kind, seed=1)
        assert set(table["metric"]) == {"cloze"}
    with pytest.raises(ConfigError, match="letters: false is not allowed with primary 'auto'"):
        validated(Scoring, {"letters": False}, "scoring")


def test_neutral_sentences_are_retained_and_those_that_are_measured_on_never():
    texts = texts_of(FACTS, method(neutral=2), BOTH)
    assert list(texts.retain[-2:]) == BOTH["training"][:2]
    assert not set(texts.retain) & set(NEUTRAL)
    assert list(texts.neutral) == NEUTRAL
    assert len(texts_of(FACTS, method(), BOTH).retain) == len(texts.retain) - 2


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("loss", ["corpus", "question_answer"])
def test_the_attacker_is_told_all_of_t_and_nothing_of_v(monkeypatch, kind, loss):
    told, tokenizer = [], small().tokenizer

    def recorded(model, rows, **_):
        told.append(" ".join(tokenizer.decode(row.ids) for row in rows))

    monkeypatch.setattr(attacks, "finetune", recorded)
    options = RTT.model_copy(update={"loss": loss})
    attack(small(), FACTS, ["split_0", "split_1"], options, SCORING, kind=kind, seed=1)
    assert len(told) == 2
    for text, secret in zip(told, FACTS.forget, strict=True):
        for split in FACTS.forget:
            people = [q.question.removeprefix("When was ").removesuffix(" born?") for q in split.questions]
            assert [person in text for person in people] == [split is not secret] * len(people)


@pytest.mark.parametrize("name", ["gd", "whp", "fwf", "rmu"])
def test_what_is_retained_is_true_and_what_is_unlearned_has_the_form_of_the_objective(name):
    texts = texts_of(FACTS, method(name), BOTH)
    form = name if name in ("whp", "fwf") else "corpus"
    assert texts.retain == [t for s in FACTS.retained for t in s.texts("corpus")]
    assert texts.forget == [s.texts(form) for s in FACTS.forget]
    assert texts.truth == [s.texts("corpus") for s in FACTS.forget]
