"""Edits as objects: algebra, files, application to a model of the right and of the wrong shape."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from editlab.algebra.linalg import Factors, compact
from editlab.edits.edit import Edit, commit
from editlab.errors import ArtifactError, ModelError, NumericalError
from editlab.files.artifacts import save_tensors
from editlab.networks.architectures import Architecture

D_OUT, D_IN = 32, 64


def factors(rank: int, seed: int = 0, d_out: int = D_OUT, d_in: int = D_IN) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(d_out, rank, dtype=torch.float64, generator=generator)
    return Factors(left, 0.1 * torch.randn(rank, d_in, dtype=torch.float64, generator=generator))


def edit(*ranks: int, seed: int = 0) -> Edit:
    return Edit({layer: factors(rank, seed + layer) for layer, rank in enumerate(ranks)}, {"method": "memit"})


def state(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(model, before) -> bool:
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@given(st.lists(st.integers(0, 40), min_size=1, max_size=3), st.lists(st.integers(0, 40), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_a_sum_is_the_sum_of_its_parts(first, second):
    a, b = edit(*first), edit(*second, seed=9)
    both = a + b
    assert both.layers == sorted({*a.layers, *b.layers})
    for layer in both.layers:
        parts = [e.delta(layer) for e in (a, b) if layer in e.layers]
        assert torch.allclose(both.delta(layer), sum(parts), rtol=1e-10, atol=1e-10)
        assert both.factors[layer].rank <= max(*(e.factors[layer].rank for e in (a, b) if layer in e.layers), 32, 0)
    assert both.norm() == pytest.approx(sum(float(both.delta(k).norm()) ** 2 for k in both.layers) ** 0.5, abs=1e-9)


def test_inverse_scale_and_order():
    a, b = edit(3, 0, 5), edit(2, 2, seed=4)
    assert (a + a.inverse()).norm() < 1e-12 * a.norm()
    assert torch.equal(a.inverse().delta(2), -a.delta(2))
    assert torch.allclose((a + b).delta(0), (b + a).delta(0))
    assert torch.allclose(a.scaled(0.25).delta(0), a.delta(0) / 4)
    assert a.scaled(0.0).norm() == 0.0
    json.dumps([dict(e.info) for e in (a.inverse(), a.scaled(2.0), a + b)])
    with pytest.raises(KeyError, match="layer 2: the edit does not change its weight; it changes"):
        b.delta(2)


def test_compact_keeps_the_memory_of_a_long_sum_flat():
    total = edit(3)
    for seed in range(30):
        total = total + edit(3, seed=seed)
    assert total.factors[0].rank <= 32
    expected = edit(3).delta(0) + sum(edit(3, seed=seed).delta(0) for seed in range(30))
    assert torch.allclose(total.delta(0), expected, rtol=1e-9, atol=1e-9)
    small = factors(5)
    assert compact(small) is small


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_applied_and_apply_(family):
    model, change = tiny_model(family), edit(3, 2)
    before = state(model)
    expected = [(Architecture(model).weight(k).double() + change.delta(k)).float() for k in (0, 1)]
    with change.applied(model):
        assert all(torch.equal(Architecture(model).weight(k), expected[k]) for k in (0, 1))
        assert torch.equal(Architecture(model).weight(2), before_weight(before, model, 2))
    assert same(model, before)
    assert change.apply_(model) is model
    assert all(torch.equal(Architecture(model).weight(k), expected[k]) for k in (0, 1))
    assert not same(model, before)


def before_weight(before, model, layer):
    name = f"{Architecture(model).projection_name(layer)}.weight"
    return before[name].T if Architecture(model).is_transposed(layer) else before[name]


@pytest.mark.parametrize(
    "wrong",
    [
        Edit({0: factors(1, d_out=16)}),
        Edit({0: factors(1, d_in=16)}),
        Edit({0: factors(1, d_out=64, d_in=32)}),
        Edit({3: factors(1)}),
        Edit({-1: factors(1)}),
    ],
    ids=["d_out", "d_in", "transposed", "layer 3", "layer -1"],
)
def test_an_edit_of_another_model_is_refused_in_one_line(wrong):
    model = tiny_model("gpt2")
    before = state(model)
    for use in (lambda: wrong.applied(model).__enter__(), lambda: wrong.apply_(model)):
        with pytest.raises(ModelError, match=r"^[^\n]+$"):
            use()
    assert same(model, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_change_that_is_not_finite_in_the_models_type_is_refused_whole(value):
    model = tiny_model("gpt2")
    before = state(model)
    huge = Factors(factors(1).left * value, factors(1).right)
    wrong = Edit({0: factors(2), 1: huge})  # the first layer alone would do
    with pytest.raises(NumericalError, match=r"^layer 1: [^\n]+torch\.float32$"):
        wrong.apply_(model)
    assert same(model, before)
    with pytest.raises(NumericalError), wrong.applied(model):
        pass
    assert same(model, before)


def test_commit_rounds_once():
    weight = torch.full((2, 2), 1.0, dtype=torch.float32)
    commit({0: weight}, {0: Factors(torch.full((2, 1), 1e-8).double(), torch.ones(1, 2).double())})
    assert torch.equal(weight, torch.ones(2, 2))
    doubled = torch.ones(2, 2, dtype=torch.float64)
    commit({0: doubled}, {0: Factors(torch.full((2, 1), 1e-8).double(), torch.ones(1, 2).double())})
    assert float(doubled[0, 0]) == 1.0 + 1e-8


# ---- files ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=3))
@settings(deadline=None, max_examples=20)
def test_files_keep_every_bit(tmp_path_factory, ranks):
    path = tmp_path_factory.mktemp("edit") / "sub" / "edit.safetensors"
    saved = edit(*ranks)
    saved.save(path)
    loaded = Edit.load(path)
    assert loaded.layers == saved.layers
    assert all(torch.equal(loaded.delta(k), saved.delta(k)) for k in saved.layers)
    assert loaded.info == saved.info
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def write(path, damage: str) -> None:
    edit(2, 3).save(path)
    data = path.read_bytes()
    good = {"0.left": torch.ones(4, 1), "0.right": torch.ones(1, 4)}
    form = {"format": "editlab-edit-1", "info": {}}
    if damage == "truncated":
        path.write_bytes(data[:-5])
    elif damage == "pickle":
        torch.save({"0.left": torch.ones(2, 1)}, path)
    elif damage == "other format":
        save_tensors(path, good, {"format": "something"})
    elif damage == "no metadata":
        save_tensors(path, good)
    elif damage == "half a layer":
        save_tensors(path, {"0.left": torch.ones(4, 1)}, form)
    elif damage == "shapes":
        save_tensors(path, {**good, "0.right": torch.ones(2, 4)}, form)
    elif damage == "names":
        save_tensors(path, {"weight": torch.ones(4, 1)}, form)
    elif damage == "nan":
        save_tensors(path, {**good, "0.right": torch.full((1, 4), float("nan"))}, form)
    elif damage == "vectors":
        save_tensors(path, {"0.left": torch.ones(4), "0.right": torch.ones(4)}, form)
    else:
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "pickle",
        "other format",
        "no metadata",
        "half a layer",
        "shapes",
        "names",
        "nan",
        "vectors",
        "missing",
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, damage):
    path = tmp_path / "edit.safetensors"
    write(path, damage)
    with pytest.raises(ArtifactError, match=r"^\S+edit\.safetensors: [^\n]+$"):
        Edit.load(path)


def random_edit(seed: int) -> Edit:
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((5, 2), (2, 4)))
    return Edit({0: Factors(left, right)})


def test_edits_merge_by_the_rules_of_adapters():
    one, other = random_edit(0), random_edit(1)
    torch.testing.assert_close(
        Edit.merge([one, other], [0.5, -2.0]).delta(0), 0.5 * one.delta(0) - 2.0 * other.delta(0)
    )
    torch.testing.assert_close((one + other).delta(0), Edit.merge([one, other], [1.0, 1.0]).delta(0))
    assert Edit.merge([one, other], [1.0, 1.0], rule="ties").info["merged_by"] == {"rule": "ties"}
    assert Edit.merge([one, other], [1.0, 1.0], rank=1).factors[0].rank == 1
    with pytest.raises(ModelError, match="different models"):
        one + Edit({0: Factors(torch.ones(6, 1), torch.ones(1, 4))})


def test_what_an_edit_keeps_is_the_thinner_form_of_each_layer():
    thin, whole = 2, D_OUT * D_IN
    assert edit(thin).parameters == thin * (D_OUT + D_IN)
    assert edit(thin, 60).parameters == thin * (D_OUT + D_IN) + whole
    assert Edit({}).parameters == 0
