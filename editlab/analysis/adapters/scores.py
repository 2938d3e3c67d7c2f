"""Means over held-out tasks and seeds, and paired differences of two methods on the same tasks.

A seed has a base, a pool and a split of its own. Within a seed the tasks give an interval (Student's), and those of the seeds
are pooled (:func:`editlab.analysis.statistics.intervals.pooled`). From three seeds on the interval is at least Student's of the
seeds' means: tasks of one seed share its base, and agree more than tasks of another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.report.run import Run
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, beside, grouped, mean_interval, pooled

COMBINATIONS, OPERATIONS = "combinations", "operations"
SPLITS = {COMBINATIONS: "held-out combinations", OPERATIONS: "held-out operations"}


def joined(run: Run, name: str) -> pd.DataFrame:
    """The tables that the study's rules offer under a name, one under the other."""
    return pd.concat([read(run.root / file) for file in run.inputs[name]], ignore_index=True)


def documents(run: Run, name: str) -> list[dict[str, Any]]:
    """The JSON files that the study's rules offer under a name."""
    return [json.loads((run.root / file).read_text(encoding="utf-8")) for file in run.inputs[name]]


def read(path: Path) -> pd.DataFrame:
    """A table whose texts are texts."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def over_tasks(part: pd.DataFrame, column: str, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Mean of a column over tasks and seeds."""
    found = [mean_interval(rows[column]) for _, rows in part.groupby("seed", sort=True)]
    # A seed with one task has no interval of its own: its spread is that between seeds.
    values, lows, highs = zip(*(x if x.known else (x.value,) * 3 for x in found), strict=True)
    mean = pooled(values, lows, highs, bounds)
    return mean if len(part) > 1 else Interval(mean.value)


def means(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str] = ("exact", "letters")) -> pd.DataFrame:
    """One row a group in the order of the table: ``by``, n, seeds, and each column with ``_low`` and ``_high``.

    With deltas in the table also ``delta_cosine``, ``delta_ratio`` (squared error of the deltas over their squared size)
    and ``delta_r2`` (1 - the error over the spread around the mean of training).
    """

    def told(part: pd.DataFrame) -> dict[str, Any]:
        counts = {"n": len(part), "seeds": part["seed"].nunique()}
        row = counts | beside({column: over_tasks(part, column) for column in columns})
        if "delta_error" in part:
            known = part[["delta_error", "delta_size", "delta_spread"]].sum(min_count=1)
            row["delta_cosine"] = float(part["delta_cosine"].mean())
            row["delta_ratio"] = float(known["delta_error"] / known["delta_size"])
            row["delta_r2"] = float(1 - known["delta_error"] / known["delta_spread"])
        return row

    return grouped(table, by, told)


def difference(one: pd.DataFrame, other: pd.DataFrame, column: str = "exact") -> dict[str, float]:
    """One method minus another on the same tasks of the same seeds: value, ci_low, ci_high, n, seeds.

    Tasks that one of them lacks are left out; n is 0 where they share none.
    """
    both = one[["seed", "task", column]].merge(
        other[["seed", "task", column]], on=["seed", "task"], suffixes=("", "_other")
    )
    both["difference"] = both[column] - both[f"{column}_other"]
    value, low, high = over_tasks(both, "difference", (-1.0, 1.0)) if len(both) else UNKNOWN
    return {"value": value, "ci_low": low, "ci_high": high, "n": len(both), "seeds": both["seed"].nunique()}


def stands(frame: pd.DataFrame) -> str:
    """What the rows of :func:`means` stand on, in words."""
    seeds = int(frame["seeds"].max())
    over = f"{seeds} seeds" if seeds > 1 else "one seed"
    tasks = int((frame["n"] / frame["seeds"]).max())
    return f"{tasks} tasks a seed, {over}, 95 % intervals over tasks and seeds"


def basis(table: pd.DataFrame) -> str:
    """What numbers stand on, in words."""
    tasks = table.groupby("seed")["task"].nunique()
    seeds = f"{len(tasks)} seeds" if len(tasks) > 1 else "one seed"
    return f"{int(tasks.max())} tasks a seed, {seeds}, 95 % intervals over tasks and seeds"
