"""Trust: the score, the decisions, probes that no evaluation uses, and a session that keeps, scales or takes back."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_requests

from editlab.config.base import validated
from editlab.config.recipe import RECIPES, Recipe, Trust
from editlab.data import batches
from editlab.data.edited import EditedFacts, SubjectFacts
from editlab.editing import labels, trust
from editlab.editing.labels import CompositeObserver
from editlab.editing.probes import DamageProbe, GainProbe, check_disjoint, choose_probes, evaluated_prompts
from editlab.editing.session import EditSession
from editlab.editing.stress import KINDS, Stress, stressed_batches
from editlab.editing.trust import behaviour_trust, decide, distance_trust, squash, threshold_now
from editlab.errors import ConfigError
from editlab.evaluation.prompts import Surroundings
from editlab.evaluation.scoring import score_targets
from editlab.networks.architectures import Architecture

CONTEXTS = [["{}"], ["Yes. {}"]]
STREAM = tiny_requests(24)
TERMS = {
    "edit_success_gain": 3.0,
    "heldout_ppl_delta": 0.05,
    "neighbor_flip_rate": 0.0,
    "confidence_shift": -0.1,
    "preservation_distance": 0.1,
    "new_edit_distance": 0.2,
    "old_edit_distance": 2.0,
}


def options(**values: Any) -> Trust:
    return validated(Trust, values, "trust")


def recipe(**values: Any) -> Recipe:
    common = {"solver": "emmet", "layers": [0], "clamp": 2.0, "steps": 5, "second_moment_weight": 1.0}
    known = RECIPES[values.get("solver", "emmet")].model_fields
    return validated(Recipe, {k: v for k, v in common.items() if k in known} | values, "recipe")


def moments(model: Any, *layers: int) -> dict[int, torch.Tensor]:
    d_in = Architecture(model).weight_shape(0)[1]
    keys = torch.randn(4 * d_in, d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return dict.fromkeys(layers, keys.T @ keys / len(keys))


def session(model: Any, given: Recipe, **more: Any) -> EditSession:
    requests = tiny_requests(200)
    held_out = choose_probes(requests, requests[:24], 12, seed=0)
    defaults = {"probes": held_out, "statistics": moments(model, *given.layers), "contexts": CONTEXTS}
    return EditSession(model, given, **(defaults | more))


# ---- score and decision ------------------------------------------------------------------------------------------


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(1e-3, 1e3))
def test_squash_is_in_the_unit_interval_and_nan_is_the_worst(value, tau):
    assert 0.0 <= squash(value, tau) <= 1.0
    assert squash(math.nan, tau) == 1.0
    assert squash(-1.0, tau) == 0.0


def test_behaviour_trust_is_the_weighted_sum_with_normalised_weights():
    given, weights = options(), options().weights.model_dump()
    total = sum(weights.values())
    expected = weights["edit_success_gain"] * squash(3.0, 1.0)
    for name in ("heldout_ppl_delta", "neighbor_flip_rate", "confidence_shift", "preservation_distance"):
        expected += weights[name] * (1 - squash(TERMS[name], getattr(given.tau, name)))
    assert behaviour_trust(TERMS, given) == pytest.approx(expected / total)
    double = options(weights={k: 2 * v for k, v in weights.items()})
    assert behaviour_trust(TERMS, double) == pytest.approx(behaviour_trust(TERMS, given))


@given(st.sampled_from([k for k in TERMS if "edit_distance" not in k]), st.floats(0.01, 5))
def test_trust_falls_with_damage_and_rises_with_gain(name, more):
    now, worse = behaviour_trust(TERMS, options()), behaviour_trust(TERMS | {name: TERMS[name] + more}, options())
    assert worse >= now if name == "edit_success_gain" else worse <= now


def test_a_broken_model_has_no_trust():
    broken = dict.fromkeys(TERMS, math.nan)
    assert behaviour_trust(broken, options()) == 0.0
    assert distance_trust(broken, options()) == 0.0


def test_distance_trust_is_the_published_mix():
    given = options(distance_only=True, distance_weight=0.7)
    expected = 0.7 * (1 - 0.1) + 0.3 * math.exp(-0.1 / given.tau.preservation_distance)
    assert distance_trust(TERMS, given) == pytest.approx(expected)
    assert distance_trust(TERMS | {"new_edit_distance": 5.0}, given) == pytest.approx(expected - 0.7 * 0.9)


def test_decisions_are_piecewise_linear():
    given = options(threshold=0.6, low=0.2)
    found = [decide(t, 0.6, given) for t in (0.9, 0.6, 0.4, 0.2, 0.1)]
    assert [d for d, _ in found] == ["accepted", "accepted", "scaled", "rolled_back", "rolled_back"]
    assert [s for _, s in found] == pytest.approx([1, 1, 0.5, 0, 0])
    assert decide(0.59, 0.6, options(threshold=0.6, soft=False)) == ("rolled_back", 0.0)


def test_dynamic_threshold_waits_for_its_window():
    given = options(threshold=0.5, dynamic_window=3, dynamic_deviations=1.0)
    assert threshold_now([0.9, 0.9], given) == 0.5
    scores = [0.1, 0.8, 0.9, 1.0]
    assert threshold_now(scores, given) == pytest.approx(0.9 - (0.02 / 3) ** 0.5)
    assert threshold_now(scores, options(threshold=0.5)) == 0.5


# ---- probes ------------------------------------------------------------------------------------------------------


def test_chosen_probes_are_disjoint_from_the_evaluation_and_seeded():
    records = tiny_requests(200)
    stream = records[:24]
    chosen = choose_probes(records, stream, 20, seed=3)
    assert len(chosen) == 20
    check_disjoint(chosen, stream)
    assert not {r.rewrite_prompt for r in chosen} & evaluated_prompts(stream)
    assert chosen == choose_probes(records, stream, 20, seed=3) != choose_probes(records, stream, 20, seed=4)
    facts = {(r.relation_id, r.target_true) for r in stream}
    assert sum((r.relation_id, r.target_true) in facts for r in chosen) >= 10
    with pytest.raises(ConfigError, match=r"trust.heldout_samples: 500"):
        choose_probes(records, stream, 500, seed=3)


def test_overlapping_probes_are_one_line_errors():
    records = tiny_requests(60)
    neighbor = next(r for r in records[24:] if r.rewrite_prompt in evaluated_prompts(records[:24]))
    for probe in (records[3], neighbor):
        with pytest.raises(ConfigError, match="edited or evaluated") as caught:
            check_disjoint([probe], records[:24])
        assert "\n" not in str(caught.value)
    model = tiny_model()
    with session(model, recipe(trust={}), probes=[neighbor]) as run, pytest.raises(ConfigError, match="trust: probe"):
        run.step(records[:24])


def test_damage_probe_agrees_with_the_scorer():
    model, records = tiny_model(), tiny_requests(40)
    found = DamageProbe(model, records).measure(model)
    scores = score_targets(model, [(r.rewrite_prompt, r.target_true) for r in records])
    assert (-found.nll / found.tokens).tolist() == pytest.approx(scores.log_prob.tolist(), abs=1e-5)
    assert found.right.tolist() == scores.correct.tolist()
    ids = model.tokenizer(records[0].rewrite_prompt, return_tensors="pt").input_ids
    best = model(input_ids=ids).logits[0, -1].softmax(-1).max().item()
    assert found.confidence[0] == pytest.approx(best, abs=1e-5)


def test_damage_terms():
    model, records = tiny_model(), tiny_requests(12)
    probe = DamageProbe(model, records)
    before = probe.measure(model)
    before = dataclasses.replace(before, right=~before.right | True)
    worse = {"nll": before.nll * 1.1, "confidence": before.confidence + 0.2}
    after = dataclasses.replace(before, right=before.right.copy(), **worse)
    near = probe.neighbors(records[:1])
    after.right[near[0]] = False
    terms = probe.compare(before, after, records[:1])
    assert terms["neighbor_flip_rate"] == pytest.approx(1 / len(near))
    assert terms["heldout_ppl_delta"] == pytest.approx(math.expm1(0.1 * before.nll.sum() / before.tokens.sum()))
    assert terms["confidence_shift"] == pytest.approx(0.2)


def test_gain_is_asked_inside_a_context_never_by_the_bare_prompt():
    requests = tiny_requests(6)
    for contexts in (CONTEXTS, [["{}"]]):
        prompts = GainProbe(contexts).prompts(requests)
        assert not set(prompts) & evaluated_prompts(requests)
        assert all(p.endswith(r.rewrite_prompt) for p, r in zip(prompts, requests, strict=True))


def test_attribution_focus_is_a_share_and_sees_the_subject():
    model, requests = tiny_model(), tiny_requests(6)
    focus = GainProbe(CONTEXTS).focus(model, requests)
    assert 0.0 < focus < 1.0
    shorter = [dataclasses.replace(r, prompt="{} is", subject=r.subject) for r in requests]
    assert GainProbe([["{}"], ["A {}"]]).focus(model, shorter) > focus  # the subject is most of what is read


# ---- the session -------------------------------------------------------------------------------------------------


def run(given: Recipe, model: Any = None, stress: dict[int, Stress] | None = None, **more: Any) -> EditSession:
    run = session(model or tiny_model(), given, **more)
    with run:
        for i, chunk in enumerate(batches(tiny_requests(24), 8)):
            run.step(chunk, (stress or {}).get(i))
        run.final = {k: w.clone() for k, w in run.weights.items()}  # type: ignore[attr-defined]
        run.result = run.edit()  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("backend", [{}, {"backend": "lora"}])
@pytest.mark.parametrize("distance_only", [False, True])
def test_accepting_everything_changes_nothing(backend, distance_only):
    rank = 4 if backend else 0
    plain = run(recipe(**backend), rank=rank)
    guarded = run(recipe(**backend, trust={"threshold": 0.0, "low": 0.0, "distance_only": distance_only}), rank=rank)
    assert torch.equal(plain.final[0], guarded.final[0])
    for event in guarded.events:
        assert event.decision == "accepted"
        assert (event.scale, event.rollback, event.reason) == (1.0, False, "trust_high")
        assert {"new_edit_distance", "old_edit_distance", "preservation_distance"} <= event.terms.keys()
        assert ("edit_success_gain" in event.terms) is not distance_only
        json.dumps(event.record(), allow_nan=False)


@pytest.mark.parametrize("backend", [{}, {"backend": "lora"}])
@pytest.mark.parametrize("solver", ["emmet", "alphaedit"])
def test_rolling_back_is_bit_exact_and_leaves_no_trace(backend, solver):
    model = tiny_model()
    before = Architecture(model).weight(0).clone()
    own = {"l2": 1.0, "null_space_share": 0.5} if solver == "alphaedit" else {}
    given = recipe(solver=solver, **own, **backend, trust={"threshold": 1.0, "low": 1.0})
    found = run(given, model, rank=4 if backend else 0, replay=0.5)
    assert [e.decision for e in found.events] == ["rolled_back"] * 3
    assert all(e.rollback and e.scale == 0.0 for e in found.events)
    assert torch.equal(found.final[0], before)
    assert found.result.factors[0].rank == 0
    assert found.result.info["cases"] == []
    assert len(found.buffer) == 0
    assert not found.proposer.history
    assert not found.proposer.store.tensors()
    assert found.edited == []


def test_soft_scaling_puts_the_scaled_change_on():
    first = tiny_requests(24)[:8]
    whole, half = [], []
    for threshold, kept in ((0.0, whole), (1.0, half)):
        with session(tiny_model(), recipe(trust={"threshold": threshold, "low": 0.0})) as run:
            event = run.step(first)
            kept += [run.weights[0] - run.originals[0], event]
    assert half[1].decision == "scaled"
    assert 0 < half[1].scale < 1
    assert half[1].scale == pytest.approx(half[1].trust)
    torch.testing.assert_close(half[0], half[1].scale * whole[0], atol=1e-5, rtol=1e-3)


def test_an_error_inside_trust_keeps_the_edit_and_is_an_event(monkeypatch):
    plain = run(recipe())

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("probe exploded\nbadly")

    monkeypatch.setattr(trust.TrustMonitor, "judge", broken)
    guarded = run(recipe(trust={"threshold": 1.0}))
    assert torch.equal(plain.final[0], guarded.final[0])
    assert [e.decision for e in guarded.events] == ["accepted"] * 3
    assert all(e.trust_error == "RuntimeError: probe exploded" for e in guarded.events)
    monkeypatch.setattr(trust.TrustMonitor, "before", broken)
    assert torch.equal(run(recipe(trust={})).final[0], plain.final[0])


def test_base_side_scores_are_cached_and_stay_true(monkeypatch):
    calls = []
    original = DamageProbe.measure
    monkeypatch.setattr(DamageProbe, "measure", lambda self, model: calls.append(1) or original(self, model))
    found = run(recipe(trust={"threshold": 0.0, "low": 0.0}))
    assert len(calls) == 1 + 3  # once at the start, then after each batch
    monitor = found.guard.monitor
    weights = Architecture(found.model).weight(0)
    with torch.no_grad():
        weights.copy_(found.final[0])
    assert monitor.damage_now.nll.tolist() == original(monitor.damage, found.model).nll.tolist()


def test_per_fact_leaves_distrusted_facts_out():
    thresholds = {"threshold": 0.0, "low": 0.0, "per_fact": True}
    everyone = run(recipe(trust=thresholds))
    scores = sorted(_scores(everyone))
    low = (scores[3] + scores[4]) / 2
    found = run(recipe(trust=thresholds | {"low": low, "threshold": low}))
    assert len(found.events[0].left_out) == 4
    assert len(found.edited) < 24
    assert not set(found.events[0].left_out) & {r.case_id for r in found.edited}


def _scores(found: EditSession) -> list[float]:
    """Scores of the single facts of the first batch."""
    with session(tiny_model(), found.recipe) as again:
        judged = []
        guard = again.guard
        original = guard._judge
        guard._judge = lambda proposal, event: judged.append(original(proposal, event)) or judged[-1]  # type: ignore
        again.step(tiny_requests(24)[:8])
    return judged[0].per_fact


def test_attribution_is_measured_only_when_it_weighs():
    weights = {"attribution_focus_delta": 0.2}
    assert "attribution_focus_delta" in run(recipe(trust={"weights": weights})).events[0].terms
    assert "attribution_focus_delta" not in run(recipe(trust={})).events[0].terms


def test_behaviour_needs_probes_and_distances_do_not():
    model = tiny_model()
    with pytest.raises(ConfigError, match="give probes, or distance_only"):
        session(model, recipe(trust={}), probes=[])
    events = run(recipe(trust={"distance_only": True}), probes=[]).events
    assert all(e.terms["preservation_distance"] > 0 for e in events)


# ---- stress and labels -------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=40)
def test_stressed_batches_are_seeded_spare_the_first_and_take_turns(count, fraction, seed):
    found = stressed_batches(count, fraction, seed)
    assert len(found) == min(round(fraction * count), count - 1)
    assert 0 not in found
    assert found == stressed_batches(count, fraction, seed)
    kinds = [s.kind for s in found.values()]
    assert max(map(kinds.count, KINDS)) - min(map(kinds.count, KINDS)) <= 1


def test_contradicted_batches_ask_two_objects_of_each_subject():
    batch = tiny_requests(9)
    found = Stress("contradiction").requests(batch)
    assert found[:4] == batch[:4]
    for one, other in zip(found[:4], found[4:], strict=True):
        assert one.key == other.key
        assert one.target_new != other.target_new
    assert Stress("clamp").requests(batch) == batch


@pytest.mark.parametrize("kind", ["clamp", "corruption"])
def test_harmful_targets_are_larger_and_lower_trust(kind):
    harmless = run(recipe(trust={"threshold": 0.0, "low": 0.0}))
    harmful = run(recipe(trust={"threshold": 0.0, "low": 0.0}), stress={2: Stress(kind, 7)})
    assert harmful.events[2].stress == kind
    assert harmful.events[2].targets.norm_mean > 1.5 * harmless.events[2].targets.norm_mean
    moved = [e.events[2].terms["preservation_distance"] for e in (harmless, harmful)]
    assert moved[1] > moved[0]
    assert harmful.events[1].terms == harmless.events[1].terms


def test_labels_compare_the_model_with_and_without_the_batch():
    model = tiny_model()
    around = Surroundings(EditedFacts(STREAM[:2]), SubjectFacts(tiny_requests(429)), 2)
    observer = CompositeObserver(model, 6, 0, around)
    found = run(recipe(trust={"threshold": 1.0, "low": 1.0}), model, observer=observer)
    plain = run(recipe(trust={"threshold": 1.0, "low": 1.0}), tiny_model())
    assert torch.equal(found.final[0], plain.final[0])  # looking changes nothing
    for event in found.events:
        assert {"new", "neighbors", "same_subject", "composite"} <= event.applied.keys()
    assert "earlier" not in found.events[0].applied


def test_a_label_counts_exact_answers_of_what_was_asked_for(monkeypatch):
    """Success would call a batch good that makes its new objects likelier than the old ones and right nowhere."""
    rows = [("1", "rewrite", 1.0, 0.0), ("1", "paraphrase", 1.0, 0.0), ("1", "neighborhood", 1.0, 0.5)]
    rows += [("1", "edited_neighborhood", 1.0, 1.0), ("1", "same_subject", 1.0, 0.25)]
    frame = pd.DataFrame(rows, columns=["case_id", "probe", "success", "accuracy"])
    seen = []
    monkeypatch.setattr(labels, "score_requests", lambda model, requests, *a, **k: seen.append(requests) or frame)
    found = CompositeObserver(None, 6, 0, Surroundings())(STREAM[:2], STREAM[2:3])
    assert found == {"new": 0.0, "earlier": 0.0, "neighbors": 0.5, "same_subject": 0.25, "composite": 0.1875}
    assert seen == [STREAM[:2], STREAM[2:3]]


def test_the_label_of_a_contradicted_batch_asks_for_what_the_data_set_wants():
    asked = []
    run(
        recipe(trust={"threshold": 0.0, "low": 0.0}),
        stress={1: Stress("contradiction")},
        observer=lambda requests, earlier: asked.append([r.case_id for r in requests]) or {"composite": 0.0},
    )
    assert not any("contradicted" in case for cases in asked for case in cases)
