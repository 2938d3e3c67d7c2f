"""The curvature over a text: against a computation by hand, the labels that it draws, interruptions, files and their faults."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_moments import corpus
from tiny import FAMILIES, tiny_model

import editlab
import editlab.moments.curvature as statistics
from editlab.algebra.curvature import Curvature
from editlab.algebra.second_moment import SecondMoment
from editlab.errors import ArtifactError, ConfigError, DataError, ModelError, NumericalError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.moments.collection import collect_second_moments
from editlab.moments.curvature import collect_curvature, curvature_sums, sampled
from editlab.moments.stored_curvature import load_curvature, resolve_curvature, save_curvature
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, replace_outputs
from editlab.randomness import torch_rng

SHAPES = {0: (32, 64), 1: (32, 64)}


def by_hand(model, layer: int, row: list[int], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``sum x x^T`` and ``sum g g^T`` of one text, the gradient of the output taken as a leaf of its own."""
    architecture, outputs = Architecture(model), {}
    module = architecture.projection(layer)

    def leaf(output: torch.Tensor) -> torch.Tensor:
        outputs[0] = output.detach().requires_grad_(True)
        return outputs[0]

    with capture(inputs={0: module}) as keys, replace_outputs({module: leaf}):
        logits = model(input_ids=torch.tensor([row], device=architecture.device)).logits[0]
    loss = -logits.log_softmax(-1).cpu()[torch.arange(len(row)), labels].sum()
    (g,) = torch.autograd.grad(loss, outputs[0])
    x = keys[0][0].detach().double()
    return x.T @ x, g[0].double().T @ g[0].double()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sums_are_those_of_the_rows_one_by_one(family, monkeypatch):
    model = tiny_model(family).double()
    rows = [model.tokenizer(text).input_ids for text in corpus(5)]
    label = 17
    monkeypatch.setattr(
        statistics, "sampled", lambda logits, _: torch.full((len(logits),), label, device=logits.device)
    )
    found = curvature_sums(Architecture(model), [0, 2], rows, torch_rng("x"))
    for layer in (0, 2):
        parts = [by_hand(model, layer, row, torch.full((len(row),), label)) for row in rows]
        assert found[layer].count == sum(map(len, rows))
        for sums, i in ((found[layer].inputs, 0), (found[layer].gradients, 1)):
            torch.testing.assert_close(sums, sum(part[i] for part in parts), rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_labels_are_drawn_from_the_predictions():
    logits = torch.tensor([[0.0, 1.0, -1.0, -torch.inf]]).expand(20_000, -1)
    counts = torch.bincount(sampled(logits, torch_rng("labels")), minlength=4) / 20_000
    torch.testing.assert_close(counts, logits[0].softmax(-1), rtol=0, atol=0.01)
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert sampled(sure, torch_rng("labels")).tolist() == [0, 1]


def test_every_row_has_draws_of_its_own():
    """Forty draws over one text, at once or one after another, have the same mean; single ones differ."""
    model = tiny_model("gpt2")
    row, architecture = model.tokenizer(corpus(1)[0]).input_ids, Architecture(model)
    single = [curvature_sums(architecture, [1], [row], torch_rng("d", i))[1].gradients for i in range(40)]
    many = curvature_sums(architecture, [1], [row] * 40, torch_rng("d"))[1].gradients
    assert float((sum(single).trace() / many.trace() - 1).abs()) < 0.2
    assert not torch.equal(single[0], single[1])


def test_a_pass_gives_both_factors_and_the_inputs_are_the_second_moment():
    model = tiny_model("gpt2")
    found = collect_curvature(model, corpus(), [0, 1], tokens=400, batch_tokens=100, progress=False)
    moments = collect_second_moments(model, corpus(), [0, 1], tokens=400, batch_tokens=100, progress=False)
    for layer in (0, 1):
        assert found[layer].shape == (32, 64)
        assert found[layer].count == 400
        torch.testing.assert_close(found[layer].inputs.matrix, moments[layer].matrix, rtol=1e-6, atol=1e-9)
    again = editlab.collect_curvature(model, corpus(10), [1], progress=False)
    assert float(again[1].gradients.matrix.trace()) > 0
    alone = collect_curvature(model, corpus(), [1], tokens=400, batch_tokens=100, progress=False)[1]
    torch.testing.assert_close(alone.gradients.matrix, found[1].gradients.matrix, rtol=1e-5, atol=1e-12)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_pass_continues_bit_for_bit(tmp_path, monkeypatch, after):
    model, partial = tiny_model(), tmp_path / "partial.safetensors"
    settings = {"tokens": 600, "batch_tokens": 100, "save_every": 2, "progress": False}
    whole = collect_curvature(model, corpus(), [0, 1], **settings)
    original, done = statistics.curvature_sums, itertools.count(1)

    def dying(*args):
        if next(done) > after:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(statistics, "curvature_sums", dying)
        with pytest.raises(Killed):
            collect_curvature(model, corpus(), [0, 1], partial=partial, **settings)
    assert partial.exists() == (after >= 2)
    resumed = collect_curvature(model, corpus(), [0, 1], partial=partial, **settings)
    for layer in (0, 1):
        assert torch.equal(whole[layer].inputs.matrix, resumed[layer].inputs.matrix)
        assert torch.equal(whole[layer].gradients.matrix, resumed[layer].gradients.matrix)


def curvature(seed: int = 0, shape: tuple[int, int] = (32, 64)) -> Curvature:
    def moment(size: int, at: int) -> SecondMoment:
        rows = torch.randn(3 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(at))
        return SecondMoment(rows.T @ rows / len(rows), 3 * size)

    return Curvature(moment(shape[1], seed), moment(shape[0], seed + 1))


def test_what_is_saved_is_read_back_and_found_by_layer(tmp_path):
    given = {k: curvature(k) for k in SHAPES}
    for layer, one in given.items():
        save_curvature(tmp_path / f"curvature-{layer}.safetensors", layer, one)
    files = [tmp_path / f"curvature-{k}.safetensors" for k in SHAPES]
    for source in (tmp_path, str(tmp_path), files, dict(zip(SHAPES, files, strict=True)), given):
        found = resolve_curvature(source, [0, 1], SHAPES)
        for layer, one in given.items():
            assert torch.equal(found[layer].inputs.matrix, one.inputs.matrix)
            assert torch.equal(found[layer].gradients.eigh()[1], one.gradients.eigh()[1])
            assert found[layer].count == one.count
    assert load_curvature(files[1])[0] == 1


def test_faults_are_named_in_one_line(tmp_path):
    path = tmp_path / "curvature-0.safetensors"
    save_curvature(path, 0, curvature())
    cases = [
        (path, [0, 1], SHAPES, "layer 1 is missing"),
        (path, [0], {0: (32, 32)}, r"of a map \(32, 64\)"),
        ({0: torch.eye(64)}, [0], SHAPES, "Tensor is not allowed"),
        (7, [0], SHAPES, "int is not allowed"),
    ]
    for source, layers, shapes, message in cases:
        with pytest.raises(ConfigError, match=message):
            resolve_curvature(source, layers, shapes)
    with pytest.raises(ArtifactError, match="holds layer 0"):
        resolve_curvature({1: path}, [1], SHAPES)
    tensors, metadata = load_tensors(path)
    for damage, message in (
        ({k: v for k, v in tensors.items() if k != "gradients.eigenvalues"}, "not a file of curvature"),
        ({**tensors, "inputs.matrix": tensors["inputs.matrix"][:4]}, "do not belong together"),
        ({**tensors, "gradients.matrix": tensors["gradients.matrix"] * float("nan")}, "NaN"),
    ):
        save_tensors(path, damage, metadata)
        with pytest.raises(ArtifactError, match=message) as caught:
            load_curvature(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="layers"):
        collect_curvature(tiny_model(), corpus(), [3], progress=False)
    with pytest.raises(DataError, match="no token"):
        collect_curvature(tiny_model(), [], [0], progress=False)
    broken = tiny_model()
    with torch.no_grad():
        Architecture(broken).weight(0).fill_(float("inf"))
    with pytest.raises(NumericalError, match="layer"):
        collect_curvature(broken, corpus(), [0], tokens=50, progress=False)
