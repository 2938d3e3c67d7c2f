"""What a guard's decisions were worth, over its seeds, with intervals that agree with the curves' bands.

Shares of decisions are over all batches of all seeds (Wilson). The gain of retention is over cases and seeds as in the
curves: a t-interval over two or three seeds would forget that each stands on hundreds of cases. Perplexity and seconds
have one number a seed, and Student's interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.intervals import Z, mean_interval, pooled, wilson

RETENTION = "retention_success"
# Rates of decisions and the batches that they are shares of.
RATES = {
    "accuracy": lambda runs: runs["n"],
    "rollback_rate": lambda runs: runs["n"],
    "false_positive_rate": lambda runs: runs["n"] * (1 - runs["harmful"]),
    "false_negative_rate": lambda runs: runs["n"] * runs["harmful"],
}
MEANS = ("auc", "ppl_rise_cut", "overhead")
Interval = tuple[float, float, float]


def guarded_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a trust table that were run, without those for other thresholds."""
    return table[table["rule"] == "as run"] if "rule" in table else table


def worth(runs: pd.DataFrame, forgetting: pd.DataFrame) -> dict[str, Interval]:
    """value, low and high of every measure, for the seeds of one method on one kind of stream."""
    found = {name: rate(runs[name], basis(runs)) for name, basis in RATES.items() if name in runs}
    found |= {name: mean_interval(runs[name]) for name in MEANS if name in runs}
    return found | {"retention_gain": retention_gain(runs, forgetting)}


def rate(shares: pd.Series, n: pd.Series) -> Interval:
    """A share over all batches of all seeds, NaN where a seed has none of its class."""
    known = shares.notna() & (n > 0)
    total = float(n[known].sum())
    if not total:
        return float("nan"), float("nan"), float("nan")
    value = float((shares[known] * n[known]).sum()) / total
    low, high = wilson(value, total)
    return value, float(low), float(high)


def retention_gain(runs: pd.DataFrame, forgetting: pd.DataFrame) -> Interval:
    """Gain of the share of edits that hold, relative to the same method without trust."""
    kept, base = (runs[c].to_numpy(dtype=float) for c in ("retention", "retention_unguarded"))
    if not len(base) or not base.mean() > 0:
        return float("nan"), float("nan"), float("nan")
    n = _cases(runs, forgetting)
    half = Z * np.sqrt((kept * (1 - kept) + base * (1 - base)) / n)
    difference = kept - base
    found = pooled(difference, difference - half, difference + half, bounds=(-np.inf, np.inf))
    value, low, high = (float(v / base.mean()) for v in found)
    return value, low, high


def _cases(runs: pd.DataFrame, forgetting: pd.DataFrame) -> Any:
    """Cases behind the last retention of each run."""
    curve = forgetting[forgetting["metric"] == RETENTION]
    last = curve[curve["edits_seen"] == curve["edits_seen"].max()]
    keys = ["experiment", "method", "batch", "replay", "rank", "seed"]
    found = runs[keys].merge(last[[*keys, "n"]], on=keys, how="left")["n"]
    return found.fillna(last["n"].min() if len(last) else 1.0).to_numpy(dtype=float)
