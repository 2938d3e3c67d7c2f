"""Second moments equal the naive computation, survive an interruption bit for bit, and damaged files are noticed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

import editlab.moments.collection as statistics
from editlab.algebra.second_moment import SecondMoment
from editlab.config.preparation import Statistics
from editlab.errors import ArtifactError, ConfigError, DataError, ModelError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.moments.collection import collect_second_moments
from editlab.moments.stored import load_statistics, resolve_statistics, save_statistics
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture


def corpus(n: int = 40) -> list[str]:
    return [f"{r.rewrite_prompt} {r.target_true}. {' '.join(r.paraphrase_prompts)}" for r in tiny_requests(n)]


def naive(model, texts, layer, tokens=None, max_length=128) -> tuple[np.ndarray, int]:
    """One text at a time, no padding, everything kept, numpy."""
    architecture = Architecture(model)
    keys = []
    for text in texts:
        ids = model.tokenizer(text).input_ids
        for start in range(0, len(ids), max_length):
            row = torch.tensor([ids[start : start + max_length]])
            with torch.no_grad(), capture(inputs={0: architecture.projection(layer)}) as captured:
                model(input_ids=row)
            keys.append(captured[0][0].double().numpy())
    stacked = np.concatenate(keys)[:tokens]
    return stacked.T @ stacked / len(stacked), len(stacked)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_naive_computation(family):
    model = tiny_model(family)
    moments = collect_second_moments(model, corpus(), [0, 2], tokens=700, batch_tokens=100, progress=False)
    for layer, moment in moments.items():
        expected, count = naive(model, corpus(), layer, 700)
        assert moment.count == count == 700
        np.testing.assert_allclose(moment.matrix.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_padding_and_batch_size_do_not_matter():
    model = tiny_model("gpt2")
    one, many = (
        collect_second_moments(model, corpus(), [1], tokens=500, batch_tokens=b, progress=False)[1].matrix
        for b in (1, 5000)
    )
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-7)


def test_all_layers_in_one_pass_equal_one_by_one():
    model = tiny_model("llama")
    together = collect_second_moments(model, corpus(), [0, 1, 2], tokens=400, progress=False)
    for layer in range(3):
        alone = collect_second_moments(model, corpus(), [layer], tokens=400, progress=False)
        assert torch.equal(alone[layer].matrix, together[layer].matrix)


def test_the_forward_pass_stops_after_the_highest_layer():
    model = tiny_model("gpt2")
    calls = []
    model.transformer.h[2].register_forward_hook(lambda *_: calls.append(1))
    collect_second_moments(model, corpus(), [0, 1], tokens=100, progress=False)
    assert not calls


@pytest.mark.parametrize("budget", [1, 64, 333])
def test_the_budget_is_exact(budget):
    assert collect_second_moments(tiny_model(), corpus(), [0], tokens=budget, progress=False)[0].count == budget


def test_the_default_budget_is_ten_tokens_a_dimension_and_a_short_corpus_is_used_whole():
    model = tiny_model()
    d_in = Architecture(model).weight_shape(0)[1]
    endless = itertools.cycle(corpus())
    assert collect_second_moments(model, endless, [0], progress=False)[0].count == 10 * d_in
    assert (
        collect_second_moments(model, endless, [0], Statistics(tokens_per_dimension=2.5), progress=False)[0].count
        == 160
    )
    total = sum(len(ids) for ids in model.tokenizer(corpus(3)).input_ids)
    assert collect_second_moments(model, corpus(3), [0], progress=False)[0].count == total


def test_long_texts_are_cut_into_windows():
    model = tiny_model()
    text = " ".join(corpus(8))
    moment = collect_second_moments(model, [text], [0], Statistics(max_length=16), tokens=10_000, progress=False)[0]
    expected, count = naive(model, [text], 0, max_length=16)
    assert moment.count == count
    np.testing.assert_allclose(moment.matrix.numpy(), expected, rtol=1e-4, atol=1e-6)


class Killed(Exception):
    pass


def interrupt(monkeypatch, after: int) -> None:
    original, done = statistics._products, itertools.count(1)

    def products(*args):
        if next(done) > after:
            raise Killed
        return original(*args)

    monkeypatch.setattr(statistics, "_products", products)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch, after):
    model, partial = tiny_model(), tmp_path / "partial.safetensors"
    settings = {"tokens": 900, "batch_tokens": 100, "save_every": 2, "progress": False}
    whole = collect_second_moments(model, corpus(), [0, 1], **settings)
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(Killed):
            collect_second_moments(model, corpus(), [0, 1], partial=partial, **settings)
    assert partial.exists() == (after >= 2)
    calls, original = [], statistics._products
    monkeypatch.setattr(statistics, "_products", lambda *args: calls.append(1) or original(*args))
    resumed = collect_second_moments(model, corpus(), [0, 1], partial=partial, **settings)
    for layer in (0, 1):
        assert torch.equal(whole[layer].matrix, resumed[layer].matrix)
        assert whole[layer].count == resumed[layer].count == 900
    skipped = after - after % 2
    calls_whole = len(calls) + skipped
    calls.clear()
    collect_second_moments(model, corpus(), [0, 1], **settings)
    assert len(calls) == calls_whole


@pytest.mark.parametrize("change", ["model", "texts", "tokens", "truncated"])
def test_a_partial_file_of_another_run_is_ignored(tmp_path, change):
    partial = tmp_path / "partial.safetensors"
    settings = {"tokens": 600, "batch_tokens": 100, "progress": False}
    collect_second_moments(tiny_model(), corpus(), [0], partial=partial, save_every=1, **settings)
    model = tiny_model(seed=1 if change == "model" else 0)
    texts = corpus()[::-1] if change == "texts" else corpus()
    if change == "tokens":
        settings["tokens"] = 500
    if change == "truncated":
        partial.write_bytes(partial.read_bytes()[:-100])
    expected = collect_second_moments(model, texts, [0], **settings)[0]
    found = collect_second_moments(model, texts, [0], partial=partial, save_every=1, **settings)[0]
    assert torch.equal(found.matrix, expected.matrix)
    assert found.count == expected.count


def test_errors_of_the_caller():
    model = tiny_model()
    with pytest.raises(ModelError, match="layers"):
        collect_second_moments(model, corpus(), [3], progress=False)
    with pytest.raises(ConfigError, match="tokens: 0"):
        collect_second_moments(model, corpus(), [0], tokens=0, progress=False)
    with pytest.raises(DataError, match="no token"):
        collect_second_moments(model, ["", ""], [0], progress=False)
    with pytest.raises(DataError, match="no token"):
        collect_second_moments(model, [], [0], progress=False)


def moment(size: int = 6, count: int = 60, seed: int = 0) -> SecondMoment:
    keys = torch.randn(size, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return SecondMoment(keys @ keys.T / count, count)


def test_save_and_load(tmp_path):
    path, original = tmp_path / "layer-3.safetensors", moment()
    save_statistics(path, 3, original, {"corpus": "text"})
    layer, loaded = load_statistics(path)
    assert layer == 3
    assert loaded.count == 60
    assert loaded.ridge == 0
    assert torch.equal(loaded.matrix, original.matrix)
    torch.testing.assert_close(loaded.cholesky @ loaded.cholesky.T, original.matrix)
    rebuilt = loaded.eigenvectors @ loaded.eigenvalues.diag() @ loaded.eigenvectors.T
    torch.testing.assert_close(rebuilt, original.matrix)
    assert load_tensors(path)[1]["corpus"] == "text"


def test_a_singular_moment_is_factored_with_a_recorded_ridge(tmp_path):
    path, singular = tmp_path / "layer-0.safetensors", moment(count=3)
    save_statistics(path, 0, singular)
    loaded = load_statistics(path)[1]
    recorded = load_tensors(path)[1]
    assert loaded.ridge == recorded["ridge"] > 0
    mean = float(singular.matrix.diagonal().mean())
    assert recorded["relative_ridge"] == pytest.approx(loaded.ridge / mean)
    shifted = singular.matrix + loaded.ridge * torch.eye(6)
    torch.testing.assert_close(loaded.cholesky @ loaded.cholesky.T, shifted)


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: {**t, "cholesky": 2 * t["cholesky"]},
        lambda t: {**t, "second_moment": t["second_moment"][:4]},
        lambda t: {**t, "eigenvalues": t["eigenvalues"] * float("nan")},
        lambda t: {k: v for k, v in t.items() if k != "eigenvectors"},
    ],
)
def test_damaged_files_are_artifact_errors(tmp_path, damage):
    path = tmp_path / "layer-0.safetensors"
    save_statistics(path, 0, moment())
    tensors, metadata = load_tensors(path)
    save_tensors(path, damage(tensors), metadata)
    with pytest.raises(ArtifactError) as caught:
        load_statistics(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_missing_and_foreign_files_are_artifact_errors(tmp_path):
    path = tmp_path / "layer-0.safetensors"
    save_statistics(path, 0, moment())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArtifactError, match=r"layer-0\.safetensors"):
        load_statistics(path)
    with pytest.raises(ArtifactError, match="no such file"):
        load_statistics(tmp_path / "layer-1.safetensors")
    save_tensors(path, {"x": torch.zeros(2)})
    with pytest.raises(ArtifactError, match="not a statistics file"):
        load_statistics(path)


def test_every_form_of_statistics_is_resolved(tmp_path):
    paths = []
    for layer in (0, 1):
        paths.append(tmp_path / f"layer-{layer}.safetensors")
        save_statistics(paths[-1], layer, moment(seed=layer))
    forms = [
        tmp_path,
        str(tmp_path),
        paths,
        {0: paths[0], 1: str(paths[1])},
        {0: moment(seed=0), 1: moment(seed=1)},
        {0: moment(seed=0).matrix.float(), 1: moment(seed=1).matrix},
    ]
    for form in forms:
        found = resolve_statistics(form, [0, 1], {0: 6, 1: 6})
        assert sorted(found) == [0, 1]
        torch.testing.assert_close(found[1].matrix, moment(seed=1).matrix)
    assert list(resolve_statistics(paths[0], [0])) == [0]
    assert resolve_statistics(None, [0]) == {}


def test_statistics_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "layer-0.safetensors"
    save_statistics(path, 0, moment())
    with pytest.raises(ConfigError, match="layer 1 is missing"):
        resolve_statistics(path, [0, 1])
    with pytest.raises(ArtifactError, match=r"layer-1\.safetensors: no such file"):
        resolve_statistics(tmp_path, [0, 1])
    with pytest.raises(ConfigError, match="has size 6; the model needs 8"):
        resolve_statistics(path, [0], {0: 8})
    with pytest.raises(ConfigError, match="not square"):
        resolve_statistics({0: torch.zeros(3, 4)}, [0])
    with pytest.raises(ConfigError, match="ndarray"):
        resolve_statistics({0: np.eye(3)}, [0])
    with pytest.raises(ConfigError, match="int is not allowed"):
        resolve_statistics(3, [0])
    path.rename(tmp_path / "layer-2.safetensors")
    with pytest.raises(ArtifactError, match="holds layer 0, not layer 2"):
        resolve_statistics(tmp_path, [2])
