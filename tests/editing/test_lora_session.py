"""The session with the LoRA backend, export to PEFT, and posthoc LoRA, on tiny models of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

import editlab
from editlab.config.base import validated
from editlab.config.recipe import RECIPES, Recipe
from editlab.data import batches
from editlab.editing.session import EditSession
from editlab.edits.edit import Edit
from editlab.errors import ConfigError

CONTEXTS = [["{}"], ["Yes. {}"]]


def statistics(model: Any, layers: list[int], seed: int = 0) -> dict[int, torch.Tensor]:
    from editlab.networks.architectures import Architecture

    d_in = Architecture(model).weight_shape(0)[1]
    keys = torch.randn(4 * d_in, d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return dict.fromkeys(layers, keys.T @ keys / len(keys))


def recipe(**values: Any) -> Recipe:
    common = {"solver": "emmet", "layers": [0], "clamp": 2.0, "steps": 5, "second_moment_weight": 1.0}
    known = RECIPES[values.get("solver", "emmet")].model_fields
    return validated(Recipe, {k: v for k, v in common.items() if k in known} | values, "recipe")


def stream(
    model: Any, given: Recipe, rank: int, n: int = 12, batch: int = 4, **options: Any
) -> tuple[Edit, list[dict]]:
    session = EditSession(
        model, given, statistics=statistics(model, list(given.layers)), contexts=CONTEXTS, rank=rank, seed=1, **options
    )
    with session:
        for chunk in batches(tiny_requests(n), batch):
            session.step(chunk)
        session.finish()
        return session.edit(), session.events


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def logits(model: Any) -> torch.Tensor:
    ids = model_ids()
    with torch.no_grad():
        return model(input_ids=ids).logits


def model_ids() -> torch.Tensor:
    return torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(4))


OWN = {"alphaedit": {"l2": 1.0, "null_space_share": 0.5}}


@pytest.mark.parametrize("solver", ["memit", "emmet", "alphaedit", "encore", "rect", "nse"])
def test_at_full_rank_the_stream_equals_the_raw_one(solver):
    model = tiny_model()
    values = {"solver": solver, "layers": [0, 1]} | OWN.get(solver, {})
    raw, _ = stream(model, recipe(**values), 0)
    lora, events = stream(model, recipe(**values, backend="lora", max_rank=32), 32)
    for layer in (0, 1):
        gap = lora.delta(layer) - raw.delta(layer)
        assert float(gap.norm()) <= 1e-3 * float(raw.delta(layer).norm())  # float32 models differ in the last bits
    assert all(e.layers["0"].energy > 1 - 1e-9 for e in events)


@pytest.mark.parametrize("accumulate", ["recompress", "append"])
def test_adapters_keep_their_rank_and_the_base_comes_back(accumulate):
    model = tiny_model()
    before = weights(model)
    edit, events = stream(model, recipe(backend="lora", accumulate=accumulate, max_rank=8), 3)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    expected = [3, 3, 3] if accumulate == "recompress" else [3, 6, 8]
    assert [e.layers["0"].lora_rank for e in events] == expected
    assert edit.factors[0].rank == expected[-1]
    assert all(0 < e.layers["0"].energy <= 1 for e in events)
    with edit.applied(model):
        assert not torch.equal(
            model.state_dict()["transformer.h.0.mlp.c_proj.weight"], before["transformer.h.0.mlp.c_proj.weight"]
        )
    assert all(torch.equal(before[k], model.state_dict()[k]) for k in before)


def test_the_session_and_the_saved_edit_give_the_same_model():
    model = tiny_model()
    given = recipe(backend="lora")
    session = EditSession(model, given, statistics=statistics(model, [0]), contexts=CONTEXTS, rank=4)
    with session:
        for chunk in batches(tiny_requests(12), 4):
            session.step(chunk)
        edited = logits(model)
        edit = session.edit()
    with edit.applied(model):
        torch.testing.assert_close(logits(model), edited, atol=1e-5, rtol=1e-5)


def test_a_cut_that_keeps_too_little_is_an_event_and_the_stream_goes_on():
    model = tiny_model()
    _, events = stream(model, recipe(backend="lora", min_energy=0.999, max_rank=6), 2)
    cuts = [e.layers["0"].cut for e in events]
    assert cuts[0] == "rank_raised"
    assert "raw_fallback" in cuts
    assert [e.decision for e in events] == ["accepted"] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_adapter_gives_the_same_logits_in_peft(family, tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = tiny_model(family)
    edit = editlab.edit(
        model, tiny_requests(6), method="memit", layers=[0, 1], statistics=statistics(model, [0, 1]),
        second_moment_weight=1.0, clamp=2.0, steps=5, backend="lora", rank=4,
    )  # fmt: skip
    edit.to_peft(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    plain = logits(model)
    with edit.applied(model):
        ours = logits(model)
    assert float((ours - plain).abs().max()) > 1e-2
    loaded = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path)
    assert float((logits(loaded) - ours).abs().max()) < 1e-4
    merged = loaded.merge_and_unload()
    assert float((logits(merged) - ours).abs().max()) < 1e-4


def test_export_of_uneven_ranks_survives_save_and_load(tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = tiny_model()
    edit, _ = stream(model, recipe(layers=[0, 2], backend="lora", min_energy=0.9, max_rank=16), 1)
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    loaded.to_peft(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len({f.rank for f in edit.factors.values()}) == len(config["rank_pattern"]) + 1
    with loaded.applied(model):
        ours = logits(model)
    theirs = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    assert float((logits(theirs) - ours).abs().max()) < 1e-4


def test_raw_edits_and_sums_export_too(tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = tiny_model()
    one, _ = stream(model, recipe(), 0)
    two, _ = stream(model, recipe(solver="memit", layers=[1]), 0)
    both = one + two
    both.to_peft(tmp_path)
    with both.applied(model):
        ours = logits(model)
    assert float((logits(peft.PeftModel.from_pretrained(tiny_model(), tmp_path)) - ours).abs().max()) < 1e-4
    nameless = Edit(one.factors)
    with pytest.raises(ConfigError, match="give the model"):
        nameless.to_peft(tmp_path)
    nameless.to_peft(tmp_path, model)
    with pytest.raises(ConfigError, match="no adapter"):
        stream(model, recipe(solver="none"), 0)[0].to_peft(tmp_path)


def test_posthoc_lowers_the_loss_and_leaves_the_model_alone():
    pytest.importorskip("peft")
    model = tiny_model()
    before = weights(model)
    modules = [type(m) for m in model.modules()]
    given = recipe(backend="posthoc", posthoc={"steps": 12, "lr": 2e-2})
    texts = ["The city is old and the sea is near.", "A painter works in the morning."]
    edit, events = stream(model, given, 2, anchor_texts=texts)
    raw, _ = stream(model, recipe(), 0)
    found = events[-1].finish
    assert found["posthoc_loss_last"] < found["posthoc_loss_first"]
    assert [type(m) for m in model.modules()] == modules
    assert all(torch.equal(before[k], model.state_dict()[k]) for k in before)
    assert torch.linalg.matrix_rank(edit.delta(0) - raw.delta(0), rtol=1e-6) == 2
    again, _ = stream(model, given, 2, anchor_texts=texts)
    assert torch.equal(again.delta(0), edit.delta(0))


@pytest.mark.parametrize(
    ("values", "rank", "text"),
    [
        ({"backend": "lora"}, 0, "rank: 0"),
        ({"backend": "posthoc"}, 0, "rank: 0"),
        ({}, 4, "rank: 4"),
        ({"backend": "lora", "max_rank": 4}, 8, "max_rank: 4"),
    ],
)
def test_ranks_that_do_not_fit_the_backend_are_refused(values, rank, text):
    model = tiny_model()
    with pytest.raises(ConfigError, match=text) as caught:
        EditSession(model, recipe(**values), statistics=statistics(model, [0]), rank=rank)
    assert "\n" not in str(caught.value)
