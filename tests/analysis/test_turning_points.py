"""Turning points: found where a stream turns, not in straight lines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from editlab.analysis.statistics.turning_points import stream_turning_point, turning_point
from editlab.errors import DataError


def streams(snapshots: int, drop: float, noise: float, trials: int, seed: int = 0):
    """Simulated curves: a first slope, and from the middle on ``drop`` more by the end."""
    x = np.linspace(1000.0, 2000.0, snapshots)
    curve = 0.9 - 1e-4 * (x - 1000) - drop * np.maximum(0.0, x - 1500) / 500
    return x, curve + noise * np.random.default_rng(seed).standard_normal((trials, snapshots))


@pytest.mark.parametrize("noise", [0.01, 0.1])
@pytest.mark.parametrize("snapshots", [6, 10, 24])
def test_straight_streams_have_turning_points_in_less_than_5_percent(snapshots, noise):
    x, draws = streams(snapshots, 0.0, noise, trials=600)
    found = [turning_point(x, y, resamples=400, seed=k).kind != "none" for k, y in enumerate(draws)]
    assert np.mean(found) < 0.05


def test_streams_that_turn_are_found_and_the_interval_holds_the_knot():
    x, draws = streams(16, 0.4, 0.03, trials=60)
    found = [turning_point(x, y, resamples=400) for y in draws]
    assert np.mean([f.kind == "collapse" for f in found]) > 0.9
    assert np.mean([f.low <= 1500 <= f.high for f in found if f.kind == "collapse"]) > 0.85


def test_kind_slopes_and_knot_of_an_exact_broken_line():
    x = np.arange(200, 2001, 200)
    y = 0.9 - 0.05 * x / 1000 - 0.4 * np.maximum(0, x - 1200) / 1000
    found = turning_point(x, y)
    assert (found.knot, found.kind) == (1200, "collapse")
    assert (found.slope_before, found.slope_after) == pytest.approx((-0.05, -0.45))
    assert turning_point(x, 0.9 - 0.8 * np.minimum(x, 600) / 1000).kind == "levels_off"
    assert turning_point(x, 0.9 - 0.2 * x / 1000).kind == "none"
    assert turning_point(x, np.full(10, 0.7)).kind == "none"


def test_the_mean_of_streams_and_the_same_bytes_again():
    x, draws = streams(12, 0.4, 0.02, trials=3)
    rows = [{"seed": s, "edits_seen": e, "value": v} for s, y in enumerate(draws) for e, v in zip(x, y, strict=True)]
    table = pd.DataFrame(rows)
    assert stream_turning_point(table, "value") == stream_turning_point(table.sample(frac=1, random_state=1), "value")
    assert stream_turning_point(table, "value").knot == turning_point(x, draws.mean(0)).knot


def test_too_little_to_fit():
    with pytest.raises(DataError, match="3 snapshots"):
        turning_point([1, 2, 3], [1, 2, 3])
    with pytest.raises(DataError, match="two snapshots"):
        turning_point([1, 2, 3, 4, 4], [1, 2, 3, 4, 4])
