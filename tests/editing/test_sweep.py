"""The sweep: its batches come from the facts that the data set keeps for it, so that no run edits them."""

from __future__ import annotations

import pytest
from tiny import tiny_model, tiny_requests

from editlab.data import make_facts
from editlab.data.corpus import sample_known
from editlab.data.requests import SWEEP
from editlab.editing.sweep import best_points, held_out_batches, run_sweep
from editlab.errors import ConfigError, DataError

FACTS = make_facts(1800, 1)


@pytest.mark.parametrize(("count", "seed"), [(96, 1), (512, 2), (1000, 3)])
def test_no_run_edits_what_recipes_are_chosen_on(count, seed):
    edited = {r.case_id for r in sample_known(FACTS, None, count, seed)}
    batches = held_out_batches(FACTS, None, 32, [101, 102, 103])
    chosen_on = {r.case_id for batch in batches.values() for r in batch}
    assert all(len(batch) == 32 for batch in batches.values())
    assert not edited & chosen_on
    assert not {r.subject for r in FACTS if r.case_id in edited} & {r.subject for r in FACTS if r.case_id in chosen_on}


def test_what_is_kept_for_other_uses_is_counted_when_too_few_are_left():
    free = [r for r in FACTS if not r.reserved_for]
    with pytest.raises(DataError, match=rf"{1800 - len(free)} of 1800 are for other uses"):
        sample_known(FACTS, None, len(free) + 1, 1)
    kept = {r.case_id for r in FACTS if r.reserved_for == SWEEP}
    with pytest.raises(DataError, match="only 5 are available"):
        held_out_batches(FACTS, set(sorted(kept)[:5]), 6, [1])


def test_a_solver_of_one_fact_is_swept_fact_by_fact():
    recipes = {"rome": {"solver": "rome", "layers": [0], "mom2_adjustment": False, "steps": 3}}
    found = run_sweep(
        tiny_model(),
        {1: tiny_requests(3)},
        recipes,
        {"rome": {"clamp": [0.5, 4.0]}},
        statistics=[],
        contexts=[["{}"]],
    )
    assert list(found["clamp"]) == ["0.5", "4.0"]
    assert found["delta_norm"].is_monotonic_increasing
    assert set(found["decision"]) == {"accepted"}
    assert list(best_points(found)["method"]) == ["rome", "rome"]


def test_a_point_that_is_not_allowed_is_refused_before_the_first_is_tried():
    recipes = {name: {"solver": name, "layers": [0]} for name in ("memit", "ft")}
    axes = {"memit": {"clamp": [0.5]}, "ft": {"lr": [-1.0]}}
    with pytest.raises(ConfigError, match=r"sweep\.ft"):
        run_sweep(None, {1: tiny_requests(2)}, recipes, axes, statistics=[], contexts=[["{}"]])
