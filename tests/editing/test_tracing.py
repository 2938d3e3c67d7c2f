"""Causal tracing: what must hold whatever the model knows."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

from editlab.config.preparation import Tracing
from editlab.editing.tracing import (
    LAST,
    SITES,
    SUBJECT,
    choose_layers,
    clean_outputs,
    encode,
    indirect_effects,
    restored_probability,
    trace_layers,
)
from editlab.errors import ConfigError, DataError
from editlab.networks.architectures import Architecture
from editlab.networks.tokenization import Encoder


def trace(model, n: int = 3, *, seed: int = 0, max_rows: int = 256, **options) -> pd.DataFrame:
    chosen = Tracing(**{"samples": 3, **options})
    return trace_layers(model, tiny_requests(n), chosen, seed=seed, max_rows=max_rows, progress=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_site_and_position_is_traced(family):
    model = tiny_model(family)
    frame = trace(model)
    assert len(frame) == 3 * 3 * len(SITES) * 2
    assert set(frame["position"]) == {SUBJECT, LAST}
    assert frame[["p_clean", "p_corrupt", "p_restored"]].map(lambda p: 0 < p < 1).all(axis=None)
    assert (frame["p_clean"] - frame["p_corrupt"]).abs().min() > 0
    # The last block's output at the last token decides the first target token: nothing is left of the noise there.
    top = frame[(frame["site"] == "block") & (frame["layer"] == 2) & (frame["position"] == LAST)]
    single = [
        len(model.tokenizer(" " + r.target_true, add_special_tokens=False).input_ids) == 1 for r in tiny_requests(3)
    ]
    for alone, clean, restored in zip(single, top["p_clean"], top["p_restored"], strict=True):
        assert not alone or restored == pytest.approx(clean, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama"])
def test_restoring_everything_recovers_the_clean_probability(family):
    model = tiny_model(family)
    architecture = Architecture(model)
    prompt = encode(Encoder(model.tokenizer), tiny_requests(2)[1])
    clean = clean_outputs(architecture, prompt)
    draws = torch.randn(4, len(prompt.subject), 32, generator=torch.Generator().manual_seed(0))
    everywhere = range(len(prompt.ids))
    found = restored_probability(architecture, prompt, draws, clean, "block", everywhere, [[0], [1], [2], [0, 1, 2]])
    torch.testing.assert_close(found, clean.probability.expand(4), rtol=1e-5, atol=0)


def test_without_noise_there_is_no_effect():
    frame = trace(tiny_model(), noise=1e-30)
    for column in ("p_corrupt", "p_restored"):
        assert frame[column].to_numpy() == pytest.approx(frame["p_clean"].to_numpy(), rel=1e-5)


def test_the_seed_decides_and_batching_does_not():
    model = tiny_model()
    first, again, other = trace(model, seed=1), trace(model, seed=1), trace(model, seed=2)
    pd.testing.assert_frame_equal(first, again)
    assert (first["p_corrupt"] != other["p_corrupt"]).any()
    assert (first["p_clean"] == other["p_clean"]).all()
    pd.testing.assert_frame_equal(first, trace(model, seed=1, max_rows=1), rtol=1e-5)


def test_a_fact_is_corrupted_alike_whichever_facts_stand_beside_it_in_order():
    model = tiny_model()
    requests = tiny_requests(3)
    forward = trace_layers(model, requests, Tracing(samples=2), progress=False)
    backward = trace_layers(model, requests[::-1], Tracing(samples=2), progress=False)
    by = ["case_id", "layer", "site", "position"]
    pd.testing.assert_frame_equal(
        forward.sort_values(by, ignore_index=True), backward.sort_values(by, ignore_index=True), rtol=1e-5
    )


def test_a_window_over_all_layers_restores_more_than_one_layer():
    model = tiny_model()
    wide = trace(model, window=7)
    parts = [part for _, part in wide[wide["site"] == "mlp"].groupby(["case_id", "position"])]
    assert all(part["p_restored"].nunique() == 1 for part in parts)
    blocks, alone = wide[wide["site"] == "block"], trace(model).query("site == 'block'")
    assert blocks["p_restored"].to_numpy() == pytest.approx(alone["p_restored"].to_numpy(), rel=1e-6)


def test_the_subject_is_found_inside_the_prompt():
    model = tiny_model()
    request = tiny_requests(2)[1]
    prompt = encode(Encoder(model.tokenizer), request)
    assert model.tokenizer.decode([prompt.ids[i] for i in prompt.subject]).strip() == request.subject
    assert prompt.ids[prompt.prompt_length :] == prompt.target[:-1]


def test_there_must_be_something_to_trace():
    with pytest.raises(DataError, match="no requests"):
        trace(tiny_model(), n=0)


def frame_of(effects: dict[int, list[float]]) -> pd.DataFrame:
    rows = [
        {"case_id": str(i), "layer": layer, "site": "mlp", "position": SUBJECT}
        | {"p_clean": 0.9, "p_corrupt": 0.1, "p_restored": 0.1 + value}
        for layer, values in effects.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_indirect_effects_are_means_with_intervals():
    table = indirect_effects(frame_of({0: [0.2, 0.4], 1: [0.3, 0.3]}))
    assert table["effect"].tolist() == pytest.approx([0.3, 0.3])
    assert table["ci_low"].tolist() == pytest.approx([0.2, 0.3])
    assert table["ci_high"].tolist() == pytest.approx([0.4, 0.3])
    assert table["n"].tolist() == [2, 2]
    pd.testing.assert_frame_equal(table, indirect_effects(frame_of({0: [0.2, 0.4], 1: [0.3, 0.3]})))


def test_the_best_window_of_layers_is_chosen():
    table = indirect_effects(frame_of({0: [0.5], 1: [0.0], 2: [0.4], 3: [0.3], 4: [0.1]}))
    assert choose_layers(table, 1) == [0]
    assert choose_layers(table, 2) == [2, 3]
    assert choose_layers(table, 5) == [0, 1, 2, 3, 4]
    for count in (0, 6):
        with pytest.raises(ConfigError, match="top"):
            choose_layers(table, count)
