"""Means over held-out tasks and seeds, and paired differences of two methods on the same tasks.

A seed has a base, a pool and a split of its own. Within a seed the tasks give an interval (Student's), and those of the seeds
are pooled (:func:`editlab.analysis.statistics.intervals.pooled`). From three seeds on the interval is at least Student's of the
seeds' means: tasks of one seed share its base, and agree more than tasks of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.report.run import Run
from editlab.analysis.statistics.intervals import mean_interval, pooled

COMBINATIONS, OPERATIONS = "combinations", "operations"
SPLITS = {COMBINATIONS: "held-out combinations", OPERATIONS: "held-out operations"}


def joined(run: Run, name: str) -> pd.DataFrame:
    """The tables that the study's rules offer under a name, one under the other."""
    return pd.concat([read(run.root / file) for file in run.inputs[name]], ignore_index=True)


def read(path: Path) -> pd.DataFrame:
    """A table whose texts are texts."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def over_tasks(part: pd.DataFrame, column: str, bounds: tuple[float, float] = (0.0, 1.0)) -> dict[str, float]:
    """Mean of a column over tasks and seeds: value, low, high, n (tasks of all seeds), seeds."""
    found = [mean_interval(rows[column]) for _, rows in part.groupby("seed", sort=True)]
    # A seed with one task has no interval of its own: its spread is that between seeds.
    known = [(v, v if low != low else low, v if high != high else high) for v, low, high in found]
    values, lows, highs = zip(*known, strict=True)
    value, low, high = pooled(values, lows, highs, bounds)
    if len(found) > 2:
        _, below, above = mean_interval(values)
        low, high = max(bounds[0], min(low, below)), min(bounds[1], max(high, above))
    if len(part) < 2:
        low = high = float("nan")
    return {"value": value, "low": low, "high": high, "n": len(part), "seeds": len(found)}


def means(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str] = ("exact", "letters")) -> pd.DataFrame:
    """One row a group in the order of the table: ``by``, n, seeds, and each column with ``_low`` and ``_high``.

    With deltas in the table also ``delta_cosine``, ``delta_ratio`` (squared error of the deltas over their squared size)
    and ``delta_r2`` (1 - the error over the spread around the mean of training).
    """
    rows: list[dict[str, Any]] = []
    for key, part in table.groupby(list(by), sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        for column in columns:
            found = over_tasks(part, column)
            row |= {"n": found["n"], "seeds": found["seeds"], column: found["value"]}
            row |= {f"{column}_low": found["low"], f"{column}_high": found["high"]}
        if "delta_error" in part:
            known = part[["delta_error", "delta_size", "delta_spread"]].sum(min_count=1)
            row["delta_cosine"] = float(part["delta_cosine"].mean())
            row["delta_ratio"] = float(known["delta_error"] / known["delta_size"])
            row["delta_r2"] = float(1 - known["delta_error"] / known["delta_spread"])
        rows.append(row)
    return pd.DataFrame(rows)


def difference(one: pd.DataFrame, other: pd.DataFrame, column: str = "exact") -> dict[str, float]:
    """One method minus another on the same tasks of the same seeds: value, ci_low, ci_high, n, seeds.

    Tasks that one of them lacks are left out; n is 0 where they share none.
    """
    both = one[["seed", "task", column]].merge(
        other[["seed", "task", column]], on=["seed", "task"], suffixes=("", "_other")
    )
    if not len(both):
        unknown = float("nan")
        return {"value": unknown, "ci_low": unknown, "ci_high": unknown, "n": 0, "seeds": 0}
    both["difference"] = both[column] - both[f"{column}_other"]
    found = over_tasks(both, "difference", (-1.0, 1.0))
    renamed = {"ci_low": found["low"], "ci_high": found["high"]}
    return {"value": found["value"], **renamed, "n": found["n"], "seeds": found["seeds"]}


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
