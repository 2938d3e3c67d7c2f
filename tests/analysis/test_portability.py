"""What follows from an edit: controls stand last and never compete; sentences do not claim what the intervals do not hold."""

from __future__ import annotations

import pandas as pd
import pytest

from editlab.analysis.edit.portability import (
    COLUMNS,
    FEW,
    LAST,
    by_probe,
    findings,
    portability_by_method,
    portability_sheet,
    side_by_side,
)
from editlab.analysis.paper.tabular import tabular

VALUES = {"shuffled": 0.95, "memit": 0.5, "trained": 0.9, "none": 1.0, "emmet": 0.4, "random": 0.99}


def table(gap: float = 0.0, spread: float = 0.01, **values: float) -> pd.DataFrame:
    """Three seeds a method; "written" is right as often as the method's value says."""
    rows = []
    for method, value in {**VALUES, **values}.items():
        for seed, shift in ((1, -spread), (2, 0.0), (3, spread)):
            place = [method, 32 if method not in ("none", "trained") else 1, 0.0, 0, seed]
            for metric in ("multi_hop", "Relation_Specificity", "generation"):
                share = min(max(value + shift, 0.0), 1.0)
                rows.append([*place, metric, "exact", share, 32, share, share])
            rows.append([*place, "generation", "gap", gap + shift, 32, gap + shift, gap + shift])
    return pd.DataFrame(rows, columns=COLUMNS)


def told(frame: pd.DataFrame) -> dict[str, object]:
    return {finding.key: finding for finding in findings({"portability": frame})}


def test_controls_are_the_last_rows():
    assert list(side_by_side(table())["method"]) == ["memit", "emmet", *LAST]


def test_a_control_is_never_the_best_method():
    found = told(table())
    assert found["portability.best_multi_hop"].sentence.startswith("MEMIT answers the most")
    kept = found["portability.same_subject"]
    assert "MEMIT leaves" in kept.sentence
    assert "of 2 methods, and EMMET the fewest" in kept.sentence
    assert "MEMIT" in found["portability.gap"].sentence


@pytest.mark.parametrize(("gap", "opening", "supported"), [
    (0.3, "Teacher forcing flatters MEMIT the most", True),
    (0.01, "Teacher forcing flatters no method measurably (MEMIT the most)", False),
])  # fmt: skip
def test_a_gap_is_claimed_only_where_it_is_measured(gap, opening, supported):
    found = told(table(gap))["portability.gap"]
    assert found.sentence.startswith(opening)
    assert found.supported is supported


def test_the_most_and_the_fewest_are_told_apart_or_not_claimed():
    assert told(table(memit=0.9))["portability.same_subject"].supported
    assert not told(table(spread=0.2))["portability.same_subject"].supported


def test_means_are_over_seeds():
    rows = by_probe(table()).set_index(["method", "metric"])["value"]
    assert rows["memit", "multi_hop"] == pytest.approx(0.5)


def few(cases: int) -> pd.DataFrame:
    """Inverse questions that a third of the probes of two seeds allow, answered by nobody."""
    frame = table()
    inverse = frame[(frame["metric"] == "multi_hop") & (frame["seed"] < 3)].assign(value=0.0, ci_low=0.0, ci_high=0.0)
    asked = inverse.assign(metric="Logical_Generalization_executed", value=1 / 3, n=3 * cases // 2)
    return pd.concat([frame, inverse.assign(metric="Logical_Generalization", n=cases // 2), asked], ignore_index=True)


def test_a_share_of_few_cases_is_not_told():
    frame = few(FEW - 2)
    rows = by_probe(frame).set_index(["method", "metric"])
    assert rows.loc[("memit", "Logical_Generalization"), ["value", "low", "high"]].isna().all()
    assert rows.loc[("memit", "Logical_Generalization"), "n"] == FEW - 2
    assert rows.loc[("memit", "multi_hop"), "value"] == pytest.approx(0.5)
    found = told(frame)
    assert not {"portability.best_Logical_Generalization", "portability.control_Logical_Generalization"} & set(found)
    sentence = found["portability.few_Logical_Generalization"].sentence
    assert f"knows what {FEW - 2} of {3 * (FEW - 2)} stand on: too few for a share" in sentence
    printed = portability_sheet.make({"portability": frame})
    assert f"inverse {FEW - 2} (too few to tell), two hops 96" in printed.legend
    text = tabular(printed.frame, printed.columns, "portability.csv")
    assert all("--" in line.split("&")[2] for line in text.splitlines() if line.startswith(("MEMIT", "EMMET")))
    portability_by_method.drawn(frame)
    assert "Logical_Generalization" not in set(portability_by_method.rows(frame)["metric"])


def test_enough_cases_are_told():
    found = told(few(FEW))
    assert "portability.few_Logical_Generalization" not in found
    assert found["portability.best_Logical_Generalization"].sentence.startswith("No method answers any of the inverse")
