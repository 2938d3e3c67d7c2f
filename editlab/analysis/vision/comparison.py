"""The comparison as tables: every method on every level, and methods against each other, with intervals over seeds."""

from __future__ import annotations

import itertools

import pandas as pd

from editlab.analysis.report.run import Run
from editlab.analysis.statistics.intervals import mean_interval
from editlab.analysis.statistics.streams import holm
from editlab.analysis.vision.cells import KAPPAS, SHARES, is_control, of_seeds, read_cells

COMPARED = (("edit", "fix_rate"), ("projection", "stability"), ("test", "accuracy_delta"))
"""Levels and columns in which methods are set against each other."""


def comparison(run: Run) -> pd.DataFrame:
    """One row a data set, method and level: means over seeds with intervals; how often a change was more than chance."""
    rows = read_cells(run)
    columns = [*SHARES, *(c for c in KAPPAS if c in rows)]
    table = of_seeds(rows, ["dataset", "method", "level"], columns)
    for _, part in rows.groupby(["dataset", "level"]):  # all methods are looked at side by side: one family
        rows.loc[part.index, "mcnemar_p"] = holm(part["mcnemar_p"].tolist())
    tests = []
    for (dataset, method, level), part in rows.groupby(["dataset", "method", "level"], sort=False):
        sure = [p < 0.05 for p in part["mcnemar_p"]]
        better = sum(s and g > 0 for s, g in zip(sure, part["net_gain"], strict=True))
        tests.append(
            {"dataset": dataset, "method": method, "level": level, "mcnemar_better": better,
             "mcnemar_worse": sum(sure) - better, "mcnemar_p": float(part["mcnemar_p"].min()),
             "requested": int(part["requested"].max()), "used": float(part["used"].mean()),
             "clipped": bool(part["clipped"].any())}
        )  # fmt: skip
    table = table.merge(pd.DataFrame(tests), on=["dataset", "method", "level"])
    recipes = run.settings["methods"]
    table.insert(2, "kind", [recipes[m]["method"] for m in table["method"]])
    table.insert(3, "control", [is_control(recipes[m]) for m in table["method"]])
    return table


def differences(run: Run) -> pd.DataFrame:
    """Every method against every other recipe, by seed (mean over its draws): interval and t-test's p are over seeds."""
    rows = read_cells(run)
    recipes = run.settings["methods"]
    found = []
    for level, column in COMPARED:
        means = rows[rows["level"] == level].groupby(["dataset", "method", "seed"])[column].mean()
        for dataset in dict.fromkeys(rows["dataset"]):
            for method, other in itertools.permutations(recipes, 2):
                if not is_control(recipes[method]):
                    by_seed = (means[dataset, method] - means[dataset, other]).dropna()
                    value, low, high = mean_interval(by_seed.to_numpy(float))
                    found.append({"dataset": dataset, "method": method, "other": other, "control": is_control(recipes[other]),
                                  "level": level, "metric": column, "value": value, "ci_low": low, "ci_high": high,
                                  "p": _paired_p(by_seed), "seeds": len(by_seed)})  # fmt: skip
    return pd.DataFrame(found)


def _paired_p(differences: pd.Series) -> float:
    """Two-sided p of the paired t-test; 1 for fewer than two seeds, or seeds that all agree on no difference."""
    from scipy.stats import t

    mean, spread, n = differences.mean(), differences.std(ddof=1), len(differences)
    if n < 2 or mean == 0:
        return 1.0
    return float(2 * t.sf(abs(mean) / max(spread / n**0.5, 1e-300), n - 1))
