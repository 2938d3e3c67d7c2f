"""The loop of unlearning on tiny models: what moves, what does not, what ends it, and the same numbers each time."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import tiny_model

from editlab.config.base import validated
from editlab.config.unlearning import Method
from editlab.data.birthdays import make_birthdays
from editlab.errors import ConfigError, DataError
from editlab.networks.architectures import Architecture
from editlab.networks.loading import load_model
from editlab.training import losses
from editlab.training.batches import answered_row, collate, epochs_of, question_rows, redrawn, text_rows
from editlab.training.objectives import OBJECTIVES, prepare, steered_layer
from editlab.training.parametrisation import blocks_only, lora, plain, save_checkpoint, whole
from editlab.training.repselect import collapse
from editlab.training.retraining import TokenRow
from editlab.training.unlearning import UnlearningTexts, divergence, parametrised, unlearn

SPLITS = list(make_birthdays(3, splits=4, per_split=4, dev=0).values())
TEXTS = UnlearningTexts(
    forget=[s.texts("corpus") for s in SPLITS[:2]],
    truth=[s.texts("corpus") for s in SPLITS[:2]],
    retain=[t for s in SPLITS[2:] for t in s.texts("corpus")],
    neutral=["The rain fell on the hills.", "A fox slept under the hedge."],
)


def method(name="gd", **fields):
    objective = {"name": name, **fields.pop("options", {})}
    return validated(Method, {"lrs": [1e-3], "epochs": 2, "batch": 6, "objective": objective, **fields}, "method")


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model, before):
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("name", [*OBJECTIVES, "repselect"])
def test_every_objective_moves_the_weights_and_only_those_it_may(name):
    model = tiny_model("llama", layers=4)
    before = weights(model)
    chosen = method(name, parametrisation="layers", maps="mlp_output") if name == "rmu" else method(name)
    _, course = unlearn(model, TEXTS, chosen, rank=0, lr=1e-3, retain=1.0, seed=1)
    changed = moved(model, before)
    assert course.ended is None
    assert len(course.terms) == 2
    if name == "rmu":
        assert changed == {f"{Architecture(model).projection_name(i)}.weight" for i in (0, 1, 2)}
    elif name == "repselect":
        assert changed
        assert all("mlp" in n for n in changed)
    else:
        assert len(changed) > 20
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", ["gd", "npo", "rmu"])
def test_lora_moves_the_adapter_alone_and_starts_where_the_model_was(name):
    model = tiny_model("llama", layers=4)
    before = weights(model)
    seen = []
    trainable, _ = unlearn(
        model,
        TEXTS,
        method(name, parametrisation="lora", ranks=[2]),
        rank=2,
        lr=1e-2,
        retain=1.0,
        seed=1,
        after_epoch=lambda epoch, t: seen.append(divergence(t, neutral_batches(t))),
    )
    base = trainable.model.base_model.model
    names = {n.replace(".base_layer", "") for n, _ in base.named_parameters() if "lora_" not in n}
    assert names == set(before)
    for name_, p in base.named_parameters():
        if "lora_" not in name_:
            assert torch.equal(p, before[name_.replace(".base_layer", "")])
    assert seen[0] == pytest.approx(0.0, abs=1e-7)
    assert seen[-1] > 1e-6


def device_of(model):
    return next(model.parameters()).device


def neutral_batches(trainable):
    return [collate(text_rows(trainable.model.tokenizer, TEXTS.neutral), 0, device_of(trainable.model))]


def test_the_same_arguments_give_the_same_bits_and_another_seed_does_not():
    def run(seed):
        model = tiny_model("llama", layers=2)
        unlearn(model, TEXTS, method(), rank=0, lr=1e-3, retain=1.0, seed=seed)
        return weights(model)

    one, again, other = run(1), run(1), run(2)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


def test_stopping_after_an_epoch_gives_the_model_that_a_longer_run_saw_there():
    seen = {}
    model = tiny_model("llama", layers=2)
    chosen = method(epochs=4)
    unlearn(
        model, TEXTS, chosen, rank=0, lr=1e-3, retain=1.0, seed=1,
        after_epoch=lambda epoch, t: seen.update({epoch: weights(t.model)}),
    )  # fmt: skip
    short = tiny_model("llama", layers=2)
    unlearn(short, TEXTS, chosen, rank=0, lr=1e-3, retain=1.0, seed=1, stop_after=2)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert not moved(short, seen[2])


def terms_of(model, name, averaging="masked", **options):
    """Both terms of an objective on one batch, with the model and the batches behind them."""
    chosen = method(name, options=options)
    trainable = whole(model)
    forget = collate(text_rows(model.tokenizer, TEXTS.forget[0][:3]), 0, model.device)
    retain = collate(text_rows(model.tokenizer, TEXTS.retain[:3]), 0, model.device)
    context = prepare(chosen.objective, trainable, averaging, 1, forget)
    with torch.no_grad():  # away from the start, so that a reference differs from the model
        generator = torch.Generator().manual_seed(0)
        for p in trainable.parameters.values():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    away, keep = OBJECTIVES[name](context, forget, retain)
    return away, keep, trainable, forget, retain, context


@pytest.fixture
def model():
    return tiny_model("llama", layers=4).double()


def cross_entropy(model, batch):
    logits = model(**batch.inputs).logits
    rows = []
    for row in range(len(batch.ids)):
        length = int(batch.mask[row].sum())
        log_p = logits[row, : length - 1].double().log_softmax(-1)
        rows.append([-float(log_p[i, batch.ids[row, i + 1]]) for i in range(length - 1)])
    return rows


def test_gd_whp_and_fwf_are_cross_entropies_with_a_sign(model):
    for name, sign in (("gd", -1), ("whp", 1), ("fwf", 1)):
        away, keep, trainable, forget, retain, _ = terms_of(model, name)
        for term, batch, factor in ((away, forget, sign), (keep, retain, 1)):
            rows = cross_entropy(trainable.model, batch)
            mean = sum(map(sum, rows)) / sum(map(len, rows))
            assert float(term) == pytest.approx(factor * mean, rel=1e-5)


def test_npo_and_simnpo_take_summed_and_mean_likelihoods(model):
    away, _, trainable, forget, _, _ = terms_of(model, "npo", beta=0.1)
    now = [sum(row) for row in cross_entropy(trainable.model, forget)]
    with trainable.as_before() as before:
        was = [sum(row) for row in cross_entropy(before, forget)]
    expected = sum(2 / 0.1 * math.log1p(math.exp(0.1 * (w - n))) for n, w in zip(now, was, strict=True)) / len(now)
    assert float(away) == pytest.approx(expected, rel=1e-5)

    away, _, trainable, forget, _, _ = terms_of(model, "simnpo", beta=4.5, delta=0.5, gamma=0.125)
    rows = cross_entropy(trainable.model, forget)
    expected = 0.125 * sum(2 / 4.5 * math.log1p(math.exp(-4.5 * (sum(r) / len(r) - 0.5))) for r in rows) / len(rows)
    assert float(away) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("averaging", ["masked", "included"])
def test_rmu_is_two_squared_errors_at_the_output_of_its_block(model, averaging):
    away, keep, trainable, forget, retain, context = terms_of(model, "rmu", averaging, steering=3.0)
    assert context.layer == 2

    def states(network, batch):
        return network(**batch.inputs, output_hidden_states=True).hidden_states[context.layer + 1]

    def mse(a, b, batch):
        square = (a - b).double().square().mean(-1)
        return float(square.mean() if averaging == "included" else square[batch.mask].mean())

    assert float(away) == pytest.approx(mse(states(trainable.model, forget), context.control, forget), rel=1e-5)
    with trainable.as_before() as before:
        was = states(before, retain)
        norm = states(before, forget)[forget.mask].norm(dim=-1).mean()
    assert float(keep) == pytest.approx(mse(states(trainable.model, retain), was, retain), rel=1e-5)
    assert float(keep) > 0
    assert float(context.control.norm()) == pytest.approx(3.0 * float(norm), rel=1e-5)


def test_graddiff_holds_what_is_retained_by_its_divergence(model):
    away, keep, trainable, forget, retain, _ = terms_of(model, "graddiff", gamma=0.5)
    rows = cross_entropy(trainable.model, forget)
    assert float(away) == pytest.approx(-0.5 * sum(map(sum, rows)) / sum(map(len, rows)), rel=1e-5)
    with trainable.as_before() as before:
        p = before(**retain.inputs).logits[:, :-1].log_softmax(-1)
    q = trainable.model(**retain.inputs).logits[:, :-1].log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)[retain.mask[:, 1:]].mean()
    assert float(keep) == pytest.approx(float(kl), rel=1e-4)


def test_the_layer_of_rmu_follows_the_depth():
    options = method("rmu").objective
    assert [steered_layer(options, n) for n in (2, 4, 12, 32)] == [1, 2, 3, 7]


def test_an_unbounded_objective_ends_before_it_destroys_the_model():
    model = tiny_model("llama", layers=2)
    _, course = unlearn(model, TEXTS, method(epochs=60, warmup=0), rank=0, lr=0.05, retain=0.0, seed=1)
    assert course.ended is not None
    assert "passed" in course.ended
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_clipped_objective_stays_below_its_clip():
    model = tiny_model("llama", layers=2)
    limit = math.log(model.config.vocab_size)
    _, course = unlearn(model, TEXTS, method(epochs=20, options={"clip": 1.0}), rank=0, lr=5e-3, retain=0.0, seed=1)
    assert min(terms["forget"] for terms in course.terms) >= -limit - 1e-4


def test_the_budget_ends_the_run_below_it():
    model = tiny_model("llama", layers=2)
    chosen = method(epochs=50, kl_budget=0.02, check_every=1)
    trainable, course = unlearn(model, TEXTS, chosen, rank=0, lr=2e-3, retain=0.0, seed=1)
    assert course.ended is not None
    assert course.ended.startswith("KL on neutral text passed 0.02")
    assert 0 < divergence(trainable, neutral_batches(trainable)) <= 0.02


def test_layered_unlearning_retains_later_folds_first():
    model = tiny_model("llama", layers=2)
    chosen = method(folds=2, epochs=4)
    _, course = unlearn(model, TEXTS, chosen, rank=0, lr=1e-3, retain=1.0, seed=1)
    assert len(course.terms) == 4
    # A stage has as many steps as it has batches to forget: one fold of two first, both afterwards.
    assert course.steps == 2 * math.ceil(12 / 6) + 2 * math.ceil(24 / 6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_checkpoint_is_the_merged_model_and_its_adapter_loads_in_peft(family, tmp_path):
    from peft import PeftModel

    chosen = method(parametrisation="lora", ranks=[2])
    trainable, _ = unlearn(tiny_model(family), TEXTS, chosen, rank=2, lr=1e-2, retain=1.0, seed=1)
    ids = collate(text_rows(trainable.model.tokenizer, TEXTS.retain[:2]), 0, device_of(trainable.model))
    with torch.no_grad():
        expected = trainable.model(**ids.inputs).logits
    save_checkpoint(trainable, tmp_path)
    names = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)  # the same bytes in every process
    assert len(names) > 1
    with torch.no_grad():
        merged = load_model(tmp_path)(**ids.inputs).logits
        adapted = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter")(**ids.inputs).logits
        untouched = tiny_model(family)(**ids.inputs).logits
    assert torch.allclose(merged, expected, atol=1e-4)
    assert torch.allclose(adapted, expected, atol=1e-4)
    assert not torch.allclose(untouched, expected, atol=1e-2)


def test_a_low_precision_model_is_merged_in_float32():
    model = tiny_model("llama", layers=2).to(torch.bfloat16)
    trainable = lora(model, 2, 1)
    assert all(p.dtype == torch.float32 for p in trainable.parameters.values())
    merged = plain(trainable)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}


def test_only_the_blocks_asked_for_move():
    model = tiny_model("llama", layers=4)
    names = set(parametrised(model, method(parametrisation="layers", blocks=[0.5, 1.0]), 0, 1).parameters)
    assert names
    assert all(".2." in n or ".3." in n for n in names)
    assert len(blocks_only(model, [1], "mlp_output").parameters) == 1
    assert len(whole(model).parameters) == len(dict(model.named_parameters()))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"parametrisation": "lora"}, "give ranks of 1 or more"),
        ({"ranks": [2]}, "only lora has ranks"),
        ({"parametrisation": "lora", "ranks": [0]}, "ranks"),
        ({"lrs": []}, "lrs"),
        ({"lrs": [1e-3, 1e-3]}, "holds a value twice"),
        ({"maps": "mlp_output"}, "is for parametrisation layers alone"),
        ({"blocks": [0.5, 0.5]}, "the first must be below the second"),
        ({"objective": {"name": "rmu", "steering": 0}}, "steering"),
        ({"objective": {"name": "magic"}}, "objective"),
    ],
)
def test_methods_that_contradict_themselves_are_refused_in_one_line(fields, says):
    with pytest.raises(ConfigError, match=says) as error:
        validated(Method, {"lrs": [1e-3], "objective": {"name": "gd"}, **fields}, "method")
    assert "\n" not in str(error.value)


def test_a_rank_without_lora_and_lora_without_a_rank_are_refused():
    with pytest.raises(ConfigError, match="rank: 4 is not allowed"):
        parametrised(tiny_model("llama"), method(), 4, 1)
    with pytest.raises(ConfigError, match="rank: 0 is not allowed"):
        parametrised(tiny_model("llama"), method(parametrisation="lora", ranks=[1]), 0, 1)
    with pytest.raises(ConfigError, match="rank: 0 is not allowed; a LoRA"):
        lora(tiny_model("llama"), 0, 1)
    with pytest.raises(DataError, match="both needed"):
        unlearn(tiny_model("llama"), UnlearningTexts([], [], []), method(), rank=0, lr=1e-3, retain=1.0, seed=1)


@pytest.mark.parametrize("kind", ["linear", "quadratic", "hard"])
def test_collapse_weakens_the_strongest_directions_alone(kind):
    gradient = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    options = method("repselect", options={"components": 3, "collapse": kind}).objective
    u, s, vt = torch.linalg.svd(gradient, full_matrices=False)
    expected = s.clone()
    expected[:3] = {"linear": s[2].expand(3), "quadratic": s[2] ** 2 / s[:3], "hard": torch.zeros(3)}[kind]
    assert torch.allclose(collapse(gradient, options), (u * expected) @ vt, atol=1e-5)


def test_spans_of_the_question_losses():
    model = tiny_model("llama")
    question = SPLITS[0].questions[0]
    decode = model.tokenizer.decode
    found = {
        loss: [i for i, keep in zip(row.ids, row.learned, strict=True) if keep]
        for loss in ("letter", "letter_answer", "question_letter_answer", "question_answer")
        for row in question_rows(model.tokenizer, [question], loss)
    }
    letter = "ABCD"[question.answer]
    assert decode(found["letter"]).strip() == letter
    assert decode(found["letter_answer"]).strip() == f"{letter}. {question.right}"
    assert decode(found["question_answer"]).endswith(f"born? {question.right}")
    assert decode(found["question_letter_answer"]).endswith(f"Answer: {letter}. {question.right}")


def test_the_number_is_the_last_run_of_tokens_with_a_digit():
    tokenizer = tiny_model("gpt2").tokenizer
    rows = text_rows(tokenizer, ["In 12 towns she was born in 1965.", "Nothing here."], "number")
    said = tokenizer.decode([i for i, keep in zip(rows[0].ids, rows[0].learned, strict=True) if keep])
    assert said.strip() == "1965"
    assert not any(rows[1].learned)


def test_a_long_prompt_loses_its_beginning_and_keeps_its_answer():
    tokenizer = tiny_model("gpt2").tokenizer
    row = answered_row(tokenizer, "word " * 200 + "Answer:", " B. yes", max_length=20)
    assert len(row.ids) == 20
    assert tokenizer.decode([i for i, keep in zip(row.ids, row.learned, strict=True) if keep]) == " B. yes"


def test_epochs_use_everything_once_before_anything_twice():
    stream = epochs_of(10, 4, "here", 1)
    drawn = [i for _ in range(5) for i in next(stream)]
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10] != drawn[10:20]


def test_a_redrawn_question_keeps_its_right_answer():
    question = SPLITS[0].questions[0]
    pool = [str(year) for year in range(1900, 1950)]
    again = redrawn(question, pool, 1)
    assert again.right == question.right
    assert len(set(again.choices)) == 4
    assert redrawn(question, pool, 1) == again != redrawn(question, pool, 2)


def test_nothing_predicts_the_first_token():
    batch = collate([TokenRow([5, 6, 7], [True, True, False]), TokenRow([8], [True])], 0, "cpu")
    assert batch.learned.tolist() == [[False, True, False], [False, False, False]]
    assert batch.mask.sum(1).tolist() == [3, 1]
    assert losses.average(torch.ones(2, 3), batch.learned) == 1


def test_an_epoch_may_be_a_few_steps_and_passes_go_on_through_it():
    whole_passes = method(epochs=1, batch=6)
    short = method(epochs=4, batch=6, steps=1)
    models, counted = [], []
    for chosen in (whole_passes, short):
        model, seen = tiny_model("llama", layers=2), []
        _, course = unlearn(
            model,
            TEXTS,
            chosen,
            rank=0,
            lr=1e-3,
            retain=1.0,
            seed=1,
            after_epoch=lambda epoch, _, seen=seen: seen.append(epoch),
        )
        models.append(weights(model))
        counted.append((course.steps, seen))
    assert counted == [(4, [0, 1]), (4, [0, 1, 2, 3, 4])]  # 24 texts in batches of 6
    assert all(torch.equal(p, models[1][name]) for name, p in models[0].items())
