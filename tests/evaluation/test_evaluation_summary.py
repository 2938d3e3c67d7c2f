"""Summaries with intervals and retention curves: hand-computed examples and statistical checks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from editlab.errors import ConfigError
from editlab.evaluation.summary import harmonic_mean, per_case, summarize


def frame_of(rows: list[tuple[str, str, int, float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["case_id", "probe", "index", "success", "accuracy", "magnitude"])


@pytest.fixture
def three_cases() -> pd.DataFrame:
    return frame_of(
        [
            ("a", "rewrite", 0, 1, 1, 0.5),
            ("b", "rewrite", 0, 1, 0, 0.2),
            ("c", "rewrite", 0, 0, 0, -0.1),
            ("a", "paraphrase", 0, 1, 1, 0.4),
            ("a", "paraphrase", 1, 0, 0, -0.2),
            ("b", "paraphrase", 0, 1, 0, 0.1),
            ("c", "paraphrase", 0, 0, 0, 0.0),
            ("a", "neighborhood", 0, 1, 1, 0.3),
            ("b", "neighborhood", 0, 1, 1, 0.3),
            ("b", "neighborhood", 1, 1, 0, 0.1),
            ("c", "neighborhood", 0, 0, 0, -0.3),
        ]
    )


def value(summary: pd.DataFrame, metric: str, protocol: str = "success", column: str = "value") -> float:
    row = summary[(summary["metric"] == metric) & (summary["protocol"] == protocol)]
    assert len(row) == 1
    return row[column].iloc[0]


class TestSummary:
    def test_by_hand(self, three_cases):
        summary = summarize(three_cases)
        assert list(summary.columns) == ["metric", "protocol", "value", "n", "ci_low", "ci_high"]
        assert len(summary) == 11
        assert value(summary, "ES") == pytest.approx(2 / 3)
        assert value(summary, "PS") == pytest.approx((0.5 + 1 + 0) / 3)
        assert value(summary, "NS") == pytest.approx(2 / 3)
        assert value(summary, "S") == pytest.approx(3 / (1.5 + 2 + 1.5))
        assert value(summary, "NS", "accuracy") == pytest.approx((1 + 0.5 + 0) / 3)
        assert value(summary, "PS", "magnitude") == pytest.approx((0.1 + 0.1 + 0) / 3)
        assert (summary["n"] == 3).all()
        assert ((summary["ci_low"] <= summary["value"]) & (summary["value"] <= summary["ci_high"])).all()

    def test_intervals_are_seeded_and_know_no_order(self, three_cases):
        first = summarize(three_cases, seed=5)
        pd.testing.assert_frame_equal(first, summarize(three_cases.sample(frac=1, random_state=1), seed=5))
        many = frame_of([(str(i), "rewrite", 0, i % 2, i % 3 == 0, math.sin(i)) for i in range(30)])
        assert summarize(many, seed=5).equals(summarize(many, seed=5))
        assert not summarize(many, seed=5).equals(summarize(many, seed=6))

    def test_interval_covers_the_truth(self):
        rng = np.random.default_rng(0)
        hits = 0
        for trial in range(100):
            draws = rng.random(60) < 0.7
            frame = frame_of([(str(i), "rewrite", 0, float(d), float(d), 0.0) for i, d in enumerate(draws)])
            summary = summarize(frame, seed=trial, resamples=300)
            hits += value(summary, "ES", column="ci_low") <= 0.7 <= value(summary, "ES", column="ci_high")
        assert 86 <= hits <= 100

    def test_bootstrap_matches_resampling_written_out(self, three_cases):
        cases = per_case(three_cases)["ES"]["success"].to_numpy()
        means = [np.mean([cases[i], cases[j], cases[k]]) for i in range(3) for j in range(3) for k in range(3)]
        summary = summarize(three_cases, confidence=0.8, resamples=20_000)
        assert value(summary, "ES", column="ci_low") == pytest.approx(np.quantile(means, 0.1), abs=1e-9)
        assert value(summary, "ES", column="ci_high") == pytest.approx(np.quantile(means, 0.9), abs=1e-9)

    def test_absent_probe_set(self, three_cases):
        summary = summarize(three_cases[three_cases["probe"] != "paraphrase"])
        assert math.isnan(value(summary, "PS"))
        assert value(summary, "PS", column="n") == 0
        assert math.isnan(value(summary, "S"))
        assert value(summary, "ES") == pytest.approx(2 / 3)
        assert summarize(three_cases.iloc[:0])["value"].isna().all()

    def test_case_without_paraphrases_counts_elsewhere(self, three_cases):
        frame = three_cases[~((three_cases["probe"] == "paraphrase") & (three_cases["case_id"] == "c"))]
        summary = summarize(frame)
        assert value(summary, "PS") == pytest.approx(0.75)
        assert value(summary, "PS", column="n") == 2
        assert value(summary, "ES", column="n") == 3

    def test_harmonic_mean(self):
        parts = np.array([[1.0, 1.0, 1.0], [0.5, 0.25, 1.0], [0.0, 1.0, 1.0], [np.nan, 1.0, 0.0]])
        np.testing.assert_allclose(harmonic_mean(parts), [1.0, 3 / 7, 0.0, np.nan])

    def test_bad_arguments(self, three_cases):
        with pytest.raises(ConfigError, match="confidence: 1"):
            summarize(three_cases, confidence=1.5)
        with pytest.raises(ConfigError, match="resamples: -1"):
            summarize(three_cases, resamples=-1)
        assert summarize(three_cases, resamples=0)["ci_low"].isna().all()
