"""Retraining on the truth of some edited facts: what it measures, and that nothing stays changed."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from test_trust import moments
from tiny import tiny_model, tiny_requests

import editlab
from editlab.analysis.edit.retraining import recovery
from editlab.config.evaluation import Retraining
from editlab.editing.retraining import redrawn_objects, retrain_on_truth

OPTIONS = Retraining(epochs=4, batch=6, lr=3e-3, controls=11)


def test_the_table_has_both_models_and_all_groups_and_retrained_facts_are_learned():
    model, facts = tiny_model(), tiny_requests(24)
    edit = editlab.edit(
        model, facts[:12], method="memit", layers=[0], statistics=moments(model, 0), clamp=4.0, second_moment_weight=0.1
    )
    table = retrain_on_truth(model, edit, facts[:12], facts[12:], OPTIONS, seed=1)
    assert len(table) == 3 * 2 * 3 * 2
    assert set(table["model"]) == {"edited", "unedited", "redrawn"}
    assert set(table["n"]) == {6, 11}
    rows = table[table["probe"] == "rewrite"].set_index(["model", "facts", "when"])["success"]
    assert rows["edited", "retrained", "after"] > rows["edited", "retrained", "before"]
    again = retrain_on_truth(model, edit, facts[:12], facts[12:], OPTIONS, seed=1)
    pd.testing.assert_frame_equal(table, again, check_exact=True)


def test_redrawn_objects_are_wrong_ones_of_the_same_relation():
    facts = tiny_requests(24)
    told = dict(redrawn_objects(facts, seed=1))
    assert len(told) == 24
    for fact in facts:
        assert told[fact.rewrite_prompt] != fact.target_true
        assert told[fact.rewrite_prompt] in {f.target_true for f in facts if f.relation_id == fact.relation_id}
    assert redrawn_objects(facts, seed=1) == list(told.items()) != redrawn_objects(facts, seed=2)
    assert redrawn_objects(facts[:1], seed=1) == []


def test_recovery_is_a_share_of_what_the_edit_took():
    rows = []
    values = {
        ("unedited", "held_out"): (1.0, 0.9),
        ("edited", "held_out"): (0.2, 0.6),
        ("edited", "never_edited"): (0.8, 0.7),
        ("unedited", "never_edited"): (1.0, 1.0),
    }
    for (model, facts), pair in values.items():
        for when, value in zip(("before", "after"), pair, strict=True):
            rows.append({"model": model, "facts": facts, "when": when, "probe": "rewrite", "accuracy": value})
    found = recovery(pd.DataFrame(rows))
    assert found["restored"] == pytest.approx(0.5)
    assert math.isnan(found["restored_redrawn"])
