"""Intervals that count the stream: coverage by simulation with known truth."""

from __future__ import annotations

import numpy as np
import pytest

from editlab.analysis.statistics.paired import differences, resampled
from editlab.analysis.statistics.streams import holm, over_streams, share_over_streams

STREAMS = 1500


def simulated(seed: int, streams: int, cases: int, between: float, effect: float):
    """(S,) differences of two methods' shares on the same cases, with an effect that varies from stream to stream."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0.6, 0.08, size=(streams, 1))
    shift = rng.normal(effect, between, size=(streams, 1))
    luck = rng.random((streams, cases))
    a, b = luck < np.clip(base + shift, 0, 1), luck < base
    return (a.mean(1) - b.mean(1)), a, b


@pytest.mark.parametrize("streams", [3, 5, 8])
@pytest.mark.parametrize("between", [0.02, 0.06])
def test_the_interval_of_a_difference_covers_the_truth_over_streams(streams, between):
    hits = 0
    for k in range(STREAMS):
        differences, _, _ = simulated(k, streams, 200, between, 0.03)
        found = over_streams(differences)
        hits += found.low <= 0.03 <= found.high
    assert 0.93 <= hits / STREAMS <= 0.97


def test_an_interval_over_cases_alone_would_not():
    """What was done before: all cases of all streams drawn anew, as if they were independent."""
    hits = 0
    for k in range(300):
        _, a, b = simulated(k, 3, 200, 0.06, 0.03)
        cases = (a.astype(float) - b).ravel()
        half = 1.96 * cases.std() / len(cases) ** 0.5
        hits += abs(cases.mean() - 0.03) <= half
    assert hits / 300 < 0.7


@pytest.mark.parametrize("streams", [3, 5])
def test_paired_differences_of_cells_count_the_stream(streams):
    """What the tables say of methods that do not differ: at most one interval in twenty excludes zero, not most of them."""
    hits = 0
    for k in range(300):
        _, a, b = simulated(k, streams, 120, 0.06, 0.0)
        sides = [[x[:, None].astype(float) for x in side] for side in (a, b)]
        one, other = resampled(sides, lambda means: means, resamples=50, seed=k)
        [found] = differences(one, other, ["ES"])
        hits += found.ci_low <= 0 <= found.ci_high
    assert hits / 300 >= 0.92


def test_two_streams_are_told_as_these_streams():
    sides = [[np.ones((9, 1)), np.zeros((9, 1))], [np.zeros((9, 1))] * 2]
    [found] = differences(*resampled(sides, lambda means: means, resamples=50), ["ES"])
    assert (found.value, found.general) == (0.5, False)


@pytest.mark.parametrize("streams", [3, 5])
def test_the_interval_of_a_share_covers_the_truth_over_streams(streams):
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(STREAMS):
        truth = np.clip(rng.normal(0.7, 0.05, streams), 0, 1)
        shares = rng.binomial(128, truth) / 128
        found = share_over_streams(shares, [128] * streams)
        hits += found.low <= 0.7 <= found.high
    assert 0.93 <= hits / STREAMS <= 0.97


def test_a_share_without_spread_is_not_certain():
    found = share_over_streams([1.0] * 5, [32] * 5)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.9766, abs=1e-3)
    assert found.general


def test_two_streams_describe_themselves_and_three_speak_for_others():
    draws = np.random.default_rng(1).normal(0.05, 0.01, 2000)
    two = over_streams([0.051, 0.049], draws)
    assert not two.general
    assert 0.02 < two.low < two.high < 0.08
    assert over_streams([0.051, 0.049, 0.02]).general
    assert np.isnan(over_streams([0.05]).low)
    assert over_streams([]).streams == 0


def test_streams_that_disagree_support_nothing():
    """+.051 in one stream and +.0002 in the other two: no claim about streams in general."""
    found = over_streams([0.051, 0.0002, 0.0002])
    assert found.low < 0 < found.high
    assert found.p_value > 0.3


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([]) == []
