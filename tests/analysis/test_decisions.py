"""Rates, ROC and precision-recall of decisions, and the turning point of a forgetting curve."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.analysis.edit.decisions import decisions
from editlab.analysis.statistics.broken_line import turning_point, turning_point_interval
from editlab.analysis.statistics.classification import area_under_roc, average_precision, precision_recall, rates, roc
from editlab.errors import DataError


def event(batch: int, trust: float, change: float, scale: float, **more):
    composites = {"with": {"composite": 0.5 + change}, "without": {"composite": 0.5}}
    return {"batch": batch, "trust": trust, "threshold": 0.5, "scale": scale, **composites, **more}


EVENTS = [
    event(0, 0.9, 0.3, 1.0),
    event(1, 0.2, -0.2, 0.0, stress="clamp"),
    event(2, 0.4, 0.1, 0.6),
    event(3, 0.3, 0.2, 0.0),
    event(4, 0.8, -0.1, 1.0, stress="corruption"),
    {"batch": 5, "decision": "rejected"},
]


def table(trust, harmful) -> pd.DataFrame:
    return pd.DataFrame({"trust": trust, "harmful": harmful, "rolled_back": [t < 0.5 for t in trust]})


def test_decisions_and_rates():
    frame = decisions(EVENTS)
    assert frame["batch"].tolist() == [0, 1, 2, 3, 4]
    assert frame["harmful"].tolist() == [False, True, False, False, True]
    assert frame["rolled_back"].tolist() == [False, True, False, True, False]
    assert frame["stress"].tolist() == ["", "clamp", "", "", "corruption"]
    found = rates(frame)
    assert found == pytest.approx(
        {
            "n": 5,
            "harmful": 0.4,
            "rollback_rate": 0.4,
            "false_positive_rate": 1 / 3,
            "false_negative_rate": 0.5,
            "accuracy": 0.6,
        }
    )
    assert rates(frame, threshold=0.25)["accuracy"] == pytest.approx(0.8)
    assert np.isnan(rates(frame[~frame["harmful"]])["false_negative_rate"])


labelled = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), st.booleans()), min_size=4, max_size=30)


@settings(deadline=None, max_examples=40)  # the first example imports scikit-learn
@given(labelled)
def test_area_under_roc_is_the_probability_of_a_right_order(pairs):
    trust, harmful = [p[0] for p in pairs], [p[1] for p in pairs]
    if all(harmful) or not any(harmful):
        with pytest.raises(DataError, match="one class"):
            roc(table(trust, harmful))
        return
    bad, good = [t for t, h in pairs if h], [t for t, h in pairs if not h]
    expected = np.mean([(b < g) + 0.5 * (b == g) for b in bad for g in good])
    frame = table(trust, harmful)
    assert area_under_roc(frame) == pytest.approx(expected)
    curve = roc(frame)
    assert curve.iloc[-1].tolist()[1:] == [1.0, 1.0]
    assert curve["false_positive_rate"].is_monotonic_increasing
    shuffled = frame.sample(frac=1.0, random_state=0)
    assert area_under_roc(shuffled) == pytest.approx(expected)
    assert average_precision(shuffled) == pytest.approx(average_precision(frame))
    assert 0 < average_precision(frame) <= 1


def test_perfect_and_reversed_scores():
    perfect = table([0.1, 0.2, 0.8, 0.9], [True, True, False, False])
    assert area_under_roc(perfect) == average_precision(perfect) == 1.0
    assert precision_recall(perfect)["precision"].tolist() == [1, 1, 2 / 3, 0.5]
    assert area_under_roc(table([0.9, 0.8, 0.2, 0.1], [True, True, False, False])) == 0.0


def broken_line(knot: float, before: float, after: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(100, 3001, 100)
    return x, 1 + before * x / 1000 + (after - before) * np.maximum(0, x - knot) / 1000


def test_turning_point_finds_the_knot_and_its_kind():
    found = turning_point(*broken_line(1200, -0.05, -0.4))
    assert (found.knot, found.kind) == (pytest.approx(1200), "collapse")
    assert (found.slope_before, found.slope_after) == pytest.approx((-0.05, -0.4))
    assert found.explained == pytest.approx(1.0)
    assert turning_point(*broken_line(600, -0.8, -0.05)).kind == "levels_off"
    assert turning_point(*broken_line(600, -0.2, -0.2)).kind == "none"
    with pytest.raises(DataError, match="at least 5"):
        turning_point([1, 2, 3], [1, 2, 3])


def test_the_interval_covers_the_knot_and_is_seeded():
    x, y = broken_line(1200, -0.05, -0.4)
    rng = np.random.default_rng(0)
    curves = pd.concat(
        [pd.DataFrame({"seed": s, "edits_seen": x, "value": y + rng.normal(0, 0.01, len(x))}) for s in (1, 2, 3)]
    )
    point, low, high = turning_point_interval(curves, "value", resamples=100, seed=1)
    assert low <= 1200 <= high
    assert high - low < 600
    assert (point, low, high) == turning_point_interval(curves, "value", resamples=100, seed=1)
