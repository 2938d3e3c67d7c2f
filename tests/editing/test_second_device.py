"""Every path of an edit with the model on another device than the CPU: nothing meets what lives elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from second_device import DEVICE, Everywhere, OnSecondDevice, Reachable, on_second_device
from test_checkpoint import METHODS, TEXTS, KillAfter, Killed, plan, same_memory
from test_epochs import CURVATURE
from test_session import CONTEXTS, MOMENTS, SMALL, TARGETS
from tiny import FAMILIES, tiny_model, tiny_requests

import editlab
from editlab.config.base import validated
from editlab.config.models import Substrate
from editlab.config.preparation import Statistics, Tracing
from editlab.config.recipe import Recipe
from editlab.config.solvers import SOLVERS
from editlab.data import true_statements
from editlab.editing.session import EditSession
from editlab.editing.stream import StreamResult, run_stream
from editlab.editing.tracing import trace_layers
from editlab.evaluation.scoring import score_targets
from editlab.moments.collection import collect_second_moments
from editlab.networks.architectures import Architecture
from editlab.training.substrate import train_substrate

EDITING = [name for name, solver in SOLVERS.items() if solver.edits]


@pytest.fixture(autouse=True)
def reachable():
    with Reachable():
        yield


def there(family: str = "gpt2", **values: Any) -> Any:
    return on_second_device(tiny_model(family, **values))


def session(model: Any, method: str, rank: int = 0, replay: float = 0.0, layers: tuple[int, ...] = (1,), **given: Any):
    targets = {**TARGETS, "steps": 3} if SOLVERS[method].targets else {}
    values = {"solver": method, "layers": list(layers), **targets, **SMALL.get(method, {}), **given}
    recipe = validated(Recipe, values, "recipe")
    probes = tiny_requests(80)[70:] if recipe.trust or recipe.greedy else ()
    statistics = CURVATURE if recipe.reads_curvature else MOMENTS
    return EditSession(model, recipe, statistics=statistics, contexts=CONTEXTS, rank=rank, replay=replay, probes=probes,
                       anchor_texts=TEXTS, tuning=tiny_requests(70)[60:])  # fmt: skip


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float(expected.norm()) > 0
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_the_device_refuses_what_a_gpu_refuses(monkeypatch):
    monkeypatch.setattr(Everywhere, "on", False)  # where the suite runs there, a test may mix
    ours, cpu = torch.ones(2, 2, device=DEVICE), torch.ones(2, 2)
    for mixed in (lambda: ours + cpu, lambda: cpu @ ours, lambda: torch.cat([ours, cpu]), lambda: cpu[ours.bool()]):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        ours.numpy()
    assert isinstance(ours + torch.tensor(1.0), OnSecondDevice)
    assert not isinstance(ours.cpu(), OnSecondDevice)
    assert torch.equal(ours[:, torch.tensor([0])].cpu(), cpu[:, :1])
    assert torch.equal(ours[[0, 1], range(2)].cpu(), cpu[:, 0])
    assert ours.detach().data_ptr() == ours.data_ptr() != ours.clone().data_ptr()


@pytest.mark.parametrize("method", EDITING)
def test_every_solver_edits_there_as_on_the_cpu(method):
    replay = 0.5 if SOLVERS[method].replay else 0.0
    size = SOLVERS[method].max_batch or 2
    layers = (1,) if SOLVERS[method].site == "mlp" else (0, 1)
    found = []
    for model in (tiny_model(), there()):
        with session(model, method, replay=replay, layers=layers) as run:
            for start in (0, size):
                assert run.step(tiny_requests(4)[start : start + size]).kept
            run.finish()
            found.append(run.edit())
    here, elsewhere = found
    for layer in here.layers:
        assert elsewhere.factors[layer].left.device.type == "cpu"
        close(elsewhere.delta(layer), here.delta(layer))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    for method in ("alphaedit", "ft"):
        with session(there(family), method) as run:
            assert run.step(tiny_requests(2)).kept
            assert run.step(tiny_requests(4)[2:]).kept


@pytest.mark.parametrize(
    ("method", "given", "rank"),
    [
        ("emmet", {"backend": "lora", "min_energy": 0.9, "max_rank": 6}, 2),
        ("alphaedit", {"backend": "lora", "accumulate": "append", "max_rank": 6}, 2),
        ("memit", {"backend": "lora", "lora_metric": "frobenius", "max_rank": 2}, 2),
        ("memit", {"backend": "posthoc", "posthoc": {"steps": 2}}, 2),
        ("memit", {"trust": {"threshold": 0.9, "low": 0.1}}, 0),
        ("memit", {"trust": {"distance_only": True}}, 0),
        ("memit", {"trust": {"per_fact": True, "threshold": 0.9, "low": 0.5}}, 0),
        ("memit", {"trust": {"weights": {"attribution_focus_delta": 1.0}}}, 0),
        ("emmet", {"backend": "lora", "max_rank": 8, "trust": {}, "greedy": {"when_stuck": "raise_rank"}}, 2),
        ("emmet", {"backend": "lora", "max_rank": 8, "greedy": {"recompute": True, "use_distance_only": False}}, 2),
        ("emmet", {"backend": "lora", "max_rank": 8, "greedy": {"when_stuck": "raw"}}, 2),
        ("memit", {"norm_anchor": True, "rewind": True, "replay_targets": "recomputed"}, 0),
        ("encore", {"replay_strategy": "priority", "replay_weight": 0.5}, 0),
        ("memit", {"anchor_pilots": 6}, 0),
        ("ft_epochs", {"energy": 0.8}, 0),
        ("alphaedit", {"moment_weight": 2.0, "refresh_after": 3}, 0),
    ],
)
def test_storage_guards_and_replay(method, given, rank):
    with session(there(), method, rank=rank, replay=0.5, **given) as run:
        for start in (0, 3):
            event = run.step(tiny_requests(6)[start : start + 3])
            assert event.decision != "rejected", event.reason
            assert event.trust_error is None, event.trust_error
        run.finish()
        assert run.edit().norm() >= 0


def stream(name: str, path: Path | None = None, kill: int = 0) -> StreamResult:
    values, rank, replay = METHODS[name]
    values = {"replay_capacity": 6, "replay_strategy": "priority", "replay_eviction": "lru", **values}
    method = values.pop("solver", "emmet")
    bar = KillAfter(kill) if kill else None
    with session(there(), method, rank, replay, **values) as run:
        given = plan(save_after=1, snapshot_every=100)
        return run_stream(run, tiny_requests(12), given, progress=bar, checkpoint=path)


@pytest.mark.parametrize("name", ["alphaedit", "betaedit", "lora", "trust", "memory", "ultra"])
def test_a_killed_stream_is_resumed_there(name, tmp_path: Path):
    path = tmp_path / "state.safetensors"
    undisturbed = stream(name)
    with pytest.raises(Killed):
        stream(name, path, kill=2)
    resumed = stream(name, path)
    assert [e.record() for e in resumed.events] == [e.record() for e in undisturbed.events]
    for layer in undisturbed.edit.factors:
        assert torch.equal(resumed.edit.delta(layer), undisturbed.edit.delta(layer))
    for layer, memory in undisturbed.edit.memory.items():
        assert memory.keys.device.type == "cpu"
        same_memory(resumed.edit.memory[layer], memory)


@pytest.mark.parametrize("lookup", ["prompt", "subject"])
def test_a_memory_lives_on_the_device_of_its_map(lookup, tmp_path: Path):
    found, facts = [], tiny_requests(40)
    for model in (tiny_model(), there()):
        values = {"solver": "memit", "layers": [1], "backend": "memory", "lookup": lookup, **TARGETS, "kl_factor": 0.0}
        memory = EditSession(model, validated(Recipe, values, "recipe"), tuning=facts[20:], anchor_texts=TEXTS)
        with memory as run:
            given = plan(save_after=1, snapshot_every=100)
            found.append(run_stream(run, facts[:8], given, TEXTS, checkpoint=tmp_path / model.device.type))
            assert run.proposer.memory.memories[1].keys.device.type == model.device.type
        with found[-1].edit.applied(model):
            assert len(score_targets(model, [(facts[0].rewrite_prompt, facts[0].target_new)]).log_prob) == 1
        assert len(found[-1].edit.without([facts[0].case_id]).memory[1].facts) == 7
    here, elsewhere = (result.edit.memory[1] for result in found)
    close(elsewhere.keys, here.keys)
    close(elsewhere.residuals, here.residuals)


def test_an_edit_is_applied_and_taken_back():
    model = there()
    before = Architecture(model).weight(1).cpu()
    edit = editlab.edit(model, tiny_requests(3), method="memit", layers=[1], statistics=MOMENTS, **TARGETS)
    assert torch.equal(Architecture(model).weight(1).cpu(), before)
    with edit.applied(model):
        assert not torch.equal(Architecture(model).weight(1).cpu(), before)
    assert torch.equal(Architecture(model).weight(1).cpu(), before)


def test_a_substrate_is_trained_there(monkeypatch):
    known = "_get_fused_kernels_supported_devices"
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], known, lambda: ["cpu", DEVICE.type])
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda model, device: model if device == "cpu" else on_second_device(model)
    )
    options = Substrate(layers=2, width=48, heads=2, vocabulary=500, context=48, batch=32, steps=5, recall_gate=0.0)
    statements = true_statements(tiny_requests(12, neighbors=0))
    subjects = [r.subject for r in tiny_requests(12)]
    (here, log), (elsewhere, same) = (
        train_substrate(statements, TEXTS, options, subjects=subjects, device=device, progress=False)
        for device in ("cpu", str(DEVICE))
    )
    assert same == [{name: pytest.approx(value, rel=1e-3) for name, value in row.items()} for row in log]
    for a, b in zip(here.parameters(), elsewhere.parameters(), strict=True):
        assert b.device.type == DEVICE.type
        close(b.cpu().detach(), a.detach())


def test_statistics_and_tracing():
    texts = [r.rewrite_prompt for r in tiny_requests(40)]
    here = collect_second_moments(tiny_model(), texts, [0, 1], Statistics(), tokens=200, progress=False)
    elsewhere = collect_second_moments(there(), texts, [0, 1], Statistics(), tokens=200, progress=False)
    for layer in here:
        assert elsewhere[layer].matrix.device.type == "cpu"
        close(elsewhere[layer].matrix, here[layer].matrix)
    assert len(trace_layers(there(), tiny_requests(2), Tracing(samples=2), progress=False))
