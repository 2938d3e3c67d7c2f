"""Constrained fine-tuning: its loss, its bound, and a model that comes back as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

from editlab.config.finetuning import FineTuning
from editlab.editing.finetune import finetune
from editlab.evaluation.scoring import score_requests
from editlab.networks.architectures import Architecture


def state(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_the_new_objects_and_the_model_comes_back(family):
    model, requests = tiny_model(family), tiny_requests(3)
    model.train()
    model.get_input_embeddings().weight.requires_grad_(False)
    before = state(model)
    deltas, loss = finetune(model, requests, [0, 1], FineTuning(steps=30, lr=0.02))
    assert set(deltas) == {0, 1}
    assert all(d.shape == (32, 64) and d.dtype == torch.float64 for d in deltas.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 1
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    first = score_requests(model, requests, ("rewrite",))
    with torch.no_grad():
        for layer, delta in deltas.items():
            Architecture(model).weight(layer).add_(delta.float())
    then = score_requests(model, requests, ("rewrite",))
    assert loss < 4.0  # from about 7
    assert float(then["success"].mean()) == 1.0
    assert float(then["magnitude"].mean()) > float(first["magnitude"].mean())


@pytest.mark.parametrize("radius", [0.001, 0.05])
def test_no_entry_leaves_the_bound(radius):
    deltas, _ = finetune(
        tiny_model("gpt2"), tiny_requests(3), [1], FineTuning(steps=12, lr=0.02, norm_constraint=radius)
    )
    assert float(deltas[1].abs().max()) <= radius * (1 + 1e-4)
    assert float(deltas[1].abs().max()) > 0.9 * radius


def test_it_stops_at_the_loss_and_at_the_steps():
    model, requests = tiny_model("gpt2"), tiny_requests(2)
    deltas, loss = finetune(model, requests, [1], FineTuning(steps=50, lr=0.02, stop_loss=1e9))
    assert float(deltas[1].norm()) == 0.0
    assert loss > 1.0
    _, early = finetune(model, requests, [1], FineTuning(steps=40, lr=0.02, stop_loss=4.0))
    assert 3.0 < early < 4.0
    _, late = finetune(model, requests, [1], FineTuning(steps=40, lr=0.02, stop_loss=0.0))
    assert late < 3.0


def test_weights_of_the_facts():
    """A fact of weight 0 is as if it were not there; equal weights are the plain mean."""
    model, requests = tiny_model("gpt2").double(), tiny_requests(4)
    options = {"steps": 5, "lr": 0.02}
    alone, _ = finetune(model, requests[:2], [1], FineTuning(**options))
    weighted, _ = finetune(model, requests, [1], FineTuning(**options), torch.tensor([2.0, 2.0, 0.0, 0.0]))
    assert torch.allclose(weighted[1], alone[1], rtol=1e-5, atol=1e-9)
    plain, loss = finetune(model, requests, [1], FineTuning(**options))
    scaled, same = finetune(model, requests, [1], FineTuning(**options), torch.full((4,), 0.3))
    assert torch.allclose(scaled[1], plain[1], rtol=1e-5, atol=1e-8)
    assert same == pytest.approx(loss, rel=1e-5)


def test_an_error_inside_gives_the_model_back(monkeypatch):
    model = tiny_model("gpt2")
    before = state(model)
    plain, calls = torch.optim.Adam.step, []

    def step(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, tiny_requests(2), [1], FineTuning(steps=5, lr=0.02))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
