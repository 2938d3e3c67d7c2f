"""The sweep: its batches come from the facts that the data set keeps for it, so that no run edits them."""

from __future__ import annotations

import pytest
from tiny import tiny_model, tiny_requests

from editlab.data import make_facts
from editlab.data.corpus import sample_known
from editlab.data.edited import EditedFacts
from editlab.data.requests import SWEEP
from editlab.data.subject_prompts import SubjectPrompts
from editlab.editing import sweep
from editlab.editing.session import EditSession
from editlab.editing.sweep import best_points, held_out_facts, run_sweep
from editlab.errors import ConfigError, DataError
from editlab.evaluation.prompts import Surroundings
from editlab.evaluation.scoring import score_requests
from editlab.evaluation.summary import summarize

FACTS = make_facts(1800, 1)


@pytest.mark.parametrize(("count", "seed"), [(96, 1), (512, 2), (1000, 3)])
def test_no_run_edits_what_recipes_are_chosen_on(count, seed):
    edited = {r.case_id for r in sample_known(FACTS, None, count, seed)}
    batches = held_out_facts(FACTS, None, 32, [101, 102, 103])
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
        held_out_facts(FACTS, set(sorted(kept)[:5]), 6, [1])


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


def test_a_sweep_edits_its_facts_as_a_stream_and_leaves_edited_neighbours_out():
    facts = held_out_facts(FACTS, None, 60, [7])
    recipes = {
        "none": {"solver": "none", "layers": [0]},
        "ultra": {"solver": "ultra", "layers": [0], "second_moment_weight": 0},
    }
    axes = {"none": {"layers": [[0]]}, "ultra": {"lr": [1e-4]}}
    asked = []

    class Watching(EditSession):
        def step(self, batch, *rest):
            asked.append(len(batch))
            return super().step(batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "EditSession", Watching)
        model = tiny_model()
        found = sweep.run_sweep(model, facts, recipes, axes, statistics=[], contexts=[["{}"]], batch=25)
    assert asked == [25, 25, 10] * 2
    around = Surroundings(EditedFacts(facts[7]))
    clean = summarize(score_requests(model, facts[7], around=around), resamples=0)
    asked_all = summarize(score_requests(model, facts[7]), resamples=0)
    ns = [t.loc[(t["metric"] == "NS") & (t["protocol"] == "success"), "value"].item() for t in (clean, asked_all)]
    assert found.loc[found["method"] == "none", "NS"].item() == ns[0] != ns[1]


def test_gates_are_chosen_on_what_a_sweep_does_not_score_and_relations_are_held_as_in_a_cell(monkeypatch):
    kept = [r for r in FACTS if r.reserved_for == SWEEP]
    given = []

    class Told(EditSession):
        def __init__(self, model, recipe, **arguments):
            given.append(arguments)
            raise ConfigError("enough")

    monkeypatch.setattr(sweep, "EditSession", Told)
    drawn = held_out_facts(FACTS, None, 40, [7])
    recipes = {"memit": {"solver": "memit", "layers": [0]}}
    with pytest.raises(ConfigError, match="enough"):
        run_sweep(
            None, drawn, recipes, {"memit": {"subject_weight": [1.0]}}, statistics=[], contexts=[["{}"]], records=FACTS
        )
    tuning = {r.key for r in given[0]["tuning"]}
    assert tuning == {r.key for r in kept} - {r.key for r in drawn[7]}
    assert given[0]["relations"].templates == SubjectPrompts.of_records(FACTS).templates
