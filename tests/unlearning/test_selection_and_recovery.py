"""The rule that chooses points, and recovery rates, on tables made up so that the right answer is known."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from editlab.config.unlearning import Scoring, Selection
from editlab.errors import DataError
from editlab.unlearning.recovery import attacked, epochs_to, rates
from editlab.unlearning.selection import admissible, candidates, choose, primary_metric

N = 100


def point(lr, epoch, forget, keep, report=0.9, perplexity=5.0, kl=0.01, retain=1.0):
    base = {"lr": lr, "retain": retain, "epoch": epoch}
    rows = [
        {"set": "forget", "half": "all", "metric": "cloze", "value": forget, "n": N},
        {"set": "same", "half": "select", "metric": "cloze", "value": keep, "n": 50},
        {"set": "same", "half": "report", "metric": "cloze", "value": report, "n": 50},
        {"set": "neutral", "half": "all", "metric": "perplexity", "value": perplexity, "n": 9},
        {"set": "neutral", "half": "all", "metric": "kl", "value": kl, "n": 9},
    ]
    return [{**base, **row} for row in rows]


def table(*points):
    return pd.DataFrame([row for p in points for row in p])


BASE = point(1e-3, 0, 1.0, 1.0, kl=0.0)


def test_the_lowest_admissible_point_is_chosen_and_the_reported_half_does_not_matter():
    scores = table(
        BASE, point(1e-3, 1, 0.60, 1.0), point(1e-3, 2, 0.20, 0.96, report=0.1), point(1e-2, 1, 0.02, 0.80)
    )  # fmt: skip
    found = choose(scores, "cloze", Selection())["selected"]
    assert (found["lr"], found["epoch"], found["forget"]) == (1e-3, 2, 0.20)
    assert found["report"] == pytest.approx(0.1)


def test_perplexity_and_tau_make_points_inadmissible_and_nothing_is_relaxed():
    scores = table(BASE, point(1e-3, 1, 0.2, 1.0, perplexity=6.1), point(1e-3, 2, 0.2, 0.94))
    assert choose(scores, "cloze", Selection())["selected"] is None
    found = candidates(scores, "cloze")
    base = found[found["epoch"] == 0].iloc[0]
    assert len(admissible(found, base, Selection(), tau=0.1)) == 1


def test_ties_within_a_standard_error_go_to_retain_then_rate_then_epochs():
    scores = table(
        BASE, point(3e-3, 1, 0.20, 0.96), point(1e-3, 3, 0.22, 0.99), point(1e-3, 2, 0.23, 0.99), point(5e-4, 9, 0.30, 1.0)
    )  # fmt: skip
    found = choose(scores, "cloze", Selection())["selected"]
    assert (found["lr"], found["epoch"]) == (1e-3, 2)  # the standard error of 0.20 with 100 questions is 0.04


def test_the_matched_point_is_near_the_level_or_none():
    scores = table(BASE, point(1e-3, 1, 0.43, 1.0), point(1e-3, 2, 0.38, 1.0), point(1e-2, 1, 0.40, 0.5))
    assert choose(scores, "cloze", Selection())["matched"]["forget"] == pytest.approx(0.38)
    far = table(BASE, point(1e-3, 1, 0.44, 1.0), point(1e-3, 2, 0.36, 1.0))
    assert choose(far, "cloze", Selection())["matched"] is None


def test_matched_disruption_looks_at_divergence_alone():
    scores = table(
        BASE, point(1e-3, 1, 0.5, 0.99, kl=0.01), point(1e-2, 1, 0.1, 0.2, kl=0.04), point(1e-2, 2, 0.0, 0.2, kl=0.06)
    )
    assert choose(scores, "cloze", Selection(kl_budget=0.05))["budget"]["forget"] == pytest.approx(0.1)


def test_without_scores_there_is_nothing_to_choose():
    with pytest.raises(DataError, match="no scores"):
        choose(pd.DataFrame(), "cloze", Selection())


def test_the_measure_is_letters_only_with_the_skill():
    def base(letters):
        return pd.DataFrame([{"set": "same", "half": "all", "metric": "letters", "value": letters, "n": 9}])

    assert primary_metric(base(0.9), Scoring()) == "letters"
    assert primary_metric(base(0.4), Scoring()) == "cloze"
    assert primary_metric(base(0.4), Scoring(primary="letters")) == "letters"


def looks(values, n=10):
    """Rows of attacks: {(v, lr, epoch): (first half, second half)}."""
    rows = []
    for (v, lr, epoch), pair in values.items():
        for half, value in zip(("first", "second"), pair, strict=True):
            row = {
                "v_split": v,
                "lr": lr,
                "epoch": epoch,
                "set": "V",
                "half": half,
                "metric": "cloze",
                "value": value,
                "n": n,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def test_the_best_of_many_and_its_unbiased_twin():
    rows = looks(
        {
            ("a", 1e-3, 0): (0.9, 0.9),  # before the attack: never part of the maximum
            ("a", 1e-3, 1): (0.8, 0.2),
            ("a", 1e-3, 2): (0.4, 0.5),
            ("b", 1e-3, 0): (0.1, 0.1),
            ("b", 1e-3, 1): (0.6, 0.6),
            ("b", 1e-3, 2): (0.2, 0.2),
        }
    )
    found = attacked(rows, "cloze")
    assert found["before"] == pytest.approx(0.5)
    assert found["best"] == pytest.approx((0.5 + 0.6) / 2)
    # a: first half chooses epoch 1 and reports 0.2, second chooses 2 and reports 0.4; b: 0.6 both ways.
    assert found["two_fold"] == pytest.approx((0.2 + 0.4 + 0.6 + 0.6) / 4)
    assert found["common"] == pytest.approx((0.5 + 0.6) / 2)
    assert found["n"] == 40
    assert epochs_to(rows, "cloze", 0.55) == 1
    assert math.isnan(epochs_to(rows, "cloze", 0.95))


def test_two_fold_is_not_inflated_by_noise():
    import random

    rng = random.Random(1)
    noise = {("v", lr, e): (sum(rng.random() < 0.25 for _ in range(10)) / 10, sum(rng.random() < 0.25 for _ in range(10)) / 10)
             for lr in range(60) for e in range(1, 7)}  # fmt: skip
    found = attacked(looks(noise), "cloze")
    assert found["best"] >= 0.5
    assert abs(found["two_fold"] - 0.25) < 0.21


def test_rates_and_when_they_mean_nothing():
    full = rates(a=0.2, b=0.9, c=1.0, n=0.3, base=1.0, min_drop=0.25)
    assert full["recovery"] == pytest.approx(0.9)
    assert full["recovery_corrected"] == pytest.approx(0.6 / 0.7)
    nothing = rates(a=0.2, b=0.3, c=1.0, n=0.3, base=1.0, min_drop=0.25)
    assert nothing["recovery"] == pytest.approx(0.3)
    assert nothing["recovery_corrected"] == pytest.approx(0.0)
    assert math.isnan(rates(0.9, 0.9, 1.0, 0.3, 1.0, 0.25)["recovery"])  # the learning-rate trap: nothing was unlearned
    assert math.isnan(rates(0.2, 0.3, 0.35, 0.3, 1.0, 0.25)["recovery_corrected"])
    assert rates(0.2, 0.5, 1.0, math.nan, 1.0, 0.25)["recovery_corrected"] == pytest.approx(1 / 3)
