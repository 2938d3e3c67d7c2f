"""Batched targets against the published loop, one fact at a time: same vectors, same step counts, same losses."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, tiny_model, tiny_requests

from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.targets import optimize_targets
from editlab.errors import ModelError
from editlab.networks.suffix import partition

CONTEXTS = (("{}",), ("Yes. {}", "I think that {}"))
OPTIONS = TargetOptions(steps=7, lr=0.5, clamp=4.0, weight_decay=0.5, kl_factor=0.0625)
# GPT-J's own attention computes its softmax in float32 whatever the type of the model.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@functools.cache
def model_of(family: str, dtype: torch.dtype = torch.float64):
    return tiny_model(family).to(dtype)


def mixed(n: int = 3) -> list[EditRequest]:
    return tiny_requests(n) + reference.odd_requests()


def with_(options: TargetOptions, **values) -> TargetOptions:
    return options.model_copy(update=values)


def reference_targets(model, requests, layer, contexts, options: TargetOptions, site: str):
    found = [
        reference.target(
            model,
            r,
            layer,
            contexts,
            steps=options.steps,
            lr=options.lr,
            clamp=options.clamp,
            weight_decay=options.weight_decay,
            kl_factor=options.kl_factor,
            site=site,
            stop=options.stop_loss,
            most_probable=options.stop == "most_probable",
        )
        for r in requests
    ]
    z, steps, loss = zip(*found, strict=True)
    return torch.stack(z, 1).double(), list(steps), torch.tensor(loss).double()


def assert_equals_reference(model, requests, layer, options, *, site="block", contexts=CONTEXTS, dtype=torch.float64):
    found = optimize_targets(model, requests, layer, contexts, options, site=site)
    z, steps, loss = reference_targets(model, requests, layer, contexts, options, site)
    tolerance = TOLERANCE[dtype]
    assert float(((found.z - z).norm(dim=0) / z.norm(dim=0)).max()) < tolerance
    assert found.steps.tolist() == steps
    assert float(((found.loss - loss).abs() / loss.abs().clamp(min=1e-3)).max()) < tolerance
    return found


def middle_loss(model, requests, layer, site) -> float:
    """A stop that about half of the facts reach."""
    losses = optimize_targets(model, requests, layer, CONTEXTS, OPTIONS, site=site).loss
    return float(losses.median()) * 1.001


@pytest.mark.parametrize("site", ["block", "mlp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_targets_are_the_published_ones(family, site):
    model, requests = model_of(family), mixed(2)
    options = with_(OPTIONS, stop_loss=middle_loss(model, requests, 1, site))
    found = assert_equals_reference(model, requests, 1, options, site=site)
    assert int(found.steps.min()) < options.steps - 1  # some stopped early ...
    assert int(found.steps.max()) == options.steps - 1  # ... and some did not


@pytest.mark.parametrize("site", ["block", "mlp"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_float32_targets_agree_with_the_published_ones(family, site):
    model, requests = model_of(family, torch.float32), mixed(1)
    options = with_(OPTIONS, stop_loss=middle_loss(model, requests, 1, site))
    assert_equals_reference(model, requests, 1, options, site=site, dtype=torch.float32)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_first_and_last_layer(family):
    model, options = model_of(family), with_(OPTIONS, steps=3)
    for site in ("block", "mlp"):
        assert_equals_reference(model, reference.odd_requests()[:3], 0, options, site=site)
        # Above the last block only the look-up position itself can predict: elsewhere the first gradient is exactly
        # zero but for the rounding of the KL term, whose sign Adam would turn into a full step.
        assert_equals_reference(model, reference.odd_requests()[2:3], 2, options, site=site)
        without = with_(options, kl_factor=0.0)
        found = assert_equals_reference(model, reference.odd_requests()[:3], 2, without, site=site)
        assert torch.equal(found.z[:, 0], found.base[:, 0])
        assert not torch.equal(found.z[:, 2], found.base[:, 2])


@pytest.mark.parametrize(
    "changed",
    [
        {"kl_factor": 0.0},
        {"kl_factor": 2.0},
        {"clamp": 0.2},
        {"weight_decay": 0.0, "lr": 0.1},
        {"weight_decay": 50.0},
        {"steps": 1},
        {"stop_loss": 1e9},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_hyper_parameter(family, changed):
    options = with_(OPTIONS, steps=4)
    options = options.model_copy(update=changed)
    found = assert_equals_reference(model_of(family), mixed(1)[:4], 1, options)
    lengths = found.delta.norm(dim=0) / found.base.norm(dim=0)
    assert bool((lengths <= options.clamp * (1 + 1e-9)).all())
    if "clamp" in changed and changed["clamp"] < 1:
        assert bool((lengths > options.clamp * (1 - 1e-9)).any())  # the ball was reached
    if changed in ({"steps": 1}, {"stop_loss": 1e9}):
        assert torch.equal(found.z, found.base)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_stop_when_the_object_is_the_most_probable(family):
    """ENCORE's stop: reached where the subject ends the prompt and the target is one token, and nowhere else."""
    requests = [dataclasses.replace(r, prompt="They went to see {}") for r in tiny_requests(2)] + tiny_requests(1)
    options = with_(OPTIONS, stop="most_probable")
    found = assert_equals_reference(model_of(family), requests, 1, options)
    assert 0 < int(found.steps.min()) < options.steps - 1
    assert int(found.steps.max()) == options.steps - 1
    by_loss = optimize_targets(model_of(family), requests, 1, CONTEXTS, OPTIONS)
    assert not torch.equal(found.steps, by_loss.steps)


def test_a_single_clean_context_and_single_facts():
    for request in reference.odd_requests():
        assert_equals_reference(model_of("gpt2"), [request], 1, with_(OPTIONS, steps=3), contexts=(("{}",),))


def test_the_base_is_the_state_on_the_clean_prompt():
    model, requests = model_of("gpt2"), mixed()
    for site in ("block", "mlp"):
        found = optimize_targets(model, requests, 1, CONTEXTS, with_(OPTIONS, steps=1), site=site)
        clean = torch.stack([reference.value(model, r, 1, site) for r in requests], 1)
        assert torch.allclose(found.base, clean, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("max_tokens", [1, 40, 150])
def test_chunking_changes_nothing(family, max_tokens):
    model, requests = model_of(family), mixed(6)
    options = with_(OPTIONS, stop_loss=middle_loss(model, requests, 1, "block"))
    whole = optimize_targets(model, requests, 1, CONTEXTS, options)
    parts = optimize_targets(model, requests, 1, CONTEXTS, options, max_tokens=max_tokens)
    assert torch.allclose(parts.z, whole.z, rtol=1e-6, atol=1e-7)
    assert torch.equal(parts.steps, whole.steps)
    assert torch.allclose(parts.loss, whole.loss, rtol=1e-6)


def test_the_order_of_facts_changes_nothing():
    model, requests = model_of("llama"), mixed(6)
    options = with_(OPTIONS, stop_loss=middle_loss(model, requests, 1, "block"))
    forward = optimize_targets(model, requests, 1, CONTEXTS, options)
    backward = optimize_targets(model, requests[::-1], 1, CONTEXTS, options)
    assert torch.allclose(forward.z, backward.z.flip(1), rtol=1e-10, atol=1e-10)
    assert torch.equal(forward.steps, backward.steps.flip(0))


def test_equal_runs_are_equal_bit_for_bit_and_leave_the_model_alone():
    model = tiny_model("gpt2")
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first, second = (optimize_targets(model, mixed(), 1, CONTEXTS, OPTIONS) for _ in range(2))
    assert torch.equal(first.z, second.z)
    assert torch.equal(first.loss, second.loss)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_fact_with_nan_does_not_spoil_the_others():
    """One of the facts meets NaN (its subject's token); the others keep their targets."""
    model = tiny_model("gpt2").double()
    requests = tiny_requests(4)
    clean = optimize_targets(model, requests, 1, CONTEXTS, OPTIONS)
    odd = dataclasses.replace(requests[0], subject="~")
    token = model.tokenizer("~ was").input_ids[0]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
        model.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(model.lm_head.weight))
    spoilt = optimize_targets(model, [*requests[1:], odd], 1, CONTEXTS, OPTIONS)
    assert bool(spoilt.z[:, 3].isnan().any())
    assert bool(spoilt.z[:, :3].isfinite().all())
    assert torch.allclose(spoilt.base[:, :3], clean.base[:, 1:], rtol=1e-10)


def test_a_prompt_longer_than_the_context_is_an_error_of_one_line():
    long = dataclasses.replace(tiny_requests(1)[0], prompt="word " * 200 + "{} is")
    with pytest.raises(
        ModelError, match=r"^a prompt has \d+ tokens; the model's context holds 128 \(it begins with '.+'\)$"
    ):
        optimize_targets(model_of("gpt2"), [long], 1, CONTEXTS, OPTIONS)


def cost(lengths, runs, call):
    return sum(call + max(lengths[a:b]) * (b - a) for a, b in runs)


def brute_force(lengths, call):
    n = len(lengths)
    best = float("inf")
    for size in range(n):
        for cuts in itertools.combinations(range(1, n), size):
            bounds = [0, *cuts, n]
            best = min(best, cost(lengths, list(itertools.pairwise(bounds)), call))
    return best


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(0, 80))
@settings(deadline=None, max_examples=150)
def test_partition_is_the_best_cut(lengths, call):
    lengths = sorted(lengths)
    runs = partition(lengths, call)
    assert [a for a, _ in runs] == [0, *[b for _, b in runs[:-1]]]
    assert runs[-1][1] == len(lengths)
    assert cost(lengths, runs, call) == brute_force(lengths, call)
