"""``editlab.edit`` and the session: the published numbers, invariants for every solver, replay, rejection."""

from __future__ import annotations

import functools
import gc
import json
import math

import pytest
import reference
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

import editlab
from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Solution
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.config.solvers import SOLVERS
from editlab.data import batches
from editlab.editing import proposer
from editlab.editing.events import Event
from editlab.editing.keys import compute_keys, compute_values
from editlab.editing.session import EditSession
from editlab.edits.edit import Edit
from editlab.errors import ConfigError, EditlabError, NumericalError
from editlab.evaluation.scoring import score_requests
from editlab.networks.architectures import Architecture

CONTEXTS = [["{}"], ["Yes. {}", "I think that {}"]]
TARGETS = {"steps": 4, "lr": 0.5, "clamp": 2.0, "weight_decay": 0.5, "kl_factor": 0.0625}
SIZE = 64  # d_in of the tiny models
MOMENTS = {layer: reference.moment(SIZE, seed=layer) for layer in range(3)}
PUBLISHED = {  # hyper-parameters of the library, solver of the reference and its own hyper-parameters
    "memit": ({"second_moment_weight": 5.0}, reference.memit, {"weight": 5.0}),
    "emmet": ({"second_moment_weight": 3.0, "ridge": 0.1}, reference.emmet, {"weight": 3.0, "gamma": 0.1}),
    "alphaedit": ({"null_space_threshold": 0.12, "l2": 2.0}, reference.alphaedit, {"threshold": 0.12, "l2": 2.0}),
    "evoedit": ({"null_space_threshold": 0.12, "l2": 2.0}, reference.evoedit, {"threshold": 0.12, "l2": 2.0}),
    "encore": (
        {"second_moment_weight": 5.0, "update_norm_weight": 2.0},
        reference.encore,
        {"weight": 5.0, "norm": 2.0},
    ),
    "rect": ({"second_moment_weight": 5.0, "keep_share": 0.4}, reference.rect, {"weight": 5.0, "share": 0.4}),
    "prune": ({"second_moment_weight": 5.0}, reference.prune, {"weight": 5.0}),
    "nse": (
        {"second_moment_weight": 5.0, "neuron_share": 0.8, "max_iterations": 1, "alpha": 0.0},
        reference.nse,
        {"weight": 5.0, "share": 0.8},
    ),
}
CLOSED = [name for name, t in SOLVERS.items() if not t.gradient and t.edits and t.max_batch is None]
# Hyper-parameters under which every solver moves a tiny model.
SMALL = {
    "memit": {"second_moment_weight": 5.0},
    "rect": {"second_moment_weight": 5.0},
    "prune": {"second_moment_weight": 5.0},
    "prune_published": {"second_moment_weight": 5.0},
    "random": {"second_moment_weight": 5.0},
    "encore": {"second_moment_weight": 5.0},
    "nse": {"second_moment_weight": 5.0},
    "alphaedit": {"null_space_threshold": 0.12, "l2": 2.0},
    "evoedit": {"null_space_threshold": 0.12, "l2": 2.0},
    "ft": {"steps": 4, "lr": 0.02},
    "ft_epochs": {"epochs": 4, "lr": 0.02, "energy": 0.0},
    "ultra": {"second_moment_weight": 5.0, "lr": 1e-2},
}


@functools.cache
def shared_model(family: str, dtype: torch.dtype = torch.float64):
    """A model that every test gives back as it was (that is what is tested)."""
    return tiny_model(family).to(dtype)


def hyper(method: str) -> dict:
    targets = TARGETS if SOLVERS[method].targets else {}
    return {**targets, **SMALL.get(method, {})}


def edit(model, requests, method: str = "memit", layers=(1,), **given) -> Edit:
    options = {"statistics": MOMENTS, "contexts": CONTEXTS, **hyper(method), **given}
    return editlab.edit(model, requests, method=method, layers=list(layers), **options)


def session(model, method: str = "memit", layers=(1,), *, replay: float = 0.0, seed: int = 0, **given) -> EditSession:
    recipe = validated(Recipe, {"solver": method, "layers": list(layers), **hyper(method), **given}, "recipe")
    return EditSession(model, recipe, statistics=MOMENTS, contexts=CONTEXTS, replay=replay, seed=seed)


def bits(model) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone().view(torch.uint8) for k, v in model.state_dict().items()}


def unchanged(model, before) -> bool:
    now = bits(model)
    return all(torch.equal(now[k], before[k]) for k in before)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert float(expected.norm()) > 0
    assert float((found - expected).norm() / expected.norm()) < tolerance


# ---- the published algorithms, number for number -------------------------------------------------------------------


def compare(family, method, layers, *, size=2, count=6, given=(), **extra):
    model, requests = shared_model(family), tiny_requests(count)
    options, solver, own = PUBLISHED[method]
    found = edit(model, requests, method, layers, batch=size, **options, **dict(given))
    targets = {**TARGETS, "most_probable": method == "encore"}
    expected = reference.edit_sequence(
        model, list(batches(requests, size)), list(layers), MOMENTS, CONTEXTS, solver, hyper=own, **extra, **targets
    )
    for layer in layers:
        assert found.delta(layer).shape == (32, SIZE)
        close(found.delta(layer), expected[layer])


@pytest.mark.parametrize("family", FAMILIES)
def test_memit_in_every_family(family):
    compare(family, "memit", [1], size=3, count=3)


@pytest.mark.parametrize("layers", [[1], [0, 1]], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("method", PUBLISHED)
def test_batch_after_batch_as_published(method, family, layers):
    """Several batches on the edited model (AlphaEdit's cache: keys anew after the batch); with two layers the residual
    is spread, the lower one first."""
    compare(family, method, layers, count=4, **({"rewind": True} if method == "nse" else {}))


def test_nse_without_rewinding_takes_its_targets_from_the_edited_model():
    compare("gpt2", "nse", [1], count=6, given={"rewind": False}, rewind=False)
    rewound, plain = (edit(shared_model("gpt2"), tiny_requests(6), "nse", batch=2, rewind=r) for r in (True, False))
    assert not torch.allclose(rewound.delta(1), plain.delta(1))


def test_nse_gives_up_facts_that_are_farther_off_than_its_upper_bound():
    model, requests = shared_model("gpt2"), tiny_requests(4)
    options, solver, own = PUBLISHED["nse"]
    found = session(model, "nse", **options)
    with found:
        targets = found.proposer.targets(requests)
        gaps = (targets.z - compute_values(model, requests, 1)).norm(dim=0).sort().values
    bound = float(gaps[1:3].mean())  # two facts are nearer, two farther
    limited = edit(model, requests, "nse", **{**options, "upper_bound": bound})
    expected = reference.edit_sequence(
        model, [requests], [1], MOMENTS, CONTEXTS, solver, hyper=own, rewind=True, passes=(1, 0.0, bound), **TARGETS
    )
    close(limited.delta(1), expected[1])
    assert not torch.allclose(limited.delta(1), edit(model, requests, "nse", **options).delta(1))
    with pytest.raises(ConfigError, match=r"upper_bound: 0\.05 is not allowed; more than alpha \(0\.1\)"):
        edit(model, requests, "nse", alpha=0.1, upper_bound=0.05)


def test_replay_by_priority_knows_the_margins_after_the_commit():
    model, requests = shared_model("gpt2"), tiny_requests(6)
    found = session(model, replay=0.5, replay_strategy="priority")
    with found:
        found.step(requests[:3])
        scores = score_requests(model, requests[:3], ("rewrite",))
        strengths = [item.strength for item in found.buffer.items.values()]
    assert strengths == pytest.approx((scores["log_prob_new"] - scores["log_prob_true"]).tolist(), abs=1e-9)
    by_loss = session(model, replay=0.5, replay_strategy="target_loss")
    with by_loss:
        event = by_loss.step(requests[:3])
        losses = [-item.strength for item in by_loss.buffer.items.values()]
    assert sum(losses) / 3 == pytest.approx(event.targets.loss_mean)


def test_nse_solves_again_for_the_facts_that_are_still_off():
    model, requests = shared_model("gpt2"), tiny_requests(4)
    base = compute_values(model, requests, 1).norm(dim=0).mean()
    alpha = 0.4 * float(base)
    options, solver, own = PUBLISHED["nse"]
    found = edit(model, requests, "nse", **{**options, "max_iterations": 3, "alpha": alpha})
    expected = reference.edit_sequence(
        model, [requests], [1], MOMENTS, CONTEXTS, solver, hyper=own, rewind=True, passes=(3, alpha), **TARGETS
    )
    close(found.delta(1), expected[1])
    once = edit(model, requests, "nse", **{**options, "alpha": alpha})
    assert not torch.allclose(found.delta(1), once.delta(1))
    assert edit(model, requests, "nse", **{**options, "alpha": 1e9}).norm() == 0.0


@pytest.mark.parametrize("statistics", [MOMENTS, None], ids=["C", "identity"])
@pytest.mark.parametrize("method", ["rome", "r_rome"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rome_one_fact_after_another_on_the_edited_model(family, method, statistics):
    model, requests = shared_model(family), tiny_requests(3)
    found = edit(model, requests, method, statistics=statistics)
    weight = Architecture(model).weight(1)
    original, total = weight.clone(), torch.zeros(32, SIZE).double()
    moment = None if statistics is None else MOMENTS[1]
    for request in requests:
        update = getattr(reference, method)(model, request, 1, moment, CONTEXTS, **TARGETS)
        weight.copy_(weight + update)
        total += update
    weight.copy_(original)
    close(found.delta(1), total)


def test_prune_published_restrains_the_total_once_at_the_end():
    model, requests = shared_model("gpt2"), tiny_requests(4)
    strong = {"second_moment_weight": 0.01, "clamp": 30.0, "lr": 5.0}
    memit = edit(model, requests, "memit", batch=2, **strong)
    found = edit(model, requests, "prune_published", batch=2, **strong)
    original = Architecture(model).weight(1).double()
    extra = reference.prune_published(original + memit.delta(1), original)
    assert float(torch.linalg.svdvals(memit.delta(1))[0]) > float(torch.linalg.svdvals(original)[0])
    close(found.delta(1), memit.delta(1) + extra)


@pytest.mark.parametrize("radius", [None, 0.01])
@pytest.mark.parametrize("layers", [[1], [0, 2]], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_constrained_fine_tuning(family, layers, radius):
    model, requests = shared_model(family), tiny_requests(3)
    found = edit(model, requests, "ft", layers, norm_constraint=radius)
    expected = reference.fine_tune(model, requests, layers, steps=TARGETS["steps"], lr=0.02, radius=radius)
    for layer in layers:
        close(found.delta(layer), expected[layer])
        if radius is not None:
            assert float(found.delta(layer).abs().max()) == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_replayed_facts_are_further_columns(weight):
    """Keys and residuals anew on the edited model, stored targets, root of the weight on the columns."""
    model, requests = shared_model("gpt2"), tiny_requests(6)
    with session(model, replay=2.0, replay_weight=weight, second_moment_weight=5.0) as live:
        for batch in batches(requests, 2):
            live.step(batch)
        assert [e.replayed for e in live.events] == [0, 2, 4]
        found = live.edit()
    solver, own = PUBLISHED["memit"][1:]
    expected = reference.edit_sequence(
        model, list(batches(requests, 2)), [1], MOMENTS, CONTEXTS, solver, hyper=own, memory=weight, **TARGETS
    )
    close(found.delta(1), expected[1])


def test_the_edit_does_what_it_is_for():
    """EMMET with a small ridge: the layer puts out the targets, and the new objects become more likely."""
    model, requests = shared_model("gpt2"), tiny_requests(3)
    found = edit(model, requests, "emmet", ridge=1e-8, contexts=[["{}"]], steps=12)
    before = editlab.evaluate(model, requests)
    with found.applied(model):
        after = editlab.evaluate(model, requests)
        keys = compute_keys(model, requests, 1)
    assert found.delta(1).matmul(keys).norm() > 0
    rewrite = [frame[frame["metric"] == "ES"] for frame in (before, after)]
    magnitude = [f[f["protocol"] == "magnitude"]["value"].item() for f in rewrite]
    assert magnitude[1] > magnitude[0]


# ---- every registered solver ---------------------------------------------------------------------------------------

ON_WEIGHTS = [name for name, t in SOLVERS.items() if not t.reads]
BATTERY = [(method, family) for family in ("gpt2", "llama") for method in ON_WEIGHTS]


@functools.cache
def made(method: str, family: str) -> Edit:
    model = shared_model(family, torch.float32)
    before = bits(model)
    found = edit(model, tiny_requests(3), method)
    assert unchanged(model, before), "edit() must give the model back bit for bit"
    return found


@pytest.mark.parametrize(("method", "family"), BATTERY)
class TestEverySolver:
    def test_the_model_comes_back_and_the_edit_has_the_shape_of_the_map(self, method, family):
        found = made(method, family)
        assert found.layers == [1]
        assert found.delta(1).shape == (32, SIZE)
        assert found.delta(1).dtype == torch.float64
        assert found.norm() == pytest.approx(float(found.delta(1).norm()), rel=1e-9)
        assert (found.norm() > 0) == SOLVERS[method].edits
        assert found.info["method"] == method
        assert found.info["cases"] == ["0", "1", "2"]
        json.dumps(dict(found.info))
        assert all(p.requires_grad for p in tiny_model(family).parameters())

    def test_equal_runs_are_equal_bit_for_bit(self, method, family):
        again = edit(shared_model(family, torch.float32), tiny_requests(3), method)
        assert torch.equal(again.delta(1), made(method, family).delta(1))

    def test_applied_restores_also_on_exceptions_and_nested(self, method, family):
        model, found = shared_model(family, torch.float32), made(method, family)
        before = bits(model)
        original = Architecture(model).weight(1).clone()
        with found.applied(model) as edited:
            assert edited is model
            once = bits(model)
            expected = (original.double() + found.delta(1)).float()
            assert torch.equal(Architecture(model).weight(1), expected)
            with found.applied(model):
                assert unchanged(model, once) != SOLVERS[method].edits
            assert unchanged(model, once)
        assert unchanged(model, before)
        with pytest.raises(ZeroDivisionError), found.applied(model):
            raise ZeroDivisionError
        assert unchanged(model, before)

    def test_saved_and_loaded_it_is_the_same(self, method, family, tmp_path):
        found = made(method, family)
        found.save(tmp_path / "edit.safetensors")
        loaded = Edit.load(tmp_path / "edit.safetensors")
        assert torch.equal(loaded.delta(1), found.delta(1))
        assert dict(loaded.info) == json.loads(json.dumps(dict(found.info)))

    def test_sum_inverse_and_scale(self, method, family):
        found = made(method, family)
        assert float((found + found.inverse()).delta(1).norm()) <= 1e-12 * found.norm()
        both = found + found.scaled(0.5)
        assert torch.allclose(both.delta(1), 1.5 * found.delta(1), rtol=1e-9, atol=1e-12)

    def test_nan_in_the_weights_is_one_line_and_the_model_is_left_alone(self, method, family):
        model = tiny_model(family)
        with torch.no_grad():
            Architecture(model).weight(1)[0, 0] = float("nan")
        before = bits(model)
        if SOLVERS[method].edits:
            with pytest.raises(NumericalError, match=r"^edit rejected in batch 0: [^\n]+$"):
                edit(model, tiny_requests(3), method)
        else:
            assert edit(model, tiny_requests(3), method).norm() == 0.0
        assert unchanged(model, before)

    def test_nan_in_the_statistics_is_one_line_and_the_model_is_left_alone(self, method, family):
        model = shared_model(family, torch.float32)
        before = bits(model)
        if SOLVERS[method].moment or method.endswith(("rome", "ultra")):
            with pytest.raises(EditlabError, match=r"^[^\n]+NaN[^\n]*$"):
                edit(model, tiny_requests(3), method, statistics={1: MOMENTS[1] * math.nan})
        else:
            edit(model, tiny_requests(3), method, statistics={1: MOMENTS[1] * math.nan})
        assert unchanged(model, before)


@pytest.mark.parametrize("method", [*CLOSED, "ft"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_order_of_the_facts_changes_nothing(method, family):
    model, requests = shared_model(family), tiny_requests(4)
    forward = edit(model, requests, method).delta(1)
    backward = edit(model, requests[::-1], method).delta(1)
    close(backward, forward, 1e-8)


@pytest.mark.parametrize("method", [m for m, t in SOLVERS.items() if t.replay])
def test_replay_of_weight_zero_is_no_replay(method):
    model, requests = shared_model("gpt2"), tiny_requests(4)
    found = []
    for options in ({"replay": 0.0}, {"replay": 1.0, "replay_weight": 0.0}):
        with session(model, method, **options) as live:
            for batch in batches(requests, 2):
                live.step(batch)
            live.finish()
            found.append(live.edit().delta(1))
    close(found[1], found[0], 1e-9)


@pytest.mark.parametrize("method", ON_WEIGHTS)
def test_several_layers(method):
    model = shared_model("gpt2")
    before = bits(model)
    if SOLVERS[method].site == "mlp":
        with pytest.raises(ConfigError, match="exactly one layer"):
            edit(model, tiny_requests(2), method, [0, 1])
        return
    found = edit(model, tiny_requests(2), method, [2, 0])
    assert found.layers == [0, 2]
    assert unchanged(model, before)
    assert all((float(found.delta(k).norm()) > 0) == SOLVERS[method].edits for k in (0, 2))


def test_the_random_control_has_the_norm_of_memit_and_follows_the_seed():
    model, requests = shared_model("gpt2"), tiny_requests(3)
    one, other = (edit(model, requests, "random", seed=seed) for seed in (0, 1))
    assert one.norm() == pytest.approx(edit(model, requests, "memit").norm(), rel=1e-9)
    assert not torch.allclose(one.delta(1), other.delta(1))
    assert torch.equal(edit(model, requests, "random", seed=1).delta(1), other.delta(1))


@pytest.mark.parametrize("bad", ["steps", "layers", "batch", "replay", "method"])
def test_what_edit_refuses(bad):
    """Unknown or impossible arguments: one line with key, value and what is allowed."""
    model, requests = shared_model("gpt2"), tiny_requests(2)
    cases = {
        "steps": [
            ({"stepz": 3}, "did you mean 'steps'"),
            ({"steps": 0}, "steps: 0"),
            ({"steps": True}, "steps: True"),
            ({"lr": math.nan}, "lr: nan"),
            ({"clamp": "wide"}, "clamp: 'wide'"),
            ({"condition_limit": 0.5}, "condition_limit: 0.5"),
        ],
        "layers": [
            ({"layers": None}, "layers: required; give one or more of 0..2"),
            ({"layers": [7]}, "0..2"),
            ({"layers": []}, "at least one"),
            ({"layers": [1, 1]}, "distinct"),
            ({"layers": 1}, "layers: 1"),
            ({"layers": "auto"}, "layers: 'auto'"),
            ({"layers": [1.5]}, "1.5"),
        ],
        "batch": [
            ({"batch": 0}, "batch: 0 is not allowed"),
            ({"batch": -1}, "batch: -1 is not allowed"),
            ({"batch": True}, "batch: True"),
            ({"batch": 1.5}, "batch: 1.5"),
            ({"method": "rome", "batch": 2}, "batch: rome edits 1 fact at a time, got 2"),
            ({"requests": []}, "requests: none given"),
        ],
        "replay": [
            ({"replay": -0.1}, "replay: -0.1"),
            ({"replay": math.nan}, "replay: nan"),
            ({"replay": math.inf}, "replay: inf"),
            ({"method": "rome", "replay": 0.5}, "replay: rome cannot"),
            ({"method": "random", "replay": 0.5}, "replay: random cannot"),
        ],
        "method": [
            ({"method": "mend"}, "method: 'mend' is not allowed; one of rome"),
            ({"statistics": None}, "layer 1"),
            ({"statistics": {}}, "layer 1"),
            ({"statistics": {0: MOMENTS[0]}}, "layer 1"),
            ({"statistics": {1: torch.eye(5)}}, "size 5; the model needs 64"),
            ({"contexts": [["no place"]]}, "contexts: template 'no place'"),
        ],
    }
    before = bits(model)
    for change, part in cases[bad]:
        given = {"requests": requests, "method": "memit", "layers": [1], "statistics": MOMENTS, **change}
        given |= {k: v for k, v in TARGETS.items() if k not in change}
        with pytest.raises(EditlabError) as caught:
            editlab.edit(model, given.pop("requests"), **given)
        assert part in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
    assert unchanged(model, before)


# ---- the session ---------------------------------------------------------------------------------------------------


def run(model, requests, size, **options) -> tuple[EditSession, Edit]:
    with session(model, **options) as live:
        for batch in batches(requests, size):
            live.step(batch)
        live.finish()
        return live, live.edit()


def test_a_session_is_the_one_call_form_and_its_sum_is_on_the_model():
    model, requests = shared_model("gpt2"), tiny_requests(5)
    before = bits(model)
    original = Architecture(model).weight(1).clone()
    with session(model) as live:
        for batch in batches(requests, 2):
            event = live.step(batch)
            assert event.decision == "accepted"
        now = Architecture(model).weight(1).clone()
        found = live.edit()
    assert unchanged(model, before)
    close(now - original, found.delta(1), 1e-9)
    assert torch.equal(found.delta(1), edit(model, requests, batch=2).delta(1))
    assert found.info["cases"] == [r.case_id for r in requests]


def test_events_are_json_and_tell_what_happened():
    model, requests = shared_model("gpt2"), tiny_requests(5)
    for method in ON_WEIGHTS:
        size = SOLVERS[method].min_batch
        live, _ = run(model, requests[: 2 * size], size, method=method)
        text = json.dumps([e.record() for e in live.events], allow_nan=False)
        assert "\n" not in text
        for i, event in enumerate(live.events):
            assert event.batch == i
            assert event.cases == [r.case_id for r in requests[i * size : (i + 1) * size]]
            assert set(event.weight_norm) == {"1"}
            if SOLVERS[method].edits:
                assert event.layers["1"].update_norm > 0
            if SOLVERS[method].targets:
                assert event.targets.steps_mean <= TARGETS["steps"] - 1
            if SOLVERS[method].edits and not SOLVERS[method].gradient:
                assert {"residual", "condition", "rank", "form", "ridge_raised"} <= event.layers["1"].model_fields_set


def test_a_session_must_be_entered():
    model = shared_model("gpt2")
    before = bits(model)
    live = session(model)
    with pytest.raises(RuntimeError, match="with block"):
        live.step(tiny_requests(1))
    with live:
        live.step(tiny_requests(1))
    with pytest.raises(RuntimeError, match="with block"):
        live.step(tiny_requests(1))
    assert unchanged(model, before)


def test_an_exception_inside_a_session_restores_the_model():
    model = shared_model("gpt2")
    before = bits(model)

    def interrupted() -> None:
        with session(model) as live:
            live.step(tiny_requests(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert unchanged(model, before)


def failing(monkeypatch, when, error: BaseException | None = None) -> list[int]:
    """Let MEMIT's algebra fail when ``when(problem, number of the call)``."""
    calls: list[int] = []
    plain = proposer.solve

    def solve(problem, options):
        calls.append(problem.facts)
        if when(problem, len(calls)):
            raise error or NumericalError("memit system: condition number 1e99 above 1e12")
        return plain(problem, options)

    monkeypatch.setattr(proposer, "solve", solve)
    return calls


def test_a_rejected_batch_leaves_no_trace(monkeypatch):
    """The upper of two layers fails after the lower one was edited: both are back, and so is everything remembered."""
    model, requests = shared_model("gpt2"), tiny_requests(6)
    failing(monkeypatch, lambda _p, call: call in (4, 6))  # second batch, second layer: with replay, then without
    with session(model, layers=[0, 1], replay=1.0) as live:
        live.step(requests[:2])
        before, edit_before, memory = bits(model), live.edit(), set(live.buffer.items)
        event = live.step(requests[2:4])
        assert event.decision == "rejected"
        assert "condition number" in event.reason
        assert unchanged(model, before)
        assert torch.equal(live.edit().delta(0), edit_before.delta(0))
        assert set(live.buffer.items) == memory
        assert live.edit().info["cases"] == ["0", "1"]
        assert live.step(requests[4:]).decision == "accepted"  # the stream goes on
        json.dumps([e.record() for e in live.events], allow_nan=False)
        found = live.edit()
    monkeypatch.undo()
    with session(model, layers=[0, 1], replay=1.0) as live:  # as if the batch had never been there
        live.step(requests[:2])
        live.events.append(Event(batch=0, decision="rejected"))
        live.step(requests[4:])
        close(found.delta(0), live.edit().delta(0), 1e-12)


def test_edit_raises_when_a_batch_is_rejected(monkeypatch):
    model = shared_model("gpt2")
    before = bits(model)
    failing(monkeypatch, lambda _p, call: call == 2)
    with pytest.raises(NumericalError, match=r"^edit rejected in batch 1: memit system"):
        edit(model, tiny_requests(4), batch=2)
    assert unchanged(model, before)


def test_an_error_that_is_no_numerical_one_takes_the_batch_back_and_goes_on_up(monkeypatch):
    model, requests = shared_model("gpt2"), tiny_requests(4)
    failing(monkeypatch, lambda _p, call: call == 4, KeyboardInterrupt())  # second batch, second layer
    with session(model, layers=[0, 1]) as live:
        live.step(requests[:2])
        before, edit_before = bits(model), live.edit()
        with pytest.raises(KeyboardInterrupt):
            live.step(requests[2:])
        assert unchanged(model, before)
        assert torch.equal(live.edit().delta(0), edit_before.delta(0))
        assert len(live.events) == 1


def test_an_update_that_overflows_the_type_of_the_model_is_rejected(monkeypatch):
    model = tiny_model("gpt2")
    before = bits(model)
    plain = proposer.solve
    monkeypatch.setattr(proposer, "solve", lambda p, o: Solution(plain(p, o).factors.scaled(1e60)))
    with session(model) as live:
        event = live.step(tiny_requests(2))
        assert event.decision == "rejected"
        assert "infinite values in torch.float32" in event.reason
        assert unchanged(model, before)
        assert live.edit().norm() == 0.0


def test_a_solve_that_fails_with_replay_is_done_without(monkeypatch):
    """Also when the lower layer has been edited with the replayed facts already: it is taken back first."""
    model, requests = shared_model("gpt2"), tiny_requests(4)
    calls = failing(monkeypatch, lambda _p, call: call == 4)  # second batch, second layer
    with session(model, layers=[0, 1], replay=1.0) as live:
        live.step(requests[:2])
        event = live.step(requests[2:])
        assert calls == [2, 2, 4, 4, 2, 2]
        assert event.decision == "accepted"
        assert event.replayed == 0
        assert "condition number" in event.replay_dropped
        found = live.edit()
    monkeypatch.undo()
    expected = edit(model, requests, layers=[0, 1], batch=2)
    for layer in (0, 1):
        close(found.delta(layer), expected.delta(layer), 1e-12)


def test_an_ill_conditioned_solve_raises_the_ridge_and_says_so():
    model, requests = shared_model("gpt2"), [*tiny_requests(2), *tiny_requests(2)]  # every key twice
    live, _ = run(model, requests, 4, method="emmet", ridge=0.0, condition_limit=1e6)
    assert live.events[0].decision == "accepted"
    assert len(live.events[0].layers["1"].ridge_raised) > 0


def test_replay_takes_ceil_of_the_rate_and_never_facts_of_the_batch():
    model, requests = shared_model("gpt2"), tiny_requests(8)
    live, _ = run(model, requests, 2, replay=0.3, steps=1)
    assert [e.replayed for e in live.events] == [0, 1, 1, 1]
    with session(model, replay=5.0, steps=1) as live:
        live.step(requests[:2])
        assert live.step(requests[:2]).replayed == 0  # the same facts again
        assert live.step(requests[1:3]).replayed == 1
        assert len(live.buffer) == 3
    with session(model, replay=0.0, steps=1) as live:
        live.step(requests[:2])
        assert len(live.buffer) == 0


def test_recomputed_targets_differ_from_stored_ones():
    model, requests = shared_model("gpt2"), tiny_requests(4)
    stored, recomputed = (
        run(model, requests, 2, replay=1.0, replay_targets=kind)[1].delta(1) for kind in ("stored", "recomputed")
    )
    assert not torch.allclose(stored, recomputed)


def test_norm_anchor_gives_every_target_the_unedited_norm():
    model, requests = shared_model("gpt2"), tiny_requests(4)
    clean = compute_values(model, requests, 1).norm(dim=0)
    with session(model, norm_anchor=True, replay=1.0) as live:
        for batch in batches(requests, 2):
            live.step(batch)
        stored = torch.stack([item.target for item in live.buffer.items.values()], 1)
    assert torch.allclose(stored.norm(dim=0), clean, rtol=1e-12)
    assert not torch.allclose(run(model, requests, 2)[1].delta(1), live.edit().delta(1))


def test_rewind_makes_targets_independent_of_the_stream():
    model, requests = shared_model("gpt2"), tiny_requests(4)

    def last_target(order, **options):
        with session(model, replay=1.0, **options) as live:
            for request in order:
                live.step([request])
            return live.buffer.items[requests[3].key].target

    stream, alone = ([*requests[:3], requests[3]], [requests[3]])
    assert torch.equal(last_target(stream, rewind=True), last_target(alone, rewind=True))
    assert not torch.equal(last_target(stream), last_target(alone))


def living_tensors() -> tuple[int, int]:
    """Number and elements of the tensors that are alive."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    return len(tensors), sum(t.numel() for t in tensors)


@pytest.mark.slow
def test_memory_is_flat_along_a_stream():
    """Earlier keys are kept until they are half as many as inputs, then folded: what is alive goes up and down, no further."""
    model, requests = shared_model("gpt2"), tiny_requests(132)
    sizes = []
    with session(model, "alphaedit", replay=1.0, replay_capacity=4, steps=2) as live:
        period = (
            live.weights[1].shape[0] // 4
        )  # batches of two until keys are folded (the map is transposed: inputs first)
        for batch in batches(requests, 2):
            live.step(batch)
            sizes.append(living_tensors())
        assert len(live.buffer) == 4
        assert live.edit().factors[1].rank <= 32
    late, before = sizes[-period - 1 :], sizes[-2 * period - 2 : -period - 1]  # from rank 32 on the sum is one matrix
    assert len(before) == len(late) > period
    assert max(n for n, _ in late) <= max(n for n, _ in before)
    assert max(elements for _, elements in late) <= max(elements for _, elements in before)


def test_a_float16_model_is_edited_in_float64_and_rounded_once():
    model = tiny_model("gpt2").to(torch.bfloat16)
    before = bits(model)
    found = edit(model, tiny_requests(2))
    assert found.delta(1).dtype == torch.float64
    assert found.norm() > 0
    assert unchanged(model, before)
    with found.applied(model):
        weight = Architecture(model).weight(1)
        assert weight.dtype == torch.bfloat16
    assert unchanged(model, before)


def test_factors_of_rank_zero_change_nothing():
    model = shared_model("gpt2")
    before = bits(model)
    with Edit({1: Factors.zeros(32, SIZE)}).applied(model):
        assert unchanged(model, before)


def test_a_bar_is_shown_when_asked_for(capsys):
    model = shared_model("gpt2")
    edit(model, tiny_requests(2), batch=1)
    assert capsys.readouterr().err == ""
    edit(model, tiny_requests(2), batch=1, progress=True)
    assert "2/2" in capsys.readouterr().err
