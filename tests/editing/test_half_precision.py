"""Models in half precision: edited maps are float32 while they are edited, and what rounding takes is counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from test_checkpoint import KillAfter, Killed, plan, same
from test_session import MOMENTS, TARGETS, session
from tiny import tiny_model, tiny_requests

import editlab
from editlab.editing.stream import StreamResult, run_stream
from editlab.errors import ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.loading import check_placement
from editlab.networks.precision import energy_lost, float32_products

HALVES = (torch.bfloat16, torch.float16)


def half(dtype: torch.dtype = torch.bfloat16, family: str = "gpt2"):
    return tiny_model(family).to(dtype)


def bits(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone().view(torch.uint8) for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", ["memit", "ft", "ft_epochs"])
def test_the_edited_maps_are_float32_inside_and_untouched_after(dtype, method):
    model, requests = half(dtype), tiny_requests(4)
    before, parameters = bits(model), dict(model.named_parameters())
    with session(model, method, layers=(0, 1)) as run:
        assert {w.dtype for w in run.weights.values()} == {torch.float32}
        assert {p.dtype for p in model.parameters()} == {dtype, torch.float32}
        for layer, weight in run.weights.items():  # exactly what was loaded
            assert torch.equal(weight.to(dtype), Architecture(model).weight(layer).to(dtype))
        assert run.step(requests).kept
        assert model(input_ids=torch.tensor([[1, 2]])).logits.dtype == dtype
        lost = run.events[0].energy_lost
        assert set(lost) == {"0", "1"}
        assert all(0 < value < 1 for value in lost.values())
    assert all(torch.equal(p.view(torch.uint8), before[name]) for name, p in model.named_parameters())
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert not model.transformer.h[0].mlp.c_proj._forward_pre_hooks


def test_small_bounds_of_fine_tuning_move_every_entry():
    """In bfloat16 a radius of 5e-5 moves one entry in five."""
    with session(half(), "ft", norm_constraint=5e-5, steps=8, lr=0.02) as run:
        run.step(tiny_requests(3))
        change = (run.weights[1] - run.originals[1]).abs()
        assert float((change > 0).double().mean()) > 0.95
        assert float(change.max()) <= 5.1e-5
        assert run.events[0].energy_lost["1"] > 0.3  # and would lose most of it when stored


@pytest.mark.parametrize("share", [1e-3, 1.0])
def test_lost_energy_is_that_of_the_rounding(share):
    weight = torch.randn(40, 60, generator=torch.Generator().manual_seed(1)).bfloat16()
    change = share * torch.randn(40, 60, generator=torch.Generator().manual_seed(2))
    after = weight.float() + change
    stored = after.bfloat16().double()
    expected = float((stored - after.double()).norm() ** 2 / change.double().norm() ** 2)
    assert energy_lost(weight.float(), after, torch.bfloat16) == pytest.approx(expected, rel=1e-4)
    assert (expected > 0.1) == (share == 1e-3)
    assert energy_lost(after, after, torch.bfloat16) == 0.0


def test_what_is_applied_to_a_half_model_is_counted_and_said(caplog):
    model = half()
    edit = editlab.edit(model, tiny_requests(2), method="memit", layers=[1], statistics=MOMENTS, **TARGETS)
    with caplog.at_level(logging.WARNING, logger="editlab.edits.edit"), edit.scaled(1e-4).applied(model):
        assert Architecture(model).weight(1).dtype == torch.bfloat16
    assert "of the edit's energy is lost in torch.bfloat16" in caplog.text


def stream(dtype: torch.dtype, path: Path | None = None, kill: int = 0) -> StreamResult:
    bar = KillAfter(kill) if kill else None
    with session(half(dtype), "alphaedit", layers=(0, 1)) as run:
        return run_stream(run, tiny_requests(12), plan(save_after=1), progress=bar, checkpoint=path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_killed_stream_ends_like_an_undisturbed_one(dtype, tmp_path: Path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        stream(dtype, path, kill=2)
    undisturbed = stream(dtype)
    same(stream(dtype, path), undisturbed)
    lost = undisturbed.metrics.query("metric == 'energy_lost'")
    assert len(lost) == (dtype == torch.bfloat16)


def test_products_in_tf32_are_for_gpus_alone_and_the_switch_is_put_back():
    before = torch.get_float32_matmul_precision()
    for device, tf32, inside in (("cuda", True, "high"), ("cuda", False, before), ("cpu", True, before)):
        with float32_products(torch.device(device), tf32=tf32):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before


def test_models_that_cannot_be_edited_are_refused_in_a_line():
    model = tiny_model()
    for places in ({"a": 0}, {"": "cpu"}, {"": 0}):
        model.hf_device_map = places
        check_placement(model)
    for places in ({"a": 0, "b": 1}, {"a": 0, "b": "cpu"}, {"": "disk"}):
        model.hf_device_map = places
        with pytest.raises(
            ModelError, match=r"it lies on .*; editing needs one device: give device_map cuda:0"
        ) as caught:
            session(model)
        assert "\n" not in str(caught.value)
    del model.hf_device_map
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(ModelError, match=r"quantised \(bitsandbytes\), which cannot be edited") as caught:
        session(model)
    assert "\n" not in str(caught.value)
