"""Greedy low-rank steps: the loop on a toy, then the session, where one step is the plain LoRA-native edit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_trust import recipe, run
from tiny import tiny_model

from editlab.config.base import validated
from editlab.config.recipe import Greedy
from editlab.editing.events import GreedyStep
from editlab.editing.greedy import Score, judge_step, run_steps, scales
from editlab.networks.architectures import Architecture


def options(**values: Any) -> Greedy:
    return validated(Greedy, values, "greedy")


class Toy:
    """Moves along a line; goodness is -|1 - x|, trust falls once x is above ``limit``."""

    def __init__(self, limit: float = 9.0, ranks: int = 0, gain: float = 1.0) -> None:
        self.x, self.limit, self.ranks, self.gain = 0.0, limit, ranks, gain
        self.before = 0.0

    def apply(self, scale: float, whole: bool) -> dict[str, Any]:
        self.before, self.x = self.x, self.x + scale * (1.0 if whole else self.gain)
        return {"cut": "raw_fallback" if whole else "none"}

    def undo(self) -> None:
        self.x = self.before

    def score(self) -> Score:
        return Score(-abs(1 - self.x), 1.0 if self.x <= self.limit else 0.1, 0.5)

    def raise_rank(self) -> bool:
        self.ranks -= 1
        if self.ranks >= 0:
            self.gain = 1.0
        return self.ranks >= 0


def reasons(events: list[GreedyStep]) -> list[str]:
    return [e.greedy_reason for e in events]


@given(st.integers(1, 6), st.floats(0.1, 1), st.floats(0.1, 1))
def test_scales_fall_geometrically(steps, base, decay):
    found = scales(options(steps=steps, base_scale=base, decay=decay))
    assert found == [base * decay**t for t in range(steps)]


def test_a_step_is_judged_by_trust_first_then_by_gain():
    given = options(min_improvement=0.1)
    assert judge_step(given, 0.2, Score(0, 0.6, 0.5)) == (True, "improved")
    assert judge_step(given, 0.2, Score(0, 0.4, 0.5)) == (False, "trust_low")
    assert judge_step(given, 0.05, Score(0, 0.6, 0.5)) == (False, "no_improvement")
    assert judge_step(given, float("nan"), Score(0, 0.6, 0.5)) == (False, "no_improvement")
    assert judge_step(given, 0.2, Score(0, float("nan"), 0.5)) == (False, "trust_low")


def test_steps_that_overshoot_are_taken_back():
    toy = Toy()
    events = run_steps(options(steps=4, base_scale=0.8, decay=0.5, patience=9), toy)
    assert [e.greedy_accept for e in events] == [True, False, True, False]
    assert toy.x == pytest.approx(0.8 + 0.2)
    assert [e.greedy_step for e in events] == [1, 2, 3, 4]
    assert events[0].gain == pytest.approx(0.8)


def test_patience_counts_rejections_in_a_row():
    assert reasons(run_steps(options(steps=9, base_scale=3.0, decay=1.0, patience=2), Toy())) == ["no_improvement"] * 2
    assert reasons(run_steps(options(steps=5, decay=1.0, patience=1), Toy(limit=0.7))) == ["improved", "trust_low"]


def test_a_stuck_layer_may_raise_its_rank_or_fall_back_to_raw():
    common = {"steps": 3, "patience": 1, "min_improvement": 0.05, "base_scale": 0.5}
    stuck = Toy(gain=0.0)
    assert len(run_steps(options(**common), stuck)) == 1
    raised = Toy(gain=0.0, ranks=1)
    events = run_steps(options(**common, when_stuck="raise_rank"), raised)
    assert reasons(events) == ["no_improvement", "raise_rank: improved"]
    assert raised.x == 1.0
    none_left = Toy(gain=0.0, ranks=0)
    assert len(run_steps(options(**common, when_stuck="raise_rank"), none_left)) == 1
    raw = Toy(gain=0.0)
    events = run_steps(options(**common, when_stuck="raw"), raw)
    assert events[-1].cut == "raw_fallback"
    assert raw.x == 1.0


# ---- the session -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["edit", "frobenius"])
@pytest.mark.parametrize("extra", [{}, {"trust": {"threshold": 0.0, "low": 0.0}}])
def test_one_step_is_the_plain_lora_edit_bit_for_bit(metric, extra):
    values = {"layers": [0, 1], "backend": "lora", "lora_metric": metric, **extra}
    plain = run(recipe(**values), rank=3)
    greedy = run(recipe(**values, greedy={"steps": 1}), rank=3)
    for layer in (0, 1):
        assert torch.equal(plain.final[layer], greedy.final[layer])
        assert torch.equal(plain.result.delta(layer), greedy.result.delta(layer))
    steps = greedy.events[0].layers["1"].greedy
    assert [(s.greedy_step, s.greedy_scale, s.greedy_accept) for s in steps] == [(1, 1.0, True)]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("use_distance_only", [False, True])
def test_steps_are_events_and_what_is_accepted_is_what_the_model_gains(recompute, use_distance_only):
    given = recipe(
        layers=[0, 1],
        backend="lora",
        trust={"threshold": 0.0, "low": 0.0},
        greedy={"steps": 3, "recompute": recompute, "use_distance_only": use_distance_only, "min_improvement": 0.0},
    )
    found = run(given, rank=3)
    for layer in (0, 1):
        gained = found.final[layer] - Architecture(found.model).weight(layer)
        torch.testing.assert_close(gained.double(), found.result.delta(layer), atol=1e-5, rtol=1e-4)
        assert found.result.factors[layer].rank <= 3
    steps = [s for e in found.events for layer in e.layers.values() for s in layer.greedy]
    assert len(steps) >= 6
    assert {"greedy_step", "greedy_scale", "greedy_accept", "greedy_reason", "gain", "trust"} <= steps[
        0
    ].model_fields_set
    assert any(s.greedy_accept for s in steps)
    assert all(s.gain >= 0 for s in steps if s.greedy_accept)


def test_steps_without_trust_in_them_leave_the_model_bit_for_bit():
    model = tiny_model()
    before = Architecture(model).weight(0).clone()
    given = recipe(backend="lora", trust={"threshold": 1.0, "low": 1.0}, greedy={"steps": 3})
    found = run(given, model, rank=3)
    assert torch.equal(found.final[0], before)
    for event in found.events:
        steps = event.layers["0"].greedy
        assert {s.greedy_reason for s in steps} == {"trust_low"}
        assert len(steps) == 2  # patience


def test_recompute_gets_closer_than_one_step_when_ranks_are_appended():
    common = {"backend": "lora", "accumulate": "append", "max_rank": 32, "trust": {"threshold": 0.0, "low": 0.0}}
    given = {"steps": 3, "recompute": True, "base_scale": 1.0, "decay": 1.0, "min_improvement": 0.0}
    one, three = run(recipe(**common), rank=2), run(recipe(**common, greedy=given), rank=2)
    left = three.events[0].layers["0"].greedy
    alone = one.events[0].terms["new_edit_distance"] / one.events[0].terms["old_edit_distance"]
    assert sum(s.gain for s in left if s.greedy_accept) > 1 - alone
    assert three.events[0].layers["0"].greedy[-1].lora_rank > 2


def test_greedy_by_distance_needs_no_probes():
    given = {"distance_only": True, "threshold": 0.0, "low": 0.0}
    events = run(recipe(backend="lora", trust=given, greedy={"steps": 2}), rank=3, probes=[]).events
    assert all(e.trust_error is None for e in events)
    assert any(s.greedy_accept for e in events for s in e.layers["0"].greedy)
    alone = run(recipe(backend="lora", greedy={"steps": 2}), rank=3, probes=[]).events
    assert all(e.trust_error is None for e in alone)


def test_a_stuck_layer_raises_the_rank_of_the_session():
    given = {"steps": 2, "patience": 1, "min_improvement": 0.9, "base_scale": 0.1, "when_stuck": "raise_rank"}
    found = run(recipe(backend="lora", max_rank=6, greedy=given), rank=3)
    ranks = [e.layers["0"].greedy[-1].lora_rank for e in found.events]
    assert found.proposer.store.rank_of(0) in (3, 6)
    assert max(ranks) <= 6
