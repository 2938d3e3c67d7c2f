"""Edits of a vision transformer: what they reach, what they leave alone, and that they can be taken back."""

from __future__ import annotations

import pytest
import torch
from small import classifier, image_set

from editlab.config.vision import AlphaEdit, FinetuneErrors, HeadAblation, HeadClosedForm, HeadEwc, Memit
from editlab.edits.edit import Edit
from editlab.errors import ConfigError, DataError, NumericalError
from editlab.networks.hooks import capture
from editlab.networks.vision import CLS
from editlab.vision.baselines import ablate, finetune, unchanged_after, worst_heads
from editlab.vision.head import Head, closed_form, ewc, expected_fisher, final_features
from editlab.vision.keys import KeyStatistics, collect_keys
from editlab.vision.mlp import MlpEditor
from editlab.vision.samples import draw_samples, find_errors, right_rows
from editlab.vision.targets import find_targets

WIDE = 0.1  # a model this small has few directions below the default share, and what they can fix turns on its rounding
RECIPES = {
    "alphaedit": AlphaEdit(method="alphaedit", num_edit_layers=2, projection_samples=200, nullspace_threshold=WIDE),
    "memit": Memit(method="memit", num_edit_layers=2, projection_samples=200),
}


@pytest.fixture(scope="module")
def scene():
    model, discovery, ft_train = classifier(), image_set("discovery"), image_set("ft_train")
    rows = right_rows(model, ft_train, 1)
    keys = collect_keys(model, ft_train, rows, range(3), 200, 1)
    return model, discovery, ft_train, keys, find_errors(model, discovery)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", RECIPES)
def test_an_edit_fixes_errors_and_comes_off_bit_exact(scene, name, tmp_path):
    model, discovery, _, keys, errors = scene
    draw = draw_samples(errors, 0, 12, 10)
    before = weights(model.model)
    edit, solves = MlpEditor(model, discovery, keys).edit(draw, [1, 2], RECIPES[name])
    assert same(model.model, before)
    assert [row["layer"] for row in solves] == [1, 2]
    edit.save(tmp_path / "edit.safetensors")
    pixels, labels = discovery.tensor(model, draw.rows), torch.tensor(draw.targets)
    with Edit.load(tmp_path / "edit.safetensors").applied(model.model), torch.no_grad():
        fixed = (model(pixels).argmax(-1) == labels).float().mean()
    assert fixed >= 0.5
    assert same(model.model, before)


def test_two_edits_compose(scene):
    model, discovery, _, keys, errors = scene
    editor = MlpEditor(model, discovery, keys)
    one, two = (editor.edit(draw_samples(errors, k, 4, 10), [2], RECIPES["alphaedit"])[0] for k in (0, 1))
    with (one + two).applied(model.model):
        both = model.architecture.weight(2).clone()
    with one.applied(model.model), two.applied(model.model):
        in_turn = model.architecture.weight(2).clone()
    assert torch.allclose(both, in_turn, atol=1e-5)


def test_alphaedit_leaves_the_outputs_of_used_directions_alone(scene):
    """With every direction of the preserved keys protected, their outputs do not move at all."""
    model, discovery, ft_train, keys, errors = scene
    few = KeyStatistics(
        keys.rows, 10, {k: v[:10] for k, v in keys.cls.items()}, {k: v[:10] for k, v in keys.places.items()}
    )
    recipe = AlphaEdit(method="alphaedit", layers=[2], nullspace_threshold=1e-9, key_positions="cls")
    edit, _ = MlpEditor(model, discovery, few).edit(draw_samples(errors, 0, 5, 10), [2], recipe)
    pixels = ft_train.tensor(model, keys.rows[:10].numpy())
    with torch.no_grad():
        clean = model(pixels)
        with edit.applied(model.model):
            assert torch.allclose(model(pixels), clean, atol=1e-4)
    assert edit.norm() > 0.01


def test_the_residual_is_shared_between_layers_and_the_target_sits_after_the_last(scene):
    """With a negligible ridge and nothing preserved, the CLS state after the last edited block is the target."""
    model, discovery, _, keys, errors = scene
    empty = KeyStatistics(
        keys.rows, 1, {k: v[:1] * 1e-3 for k, v in keys.cls.items()}, {k: v[:1] for k, v in keys.places.items()}
    )
    recipe = AlphaEdit(method="alphaedit", ridge=1e-3, key_positions="cls", nullspace_threshold=1.0, stop_loss=None)
    draw = draw_samples(errors, 0, 6, 10)
    edit, _ = MlpEditor(model, discovery, empty).edit(draw, [1, 2], recipe)
    with torch.no_grad():
        hidden = model.through(model.embed(discovery.tensor(model, draw.rows)))
    goal = find_targets(model, hidden, 2, torch.tensor(draw.targets, device=model.device), recipe)
    with edit.applied(model.model), torch.no_grad():
        state = model.through(model.embed(discovery.tensor(model, draw.rows)))[:, CLS]
    assert torch.allclose(state, goal, atol=2e-2)


def test_per_sample_edits_keep_earlier_ones(scene):
    model, discovery, _, keys, errors = scene
    recipe = RECIPES["alphaedit"].model_copy(update={"per_sample": True, "ridge": 1e-4})
    draw = draw_samples(errors, 0, 6, 10)
    before = weights(model.model)
    edit, solves = MlpEditor(model, discovery, keys).edit(draw, [2], recipe)
    assert len(solves) == 6
    assert same(model.model, before)
    with edit.applied(model.model), torch.no_grad():
        right = model(discovery.tensor(model, draw.rows)).argmax(-1) == torch.tensor(draw.targets)
    assert right.float().mean() >= 0.5


def test_targets_obey_the_clamp_and_the_stop(scene):
    model, discovery, _, _, errors = scene
    draw = draw_samples(errors, 0, 8, 10)
    with torch.no_grad():
        hidden = model.through(model.embed(discovery.tensor(model, draw.rows)), 0, 2)
    targets = torch.tensor(draw.targets, device=model.device)
    recipe = AlphaEdit(method="alphaedit", clamp=0.1)
    delta = find_targets(model, hidden, 1, targets, recipe) - hidden[:, CLS]
    assert (delta.norm(dim=-1) <= 0.1 * hidden[:, CLS].norm(dim=-1) * 1.0001).all()
    stopped = find_targets(model, hidden, 1, targets, AlphaEdit(method="alphaedit", stop_loss=1e9))
    assert torch.equal(stopped, hidden[:, CLS])
    with pytest.raises(NumericalError, match="targets"):
        find_targets(model, hidden * float("nan"), 1, targets, recipe)


@pytest.mark.parametrize("control", ["random", "random_null_space"])
def test_random_controls_have_the_norm_of_the_edit(scene, control):
    model, discovery, _, keys, errors = scene
    draw, editor = draw_samples(errors, 0, 8, 10), MlpEditor(model, discovery, keys)
    edit, _ = editor.edit(draw, [1, 2], RECIPES["alphaedit"])
    noise, _ = editor.edit(draw, [1, 2], RECIPES["alphaedit"].model_copy(update={"control": control}))
    for layer in (1, 2):
        assert noise.factors[layer].norm() == pytest.approx(edit.factors[layer].norm())
        assert not torch.allclose(noise.delta(layer), edit.delta(layer))
        used = keys.spectrum(layer, 200, "mixed")
        kept = used.vectors[:, used.values >= WIDE * used.values.max()]
        leak = float((noise.delta(layer) @ kept).norm() / noise.factors[layer].norm())
        assert (leak < 1e-9) == (control == "random_null_space")


def test_samples_of_the_controls(scene):
    errors = scene[4]
    true = errors.set_index("position")["label"]
    plain, wrong = draw_samples(errors, 3, 9, 10), draw_samples(errors, 3, 9, 10, "wrong_labels")
    assert (plain.rows == wrong.rows).all()
    assert (plain.targets == true.loc[plain.rows].to_numpy()).all()
    assert not (wrong.targets == true.loc[wrong.rows].to_numpy()).any()
    assert not (wrong.targets == errors.set_index("position")["predicted"].loc[wrong.rows].to_numpy()).any()
    right = draw_samples(errors, 3, 9, 10, "already_right")
    assert errors.set_index("position")["right"].loc[right.rows].all()
    assert (draw_samples(errors, 3, 4, 10).rows == plain.rows[:4]).all()
    assert not (draw_samples(errors, 4, 9, 10).rows == plain.rows).all()
    many = draw_samples(errors, 0, 10_000, 10)
    assert many.clipped
    assert len(many.rows) == (~errors["right"]).sum()
    with pytest.raises(DataError, match="2 classes"):
        draw_samples(errors, 0, 3, 2, "wrong_labels")


def test_closed_form_head_meets_its_margin_exactly(scene):
    model, discovery, ft_train, keys, errors = scene
    head = Head.of(model, ft_train.rows(keys.rows[:200].numpy()), discovery)
    draw = draw_samples(errors, 0, 5, 10)
    edit, told = closed_form(head, draw, HeadClosedForm(method="head_closed_form"))
    assert told["residual"] < 1e-6
    pixels = discovery.tensor(model, draw.rows)
    with torch.no_grad():
        before = model(pixels)
        with edit.applied(model.model):
            after = model(pixels)
    rows, targets = torch.arange(len(before)), torch.tensor(draw.targets)
    gap = before.scatter(1, targets[:, None], -torch.inf).max(-1).values + 1 - before[rows, targets]
    assert torch.allclose(after[rows, targets] - before[rows, targets], gap.clamp_min(0), atol=1e-4)
    right = draw_samples(
        errors, 0, 5, 10, "already_right"
    )  # those that lead by more than the margin are not drawn back
    edit, _ = closed_form(head, right, HeadClosedForm(method="head_closed_form", margin=0.0))
    assert edit.norm() < 1e-9
    with pytest.raises(ConfigError, match="ridge 0"):
        closed_form(head, draw_samples(errors, 0, 40, 10), HeadClosedForm(method="head_closed_form"))


def test_expected_fisher_is_that_of_the_definition(scene):
    model, discovery, *_ = scene
    features = final_features(model, discovery.rows(range(6)))
    weight = torch.randn(4, features.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 4
    reference = torch.zeros_like(weight)
    for f in features:
        for label in range(4):
            w = weight.clone().requires_grad_(True)
            log_p = (w @ f).log_softmax(-1)[label]
            reference += log_p.exp().detach() * torch.autograd.grad(log_p, w)[0].square() / len(features)
    assert torch.allclose(expected_fisher(features, weight), reference, atol=1e-12)


def test_ewc_holds_the_head_the_more_the_larger_lambda_and_discovery_chooses(scene):
    model, discovery, ft_train, keys, errors = scene
    head = Head.of(model, ft_train.rows(keys.rows[:200].numpy()), discovery)
    draw = draw_samples(errors, 0, 10, 10)
    norms = [ewc(head, draw, HeadEwc(method="head_ewc", penalties=[p]))[1]["update_norm"] for p in (0.0, 1e2, 1e4)]
    assert norms[0] > norms[1] > norms[2]
    both = ewc(head, draw, HeadEwc(method="head_ewc", penalties=[0.0, 1e4]))[1]["penalty"]
    alone = {p: ewc(head, draw, HeadEwc(method="head_ewc", penalties=[p]))[0] for p in (0.0, 1e4)}

    def gain(edit):
        parts = [edit.delta(k) for k in (3, 4)]
        return head.net_gain(head.weight + torch.cat(parts, dim=1))

    assert both == max(alone, key=lambda p: gain(alone[p]))


def test_baselines_change_the_model_and_everything_comes_back(scene):
    model, discovery, _, _, errors = scene
    draw, before = draw_samples(errors, 0, 10, 10), weights(model.model)
    with unchanged_after(model):
        finetune(model, discovery, draw, FinetuneErrors(method="finetune_errors", lr=1e-3), 1)
        assert not same(model.model, before)
        assert (model(discovery.tensor(model, draw.rows)).argmax(-1) == torch.tensor(draw.targets)).float().mean() > 0.5
    assert same(model.model, before)
    heads = worst_heads(model, discovery, draw, HeadAblation(method="head_ablation", heads=2))
    assert len(heads) == 2
    assert same(model.model, before)
    with unchanged_after(model), capture(inputs={0: model.architecture.attention_output(1)}) as found:
        pixels = discovery.tensor(model, [0, 1])
        with torch.no_grad():
            model(pixels)
            module, features = model.architecture.attention_output(1), found[0]
            ablate(model, [(1, 0)])
            features = features.clone()
            out = module(features)
            features[..., :16] = 0
            assert torch.allclose(out, module(features))
    assert same(model.model, before)


def test_statistics_are_prefixes_of_larger_ones(scene, tmp_path):
    model, _, ft_train, keys, _ = scene
    keys.save(tmp_path / "keys.safetensors")
    loaded = KeyStatistics.load(tmp_path / "keys.safetensors")
    small = collect_keys(model, ft_train, keys.rows.numpy(), range(3), 50, 1)
    for positions in ("cls", "mixed"):
        ours, theirs = loaded.keys(1, 50, positions), small.keys(1, 50, positions)
        if positions == "cls":
            assert torch.allclose(ours, theirs, atol=1e-6)
        assert ours.shape == theirs.shape
    assert loaded.keys(1, 10_000, "cls").shape[1] == 200
    moment = loaded.moment(1, 200, "mixed")
    cls, places = keys.cls[1].double(), keys.places[1].flatten(0, 1).double()
    expected = (cls.T @ cls / len(cls) + places.T @ places / len(places)) / 2
    assert torch.allclose(moment.matrix, expected, atol=1e-10)
    with pytest.raises(DataError, match="layer 7"):
        loaded.keys(7, 10, "cls")
