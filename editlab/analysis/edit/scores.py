"""From a table of cells to scores by setting: seeds taken together, with intervals; and how they are printed.

A *setting* is a method with its batch size, replay rate and rank. The *headline* has one setting a method, as alike as
the methods allow, so that the methods can be compared at a glance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.statistics.intervals import pooled, wilson
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import label, stands_on

SETTING = ("method", "batch", "replay", "rank")
SCORES = ("ES", "PS", "NS", "S")
CONTROLS = ("none", "random", "shuffled")
HEADLINE_BATCH = 32
RETENTION, NEIGHBORS = "retention_success", "neighborhood_success"
NO_CELLS = "No finished cell to compare."
INTERVALS = "Success at the end of the stream with 95 % intervals over cases and seeds"


def pooled_scores(matrix: pd.DataFrame, when: str = "final", protocol: str = "success") -> pd.DataFrame:
    """One row a (setting, metric) of an ablation matrix.

    Returns:
        columns method, batch, replay, rank, metric, value, low, high, seeds, n (cases of all seeds).
    """
    rows: list[dict[str, Any]] = []
    chosen = matrix[(matrix["when"] == when) & (matrix["protocol"] == protocol)]
    for key, part in chosen.groupby(list(SETTING), sort=False):
        for metric in SCORES:
            if metric in part:
                value, low, high = pooled(part[metric], part[f"{metric}_low"], part[f"{metric}_high"])
                rows.append(_row(SETTING, key, metric, value, low, high, len(part), int(part["n"].sum())))
    return pd.DataFrame(rows, columns=[*SETTING, "metric", "value", "low", "high", "seeds", "n"])


def pooled_curves(curves: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """One row a (setting, edits seen, metric) of curves whose values are shares of n cases (retention, neighbours).

    Returns:
        columns of ``by``, edits_seen, metric, value, low, high, seeds, n.
    """
    keys = [*by, "edits_seen"]
    low, high = wilson(curves["value"], curves["n"])
    table = curves.assign(low=low, high=high)
    rows = []
    for key, part in table.groupby([*keys, "metric"], sort=False):
        *place, metric = key
        value, bottom, top = pooled(part["value"], part["low"], part["high"])
        rows.append(_row(keys, tuple(place), str(metric), value, bottom, top, len(part), int(part["n"].sum())))
    return pd.DataFrame(rows, columns=[*keys, "metric", "value", "low", "high", "seeds", "n"])


def _row(
    names: Sequence[str], key: Any, metric: str, value: float, low: float, high: float, seeds: int, n: int
) -> dict[str, Any]:
    found = {"metric": metric, "value": value, "low": low, "high": high, "seeds": seeds, "n": n}
    return dict(zip(names, key, strict=True)) | found


def controls(matrix: pd.DataFrame) -> list[str]:
    """Methods that are no contestants: the unedited model and random updates, in the table's order."""
    methods = list(dict.fromkeys(matrix["method"]))
    unedited = set()
    if "delta_norm" in matrix:
        largest = matrix.groupby("method")["delta_norm"].max()
        unedited = set(largest[largest == 0].index)
    return [m for m in methods if m in CONTROLS or m in unedited]


def headline_settings(table: pd.DataFrame, batch: int = HEADLINE_BATCH) -> pd.DataFrame:
    """One setting a method: least replay, largest rank, and the batch size nearest to ``batch`` that half of them have.

    A method without that batch size (ROME edits one fact at a time) has its own nearest one.
    """
    settings = table[list(SETTING)].drop_duplicates()
    counts = settings.groupby("batch")["method"].nunique()
    usual = counts.index[2 * counts >= settings["method"].nunique()]
    common = min(usual if len(usual) else counts.index, key=lambda b: _distance(b, batch), default=batch)
    rows = []
    for _, part in settings.groupby("method", sort=False):
        part = part[part["replay"] == part["replay"].min()]
        nearest = min(part["batch"], key=lambda b: _distance(b, common))
        part = part[part["batch"] == nearest]
        rows.append(part[part["rank"] == part["rank"].max()].iloc[0])
    return pd.DataFrame(rows, columns=list(SETTING)).reset_index(drop=True)


def _distance(one: float, other: float) -> tuple[float, float]:
    """On a scale of doublings; of two alike the larger batch."""
    return abs(float(np.log2(one / other))), -one


def headline(table: pd.DataFrame, batch: int = HEADLINE_BATCH) -> pd.DataFrame:
    """The rows of a table at the headline settings, methods in the table's order."""
    return at(table, headline_settings(table, batch)) if len(table) else table


def at(table: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at these settings."""
    wanted = set(settings[list(SETTING)].itertuples(index=False, name=None))
    keep = [row in wanted for row in table[list(SETTING)].itertuples(index=False, name=None)]
    return table[np.array(keep, dtype=bool)].reset_index(drop=True)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Scores side by side: one row a setting, columns ES, ES_low, ES_high, ..., seeds, n."""
    rows = []
    for key, part in table.groupby(list(SETTING), sort=False):
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        row |= {"seeds": int(part["seeds"].max()), "n": int(part["n"].max())}
        for found in part.itertuples():
            metric = str(found.metric)
            row |= {metric: found.value, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows.append(row)
    scores = [c for metric in SCORES for c in (metric, f"{metric}_low", f"{metric}_high")]
    return pd.DataFrame(rows, columns=[*SETTING, "seeds", "n", *scores])


def count(frame: pd.DataFrame) -> tuple[int, int]:
    """(cases, seeds) that a row of scores stands on: the most of any."""
    return (int(frame["n"].max()), int(frame["seeds"].max())) if len(frame) else (0, 0)


def basis(frame: pd.DataFrame) -> str:
    """``n = 192 cases, 2 seeds`` of a table of scores."""
    return stands_on(*count(frame))


def named(rows: pd.DataFrame, metric: str = "") -> list[tuple[str, float, float, float]]:
    """(name, value, low, high) of each row: of a column of scores side by side, or of ``value``; replay is named."""
    value, low, high = (metric, f"{metric}_low", f"{metric}_high") if metric else ("value", "low", "high")
    return [(with_replay(r), float(r[value]), float(r[low]), float(r[high])) for r in records(rows)]


def with_replay(row: Mapping[str, Any]) -> str:
    """A method, with its replay rate where it has one."""
    return f"{label(row['method'])} with replay {row['replay']:g}" if row["replay"] else label(row["method"])


def with_batch(row: Mapping[str, Any]) -> str:
    """A method with its batch size, where it edits."""
    return label(row["method"]) if row["method"] == "none" else f"{label(row['method'])} ({row['batch']})"


def pooled_cells(table: pd.DataFrame, means: Sequence[str]) -> pd.DataFrame:
    """Scores of cells with seeds together (intervals), and plain means of the other columns."""
    rows: list[dict[str, Any]] = []
    for key, part in table.groupby(list(SETTING), sort=False):
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for metric in SCORES:
            found = pooled(part[metric], part[f"{metric}_low"], part[f"{metric}_high"])
            row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), found, strict=True))
        row |= {name: float(part[name].mean()) for name in means if name in part}
        rows.append(row | {"n": int(part["n"].sum()), "seeds": len(part)})
    return pd.DataFrame(rows)


def without_effect(settings: Mapping[str, Any]) -> list[str]:
    """Methods of a study's block that are no contestants: they edit nothing, or at random."""
    from editlab.config.solvers import SOLVERS

    return [m for m, recipe in settings["methods"].items() if SOLVERS[recipe["solver"]].control]
