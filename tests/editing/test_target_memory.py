"""Targets keep to their memory: chunks are sized by what a few facts need, and halved where that was too much."""

from __future__ import annotations

import gc

import pytest
import torch
from live_memory import Peak
from test_targets import CONTEXTS
from tiny import tiny_model, tiny_requests

from editlab.config.targets import TargetOptions
from editlab.editing import memory, targets
from editlab.editing.targets import optimize_targets
from editlab.errors import ResourceError

OPTIONS = {"steps": 2, "lr": 0.5, "stop_loss": 0.0}


class Watched:
    """Counts what each chunk needs, and may fail as a full device does."""

    def __init__(self, monkeypatch, most: int | None = None) -> None:
        self.bytes: list[int] = []
        self.facts: list[int] = []
        inner = targets._optimize

        def optimize(problem, options):
            self.facts.append(len(problem.base))
            if most is not None and len(problem.base) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
            self.bytes.append(problem.memory(options))
            return inner(problem, options)

        monkeypatch.setattr(targets, "_optimize", optimize)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("megabytes", [9, 16])  # a fact is 4 % of the smaller one
def test_memory_follows_the_budget_within_a_tenth(family, megabytes, monkeypatch):
    model, requests = tiny_model(family, layers=6, width=64), tiny_requests(120)
    watched = Watched(monkeypatch)
    optimize_targets(model, requests, 1, CONTEXTS, TargetOptions(target_memory_mb=megabytes, **OPTIONS))
    assert sum(watched.facts) == 120
    assert len(watched.facts) > 2
    for needed in watched.bytes[:-1]:  # the last chunk is what was left
        assert 0.9 <= needed / (megabytes * 1e6) <= 1.1


@pytest.mark.parametrize(("family", "megabytes"), [("gpt2", 50), ("llama", 35)])  # a fact is 4 % of them
def test_what_tensors_hold_at_once_follows_the_budget_within_a_tenth(family, megabytes):
    """Counted by allocation, everything included: clean states, gradients, what is thrown away within a step."""
    model, requests = tiny_model(family, layers=6, width=256), tiny_requests(40)
    options = TargetOptions(target_memory_mb=megabytes, **OPTIONS)
    with Peak() as peak:
        found = optimize_targets(model, requests, 1, CONTEXTS, options)
    assert found.z.shape[1] == 40
    assert 0.9 <= peak.bytes / (megabytes * 1e6) <= 1.1


def test_measuring_leaves_nothing_behind():
    """A graph whose hooks give back what they are given holds itself, and what it saved, for ever."""
    model, requests = tiny_model(layers=4), tiny_requests(6)
    options = TargetOptions(target_memory_mb=1, **OPTIONS)
    with Peak() as peak:
        for _ in range(3):
            optimize_targets(model, requests, 1, CONTEXTS, options)
        gc.collect()
        assert peak.now < 0.1 * peak.bytes


def test_what_is_counted_is_what_the_gradient_keeps():
    model, grown = tiny_model(layers=4), []
    for count in (4, 8):
        requests = [tiny_requests(1)[0]] * count
        rows = targets.encode_rows(targets.Encoder(model.tokenizer), requests, CONTEXTS, with_kl=True)
        chunks = targets._Chunks(targets.Architecture(model), rows, count, 1, "block", 0, TargetOptions())
        with targets.frozen(model):
            grown.append(chunks._problem(range(count)).memory(TargetOptions()))
    assert grown[1] == pytest.approx(2 * grown[0], rel=0.05)
    hidden = sum(p.numel() for p in model.parameters())
    assert grown[0] < 400 * hidden  # the weights themselves do not count


def test_out_of_memory_halves_and_goes_on_with_the_same_results(monkeypatch, caplog):
    model, requests = tiny_model().double(), tiny_requests(10)
    options = TargetOptions(steps=5, lr=0.5)
    whole = optimize_targets(model, requests, 1, CONTEXTS, options)
    watched = Watched(monkeypatch, most=3)
    parts = optimize_targets(model, requests, 1, CONTEXTS, options)
    assert watched.facts[0] == 10
    assert max(watched.facts[-3:]) <= 3
    assert "out of memory with 10 facts at once" in caplog.text
    assert parts.steps.tolist() == whole.steps.tolist()
    torch.testing.assert_close(parts.z, whole.z, rtol=1e-9, atol=1e-9)


def test_what_was_found_before_memory_ran_out_stays(monkeypatch):
    attempts: list[int] = []
    inner = targets._optimize

    def optimize(problem, options):
        attempts.append(len(problem.base))
        if len(attempts) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return inner(problem, options)

    monkeypatch.setattr(targets, "_optimize", optimize)
    model, requests = tiny_model(), tiny_requests(8)
    optimize_targets(model, requests, 1, CONTEXTS, TargetOptions(**OPTIONS), max_tokens=100)
    assert len(attempts) > 3
    assert sum(attempts) - attempts[1] == 8  # each fact is optimised once


def test_one_fact_that_does_not_fit_is_an_error_of_one_line(monkeypatch):
    Watched(monkeypatch, most=0)
    with pytest.raises(ResourceError, match="does not suffice for one fact") as caught:
        optimize_targets(tiny_model(), tiny_requests(3), 1, CONTEXTS, TargetOptions(**OPTIONS))
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_it(monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(targets, "_optimize", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        optimize_targets(tiny_model(), tiny_requests(1), 1, CONTEXTS, TargetOptions(**OPTIONS))


def test_budgets():
    assert memory.budget_bytes("auto", torch.device("cpu")) is None
    assert memory.budget_bytes(300, torch.device("cpu")) == 300_000_000
    assert [memory.power_of_two(n) for n in (0, 1, 1023, 1024, 1500)] == [1, 1, 512, 1024, 1024]
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not memory.is_out_of_memory(RuntimeError("other"))


def test_auto_is_a_share_of_what_a_gpu_has_free_and_of_what_torch_holds_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 7_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2_000)
    assert memory.budget_bytes("auto", torch.device("cuda:0")) == 12_000
