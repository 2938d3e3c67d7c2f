"""Causal tracing over images: what recovers everything by construction does, and rankings are what they say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from small import MODEL, classifier, image_set

from editlab.config.vision import AlphaEdit, Locating
from editlab.errors import ConfigError
from editlab.networks.vision import CLS, make_classifier
from editlab.randomness import torch_rng
from editlab.vision.discovery import heldout_score
from editlab.vision.keys import collect_keys
from editlab.vision.locate import agreement, best_layers, layer_statistics, recovery, split_half, trace, window_of
from editlab.vision.methods import chosen_layers
from editlab.vision.mlp import MlpEditor
from editlab.vision.samples import draw_samples, find_errors, right_rows
from editlab.vision.scoring import Scored, score
from editlab.vision.trial import trial_ranking


@pytest.fixture(scope="module")
def traced():
    model, images = classifier(), image_set("discovery")
    rows = draw_samples(find_errors(model, images), 0, 6, 10).rows.tolist()
    return model, images, rows, trace(model, images, rows, Locating(num_ablations=8), 1)


def value(statistics, part, positions, layer, head=-1):
    chosen = statistics[(statistics["part"] == part) & (statistics["positions"] == positions)]
    return float(chosen[(chosen["layer"] == layer) & (chosen["head"] == head)]["value"].iloc[0])


def test_what_is_restored_by_construction_recovers_everything(traced):
    statistics = layer_statistics(traced[3], resamples=50)
    for layer in range(3):
        assert value(statistics, "block", "all", layer) == pytest.approx(1.0, abs=1e-4)
    assert value(statistics, "block", "cls", 2) == pytest.approx(1.0, abs=1e-4)
    assert not statistics[statistics["part"] == "block"]["ranked"].any()
    assert set(statistics[statistics["ranked"]]["part"]) == {"mlp"}
    assert len(statistics[statistics["part"] == "head"]) == 3 * 2


def test_one_site_against_the_definition(traced):
    """p of the prediction with the MLP output of block 1 at CLS put back, computed by hand."""
    model, images, rows, frame = traced
    pixels = images.tensor(model, rows)
    blocks = model.model.vit.layers
    with torch.no_grad():
        sigma = float(model.patch_embeddings(pixels).std())
        embedded = model.embed(pixels[:1])
        noise = torch.randn(8, *embedded.shape[1:], generator=torch_rng("vision trace", 1, rows[0]))
        noise[:, CLS] = 0
        corrupt = embedded + 3 * sigma * noise

        def run(hidden, clean=None):
            for k, block in enumerate(blocks):
                inner = hidden + block.attention(block.layernorm_before(hidden))[0]
                mlp = block.mlp(block.layernorm_after(inner))
                if k == 1:
                    kept = mlp[:, CLS].clone()
                    if clean is not None:
                        mlp = mlp.clone()
                        mlp[:, CLS] = clean
                hidden = inner + mlp
            return model.logits(hidden).softmax(-1), kept

        clean, output = run(embedded)
        restored = run(corrupt, output)[0][:, clean.argmax()].mean()
    mine = frame[
        (frame["sample"] == rows[0]) & (frame["part"] == "mlp") & (frame["positions"] == "cls") & (frame["layer"] == 1)
    ]
    assert float(mine["p_restored"].iloc[0]) == pytest.approx(float(restored.detach()), abs=1e-5)
    hidden = run(corrupt)[0][:, clean.argmax()].mean().detach()
    assert float(mine["p_corrupt"].iloc[0]) == pytest.approx(float(hidden), abs=1e-5)
    assert float(mine["p_clean"].iloc[0]) == pytest.approx(float(clean.max().detach()), abs=1e-5)


def test_a_head_that_is_the_only_one_is_the_attention_output(traced):
    """Its features are all that the output map of attention reads."""
    section = MODEL.model_copy(update={"heads": 1, "layers": 2})
    model = make_classifier(section, [str(k) for k in range(10)], 1)
    frame = trace(model, traced[1], traced[2][:2], Locating(num_ablations=4, noise=30.0), 1)
    at_cls = frame[frame["positions"] == "cls"].set_index(["sample", "layer"])
    heads, attention = (at_cls[at_cls["part"] == part]["p_restored"] for part in ("head", "attention"))
    assert np.allclose(heads, attention, atol=1e-7)
    assert not np.allclose(heads, at_cls[at_cls["part"] == "head"]["p_corrupt"], atol=1e-7)


def test_every_head_is_restored_by_itself(traced):
    statistics = layer_statistics(traced[3], resamples=5)
    for layer in range(3):
        assert value(statistics, "head", "cls", layer, 0) != value(statistics, "head", "cls", layer, 1)


def test_windows():
    assert [list(window_of(k, 1, 4)) for k in range(4)] == [[0], [1], [2], [3]]
    assert [list(window_of(k, 3, 4)) for k in range(4)] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert list(window_of(1, 2, 4)) == [1, 2]


def test_the_trace_is_seeded_and_a_window_of_all_blocks_recovers_everything(traced):
    model, images, rows, frame = traced
    again = trace(model, images, rows, Locating(num_ablations=8), 1)
    pd.testing.assert_frame_equal(frame, again)
    other = trace(model, images, rows, Locating(num_ablations=8), 2)
    assert not frame["p_corrupt"].equals(other["p_corrupt"])
    wide = trace(
        model,
        images,
        rows[:2],
        Locating(num_ablations=4, window=5, by_head=False, parts=["block"], positions=["all"]),
        1,
    )
    assert recovery(wide) == pytest.approx(1.0, abs=1e-4)


def test_recovery_is_of_means_and_survives_small_drops():
    frame = pd.DataFrame({"p_clean": [0.9, 0.5], "p_corrupt": [0.1, 0.5], "p_restored": [0.5, 0.5]})
    assert recovery(frame) == pytest.approx(0.5)
    assert math.isnan(recovery(frame.assign(p_corrupt=frame["p_clean"])))


def importance(values, noise=0.0):
    rows = []
    for sample in range(12):
        for layer, v in enumerate(values):
            wobble = noise * ((sample * 7 + layer * 3) % 5 - 2)
            rows.append({"sample": sample, "part": "mlp", "positions": "cls", "layer": layer, "head": -1,
                         "p_clean": 1.0, "p_corrupt": 0.0, "p_restored": v + wobble})  # fmt: skip
    return pd.DataFrame(rows)


def test_rankings_and_their_agreement():
    frame = importance([0.6, 0.1, 0.3])
    assert split_half(frame, 10, 1) == pytest.approx(1.0)
    statistics = layer_statistics(frame, resamples=20)
    assert best_layers(statistics, "trace", 2) == [0, 2]
    assert agreement(statistics) == {}
    trial = statistics.assign(ranking="trial", value=[-3.0, -1.0, 2.0])
    found = agreement(pd.concat([statistics, trial]))
    assert found["trace_layer"] == 0
    assert found["trial_layer"] == 2
    assert not found["same_layer"]
    assert found["spearman"] == pytest.approx(-0.5)
    assert best_layers(trial.assign(value=0.0), "trial", 1) == [2]


def test_layers_by_list_by_ranking_and_the_last(tmp_path):
    path = tmp_path / "statistics.csv"
    layer_statistics(importance([0.6, 0.1, 0.3]), resamples=20).to_csv(path, index=False)
    recipe = AlphaEdit(method="alphaedit", num_edit_layers=2)
    assert chosen_layers(recipe, 3, None) == [1, 2]
    assert chosen_layers(recipe.model_copy(update={"layers": "trace"}), 3, path) == [0, 2]
    assert chosen_layers(recipe.model_copy(update={"layers": [0]}), 3, path) == [0]
    assert chosen_layers(recipe.model_copy(update={"num_edit_layers": 9}), 3, None) == [0, 1, 2]
    with pytest.raises(ConfigError, match="'trace' needs a ranking"):
        chosen_layers(recipe.model_copy(update={"layers": "trace"}), 3, None)


def test_trial_edits_rank_every_layer():
    model, images, ft_train = classifier(), image_set("discovery"), image_set("ft_train")
    errors = find_errors(model, images)
    keys = collect_keys(model, ft_train, right_rows(model, ft_train, 1), range(3), 100, 1)
    table = trial_ranking(model, images, errors, keys, AlphaEdit(method="alphaedit", projection_samples=100), 2, 8)
    assert list(table["layer"]) == [0, 1, 2]
    assert table["ranked"].all()
    assert (table["ci_low"] <= table["value"]).all()
    model, draw = classifier(), [draw_samples(errors, k, 8, 10) for k in (0, 1)]
    editor, known = MlpEditor(model, images, keys), {"discovery": Scored.of(model, images)}
    scores = []
    for number in (0, 1):
        edit, _ = editor.edit(draw[number], [2], AlphaEdit(method="alphaedit", projection_samples=100))
        with edit.applied(model.model):
            scores.append(heldout_score(score(known, {"discovery": known["discovery"].after(model, 2)}, draw[number])))
    last = table[table["layer"] == 2].iloc[0]
    assert last["value"] == sum(scores) / 2
    half = 12.7062 * abs(scores[0] - scores[1]) / 2  # Student's quantile for two draws
    assert last["ci_high"] - last["value"] == pytest.approx(half, rel=1e-4)
    one = trial_ranking(model, images, errors, keys, AlphaEdit(method="alphaedit", projection_samples=100), 1, 8)
    assert one["ci_low"].isna().all()
