"""Edits, statistics and trainings of the vision study against what their equations and their settings say, step by step."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from small import MODEL, classifier, folder, image_set

from editlab.config.vision import AlphaEdit, FinetuneErrors, HeadAblation, HeadEwc, Memit, Retrain
from editlab.edits.edit import commit
from editlab.networks.hooks import capture, restored
from editlab.networks.vision import CLS
from editlab.vision import training
from editlab.vision.baselines import finetune, unchanged_after, worst_heads
from editlab.vision.discovery import discovery_score
from editlab.vision.keys import collect_keys
from editlab.vision.mlp import MlpEditor
from editlab.vision.samples import draw_samples, find_errors, right_rows
from editlab.vision.scoring import samples_of
from editlab.vision.search import _outside
from editlab.vision.targets import find_targets

ALPHA = AlphaEdit(method="alphaedit", projection_samples=80)


@pytest.fixture(scope="module")
def scene():
    model, discovery, ft_train = classifier(), image_set("discovery"), image_set("ft_train")
    keys = collect_keys(model, ft_train, right_rows(model, ft_train, 1), range(3), 120, 1)
    return model, discovery, keys, find_errors(model, discovery)


def keys_and_state(model, pixels, layer):
    with torch.no_grad(), capture(inputs={0: model.architecture.projection(layer)}) as found:
        hidden = model.through(model.embed(pixels))
    return found[0][:, CLS].T.double(), hidden


def test_an_edit_is_the_printed_formula_layer_by_layer(scene):
    """AlphaEdit, eq. 14, in float64 with a dense projector: ridge relative to E|k0|^2, R shared by the blocks left."""
    model, discovery, statistics, errors = scene
    recipe = ALPHA.model_copy(update={"ridge": 0.02, "nullspace_threshold": 0.05})
    draw = draw_samples(errors, 0, 6, 10)
    edit, _ = MlpEditor(model, discovery, statistics).edit(draw, [1, 2], recipe)
    pixels, layers = discovery.tensor(model, draw.rows), [1, 2]
    _, hidden = keys_and_state(model, pixels, 2)
    goal = find_targets(model, hidden, 2, torch.tensor(draw.targets, device=model.device), recipe)
    weights = {layer: model.architecture.weight(layer) for layer in layers}
    with restored(weights):
        for left, layer in ((2, 1), (1, 2)):
            k, now = keys_and_state(model, pixels, layer)
            residual = (goal - now[:, CLS]).T.double() / left
            cls, places = statistics.cls[layer][:80].double(), statistics.places[layer][:80].flatten(0, 1).double()
            moment = (cls.T @ cls / len(cls) + places.T @ places / len(places)) / 2
            values, vectors = torch.linalg.eigh(moment)
            free = vectors[:, values < 0.05 * values.max()]
            p, ridge = free @ free.T, 0.02 * float(moment.trace())
            expected = residual @ k.T @ p @ torch.linalg.inv(k @ k.T @ p + ridge * torch.eye(len(k)).double())
            scale = float(expected.abs().max())
            assert torch.allclose(edit.delta(layer), expected, atol=2e-4 * scale)
            commit(weights, {layer: edit.factors[layer]})


def test_one_by_one_each_edit_leaves_the_keys_of_those_before(scene):
    model, discovery, statistics, errors = scene
    recipe = ALPHA.model_copy(update={"ridge": 1e-7, "per_sample": True})
    draw = draw_samples(errors, 0, 5, 10)
    edit, _ = MlpEditor(model, discovery, statistics).edit(draw, [2], recipe)
    keys, _ = keys_and_state(model, discovery.tensor(model, draw.rows), 2)
    moved = edit.factors[2].right @ keys  # (edit, image): one rank an edit
    own = moved.diagonal().abs()
    later = moved.abs().tril(-1) / own[None]
    assert later.max() < 0.05


def test_one_by_one_memit_holds_earlier_keys_still(scene):
    """The second image's update is along ``k2^T (lambda C + k1 k1^T + k2 k2^T)^-1``."""
    model, discovery, statistics, errors = scene
    recipe, draw = Memit(method="memit", projection_samples=80, per_sample=True), draw_samples(errors, 0, 2, 10)
    edit, _ = MlpEditor(model, discovery, statistics).edit(draw, [2], recipe)
    keys, _ = keys_and_state(model, discovery.tensor(model, draw.rows), 2)
    system = 10.0 * statistics.moment(2, 80, "mixed").matrix + keys @ keys.T
    expected, found = (
        torch.linalg.solve(system, keys[:, 1]),
        edit.delta(2) - edit.factors[2].left[:, :1] @ edit.factors[2].right[:1],
    )
    along = found.T @ found @ expected  # of rank one: what it maps to is along its row
    assert float(F.cosine_similarity(along, expected, dim=0)) == pytest.approx(1.0, abs=1e-5)


CHANGES = [
    {}, {"clamp": 0.2}, {"lr": 0.02}, {"steps": 3}, {"stop_loss": 2.0}, {"target_decay": 3.0}, {"projection_samples": 20},
    {"key_positions": "cls"}, {"key_positions": "all"}, {"nullspace_threshold": 0.1}, {"ridge": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("base", [ALPHA, Memit(method="memit", projection_samples=80)], ids=lambda r: r.method)
def test_what_an_editor_keeps_between_recipes_makes_no_difference(scene, base):
    """Targets, spectra and moments are kept: every field, draw and layer that they depend on must tell them apart."""
    model, discovery, statistics, errors = scene
    kept = MlpEditor(model, discovery, statistics)
    jobs = [(change, 0, 6, None, [1, 2]) for change in CHANGES if set(change) <= set(type(base).model_fields)]
    jobs += [
        ({}, 1, 6, None, [1, 2]),
        ({}, 0, 4, None, [1, 2]),
        ({}, 0, 6, "wrong_labels", [1, 2]),
        ({}, 0, 6, None, [1]),
    ]
    seen = []
    for change, number, count, control, layers in jobs:
        recipe, draw = base.model_copy(update=change), draw_samples(errors, number, count, 10, control)
        shared, _ = kept.edit(draw, layers, recipe)
        fresh = collect_like(statistics)
        alone, _ = MlpEditor(model, discovery, fresh).edit(draw, layers, recipe)
        assert torch.equal(shared.delta(1), alone.delta(1)), (change, number, count, control, layers)
        seen.append(shared.delta(1))
    assert all(not torch.equal(seen[0], other) for other in seen[1:])


def collect_like(statistics):
    """The same statistics with nothing derived from them yet."""
    return type(statistics)(statistics.rows, statistics.samples, statistics.cls, statistics.places)


def test_keys_are_the_inputs_of_the_projection_at_distinct_positions(scene):
    model, _, statistics, _ = scene
    pixels = image_set("ft_train").tensor(model, statistics.rows[:3].numpy())
    with torch.no_grad(), capture(inputs={0: model.architecture.projection(1)}) as found:
        model.through(model.embed(pixels))
    for image in range(3):
        assert torch.allclose(statistics.cls[1][image], found[0][image, CLS], atol=1e-5)
        apart = torch.cdist(statistics.places[1][image].double(), found[0][image].double())
        where = apart.argmin(-1)
        assert float(apart.min(-1).values.max()) < 1e-4
        assert len(set(where.tolist())) == len(where) == 16


def test_the_worst_heads_are_those_without_which_the_loss_is_lowest(scene):
    model, discovery, _, errors = scene
    draw = draw_samples(errors, 0, 8, 10)
    pixels, targets, size = discovery.tensor(model, draw.rows), torch.tensor(draw.targets), model.width // model.heads
    losses = {}
    for layer in range(model.num_layers):
        for head in range(model.heads):

            def hide(_module, args, head=head):
                hidden = args[0].clone()
                hidden[..., head * size : (head + 1) * size] = 0
                return (hidden, *args[1:])

            handle = model.architecture.attention_output(layer).register_forward_pre_hook(hide)
            with torch.no_grad():
                losses[layer, head] = float(F.cross_entropy(model(pixels), targets))
            handle.remove()
    recipe = HeadAblation(method="head_ablation", heads=2)
    assert worst_heads(model, discovery, draw, recipe) == sorted(losses, key=losses.get)[:2]


def test_finetuning_lowers_the_loss_on_the_errors(scene):
    model, discovery, _, errors = scene
    draw = draw_samples(errors, 0, 8, 10)
    pixels, targets = discovery.tensor(model, draw.rows), torch.tensor(draw.targets)
    with unchanged_after(model):
        before = float(F.cross_entropy(model(pixels), targets).detach())
        finetune(model, discovery, draw, FinetuneErrors(method="finetune_errors", lr=1e-4, epochs=3), 1)
        assert float(F.cross_entropy(model(pixels), targets).detach()) < before


def test_the_weights_of_the_best_epoch_are_kept():
    """A rate that makes the accuracy jump, so that the best epoch is not the last."""
    options = MODEL.training.model_copy(update={"epochs": 6, "lr": 0.02, "schedule": "constant"})
    made, val = training.initial_classifier(MODEL, image_set("test").classes, 1), image_set("ft_val")
    table = training.train(made, image_set("ft_train").rows(range(300)), val, options, 1)
    best = table["val_accuracy"].max()
    assert table["val_accuracy"].iloc[-1] < best, "the last epoch is the best: this test shows nothing"
    assert training.evaluate(made, val)[1] == best
    assert list(table.index[table["best"]]) == [int(table["val_accuracy"].argmax())]


def test_class_weights_are_inverse_frequencies():
    assert training._class_weights(torch.tensor([0, 0, 0, 1]), 3).tolist() == pytest.approx([4 / 9, 4 / 3, 0.0])


@pytest.mark.parametrize("control", [False, True], ids=["retrain", "churn"])
def test_what_is_trained_anew(control, tmp_path, monkeypatch):
    """Retraining: the same initial weights, and the edit samples with their true labels. Churn: others, and no errors."""
    home, seen = folder(), {}
    errors = find_errors(classifier(), image_set("discovery"))
    errors.to_csv(tmp_path / "errors.csv", index=False)

    def watch(made, ft_train, ft_val, options, seed, extra=None):
        seen.update(start=made.model.state_dict(), images=len(ft_train), seed=seed, extra=extra)

    monkeypatch.setattr(training, "train", watch)
    given = (None, None) if control else (home / "discovery.csv", tmp_path / "errors.csv")
    training.retrain_stage(
        MODEL, home / "ft_train.csv", home / "ft_val.csv", *given, 1, 7, 3, 77 if control else 3, tmp_path / "made"
    )
    start = training.initial_classifier(MODEL, image_set("test").classes, 77 if control else 3).model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in seen["start"].items())
    assert seen["images"] == 817
    assert seen["seed"] == (77 if control else 3)
    if control:
        assert seen["extra"] is None
    else:
        draw, discovery = draw_samples(errors, 1, 7, 10), image_set("discovery")
        assert seen["extra"].images.index.tolist() == discovery.rows(draw.rows).images.index.tolist()
        assert seen["extra"].labels.tolist() == errors.set_index("position").loc[draw.rows, "label"].tolist()


def test_edit_samples_join_the_training():
    """Ten images of another class beside them: the edit samples are what is learned."""
    discovery = image_set("discovery")
    made = training.initial_classifier(MODEL, discovery.classes, 1)
    zeros = image_set("ft_train").rows([k for k, y in enumerate(image_set("ft_train").labels) if y == 0][:10])
    ones = discovery.rows([k for k, y in enumerate(discovery.labels) if y == 1])
    options = MODEL.training.model_copy(update={"epochs": 4})
    training.train(made, zeros, ones, options, 1, ones)
    assert training.evaluate(made, ones)[1] > 0.9


def test_a_broken_image_costs_as_much_as_a_mended_one_brings():
    levels = {
        "edit": (4, 0, 0, 1),
        "discovery_rest": (2, 0, 0, 3),
        "discovery_right": (0, 5, 90, 0),
        "test": (9, 0, 0, 0),
    }
    rows = [{"level": level, "wrong_right": a, "right_wrong": b, "right_right": c, "wrong_wrong": d, "net_gain": a - b}
            for level, (a, b, c, d) in levels.items()]  # fmt: skip
    assert discovery_score(pd.DataFrame(rows)) == pytest.approx((4 + 2 - 5) / 10)


def test_images_behind_the_statistics_are_those_of_the_recipe():
    assert samples_of(ALPHA) == 80
    assert samples_of(HeadEwc(method="head_ewc", fisher_samples=33)) == 33
    assert samples_of(Retrain(method="retrain")) == 500


def test_search_columns_count_the_images_behind_and_those_held_out():
    """Of 6 preserved images 3 are behind the statistics, the next 2 are held out, the last is neither."""
    labels = torch.zeros(6, dtype=torch.int64)
    known = {name: SimpleNamespace(before=labels, labels=labels) for name in ("test", "preserved")}
    after = {"test": torch.tensor([0, 0, 0, 0, 0, 1]), "preserved": torch.tensor([0, 0, 1, 0, 1, 1])}
    found = _outside(known, after, 3, 2)
    assert found["proj_stability"] == pytest.approx(2 / 3)
    assert found["proj_regression_rate"] == pytest.approx(1 / 3)
    assert found["heldout_stability"] == 0.5
    assert (found["test_total"], found["test_correct_to_wrong"], found["test_wrong_to_correct"]) == (6, 1, 0)
