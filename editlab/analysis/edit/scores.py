"""From a table of cells to scores by setting: seeds taken together, with intervals; and how they are printed.

A *setting* is a method with its batch size, replay rate and rank. The *headline* has one setting a method, as alike as
the methods allow, so that the methods can be compared at a glance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.statistics import intervals
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, beside, grouped, pooled, records
from editlab.analysis.statistics.streams import ENOUGH
from editlab.analysis.text.wording import counted, label

SETTING = ("method", "batch", "replay", "rank")
SCORES = ("ES", "PS", "NS", "S")
CONTROLS = ("none", "random", "shuffled")
RIVALS = ("in_context", "text_lookup")
"""They edit nothing either, and yet answer: contestants, to be beaten."""
TRAINED = "trained"
"""The model that was trained on the new facts, in tables that have it beside the methods."""
HEADLINE_BATCH = 32
RETENTION, NEIGHBORS = "retention_success", "neighborhood_success"
SHOWN = (*SCORES[:3], "NS_exact", "SS", "SS_exact", "S")  # the headline's columns, where a table has them
TITLES = {"NS_exact": "NS exact", "SS_exact": "SS exact"}
SURROUNDINGS = (
    "NS: neighbours whose own fact is unedited; SS: unedited facts of the edited subjects; exact: the answer itself in place of "
    "success"
)


def controls(matrix: pd.DataFrame) -> list[str]:
    """Methods that are no contestants: the unedited model and random updates, in the table's order; not :data:`RIVALS`."""
    methods = list(dict.fromkeys(matrix["method"]))
    unedited = set()
    if "delta_norm" in matrix:
        largest = matrix.groupby("method")["delta_norm"].max()
        unedited = {m for m in largest[largest == 0].index if not m.startswith(RIVALS)}
    return [m for m in methods if m in CONTROLS or m in unedited]


def common_batches(table: pd.DataFrame) -> list[int]:
    """Batch sizes that half of the methods have; all of them, where there is none."""
    counts = table.groupby("batch")["method"].nunique()
    common = counts.index[2 * counts >= table["method"].nunique()]
    return list(common if len(common) else counts.index)


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of contestants at their least replay and largest rank."""
    rows = table[~table["method"].isin(controls(table))]
    rows = rows[rows["replay"] == rows.groupby("method")["replay"].transform("min")]
    return rows[rows["rank"] == rows.groupby("method")["rank"].transform("max")]


def headline_settings(table: pd.DataFrame) -> pd.DataFrame:
    """One setting a method: least replay, largest rank, and of the batch sizes that half of them have the one nearest to
    :data:`HEADLINE_BATCH`.

    A method without that batch size (ROME edits one fact at a time) has its own nearest one.
    """
    settings = table[list(SETTING)].drop_duplicates()
    edited = settings[settings["method"] != TRAINED]
    common = min(common_batches(edited), key=lambda b: _distance(b, HEADLINE_BATCH), default=HEADLINE_BATCH)
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


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at the headline settings, methods in the table's order."""
    return at(table, headline_settings(table)) if len(table) else table


def at(table: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at these settings."""
    wanted = set(settings[list(SETTING)].itertuples(index=False, name=None))
    keep = [row in wanted for row in table[list(SETTING)].itertuples(index=False, name=None)]
    return table[np.array(keep, dtype=bool)].reset_index(drop=True)


def final_success(matrix: pd.DataFrame) -> pd.DataFrame:
    """The rows of an ablation matrix on success at the end of the stream."""
    return matrix[(matrix["when"] == "final") & (matrix["protocol"] == "success")]


def pooled_cells(cells: pd.DataFrame, means: Sequence[str] = ()) -> pd.DataFrame:
    """One row a setting, seeds together: ES, ES_low, ES_high, ..., means of other columns, n (cases of all seeds), seeds."""

    def told(part: pd.DataFrame) -> dict[str, Any]:
        known = [m for m in SHOWN if m in part and f"{m}_low" in part]
        columns = {m: (part[m], part[f"{m}_low"], part[f"{m}_high"]) for m in known}
        plain = {name: float(part[name].mean()) for name in means if name in part}
        n = int(part["n"].sum())
        found = {metric: pooled(*values) for metric, values in columns.items()}
        for metric, number in found.items():
            if number.low == number.high:  # all cases of all streams score alike: nothing can be drawn anew
                found[metric] = intervals.share_interval(number.value, n)
        return {**beside(found), **plain, "n": n, "seeds": len(part)}

    return grouped(cells, SETTING, told)


def side_by_side(matrix: pd.DataFrame) -> pd.DataFrame:
    """Final success of a matrix, one row a setting: seeds, n, ES, ES_low, ES_high, ..., S_high; of :data:`SHOWN` those that it
    has, of :data:`SCORES` all."""
    table = pooled_cells(final_success(matrix))
    scores = beside({name: UNKNOWN for name in SHOWN if name in SCORES or name in table})
    return table.reindex(columns=[*SETTING, "seeds", "n", *scores])


def pooled_scores(matrix: pd.DataFrame) -> pd.DataFrame:
    """The same long, one row a (metric, setting): :data:`SETTING`, seeds, n, metric, value, low, high."""
    table = side_by_side(matrix)
    fixed = table[[*SETTING, "seeds", "n"]]
    names = {m: {"value": table[m], "low": table[f"{m}_low"], "high": table[f"{m}_high"]} for m in SCORES}
    return pd.concat([fixed.assign(metric=m, **columns) for m, columns in names.items()], ignore_index=True)


def pooled_curves(curves: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """Curves whose values are shares of n cases (retention, neighbours), seeds together.

    Returns:
        columns of ``by``, edits_seen, metric, value, low, high, seeds, n (cases of all seeds).
    """

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = pooled(part["value"], part["low"], part["high"])
        return {**found._asdict(), "seeds": len(part), "n": int(part["n"].sum())}

    keys = [*by, "edits_seen", "metric"]
    low, high = intervals.wilson(curves["value"], curves["n"])
    return grouped(curves.assign(low=low, high=high), keys, told, columns=[*keys, *UNKNOWN._fields, "seeds", "n"])


def last_snapshot(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows after the most edits."""
    return curves[curves["edits_seen"] == curves["edits_seen"].max()]


def basis(frame: pd.DataFrame, *noun: str) -> str:
    """``n = 192 cases, 2 seeds``: what a row of a table of scores stands on, the most of any."""
    n, seeds = (int(frame[name].max()) if len(frame) else 0 for name in ("n", "seeds"))
    return f"n = {counted(n, *noun or ('case',))}, {counted(seeds, 'seed')}"


def over(frame: pd.DataFrame, what: str = "intervals") -> str:
    """``95 % intervals over streams (n = 192 cases, 3 seeds)``; of fewer seeds than :data:`ENOUGH`, over cases."""
    general = len(frame) > 0 and frame["seeds"].max() >= ENOUGH
    return f"95 % {what} over {'streams' if general else 'the cases of these streams'} ({basis(frame)})"


def named(rows: pd.DataFrame, metric: str = "value") -> list[tuple[str, float, float, float]]:
    """(name, value, low, high) of each row; replay is named."""
    return [(with_replay(r), *Interval.of(r, metric)) for r in records(rows)]


def with_replay(row: Mapping[str, Any]) -> str:
    """A method, with its replay rate where it has one."""
    name = label(row["method"])
    return f"{name.removesuffix(' with replay')} with replay {row['replay']:g}" if row["replay"] else name


def with_batch(row: Mapping[str, Any]) -> str:
    """A method with its batch size, where it edits."""
    return label(row["method"]) if row["method"] == "none" else f"{label(row['method'])} ({row['batch']})"


def without_effect(settings: Mapping[str, Any]) -> list[str]:
    """Methods of a study's block that are no contestants: they edit nothing, or at random."""
    from editlab.config.solvers import SOLVERS

    return [m for m, recipe in settings["methods"].items() if SOLVERS[recipe["solver"]].control]
