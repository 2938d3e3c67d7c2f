"""The decisions of trust against their labels, batch by batch and cell by cell, and what they were worth over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.edit.cells import EDITING, final_scores, read_events
from editlab.analysis.edit.scores import RETENTION, SETTING, last_snapshot
from editlab.analysis.report.run import Cells
from editlab.analysis.statistics import classification
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, Z, mean_interval, pooled, share_interval, stacked
from editlab.files.artifacts import read_provenance

PLAIN, UNEDITED = "emmet", "none"  # the method without trust, and the one that edits nothing
AREAS = {"auc": classification.area_under_roc, "average_precision": classification.average_precision}
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
COLUMNS = ["batch", "stress", "trust", "threshold", "scale", "rolled_back", "harmful", "composite_change"]


def decisions(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a batch that was judged and labelled: :data:`COLUMNS`; ``stress`` is empty for harmless intent.

    A batch is *harmful* when applying it lowered the composite on evaluation probes (:mod:`editlab.editing.labels`). It
    counts as rolled back when less than half of its update stayed.
    """
    rows = []
    for event in events:
        if "trust" not in event or "with" not in event:
            continue
        change = event["with"]["composite"] - event["without"]["composite"]
        scale = float(event["scale"])
        row = [event["batch"], event.get("stress", ""), event["trust"], event["threshold"], scale, scale < 0.5]
        rows.append([*row, change < 0, change])
    return pd.DataFrame(rows, columns=COLUMNS)


def trust_table(cells: Cells) -> pd.DataFrame:
    """One row a judged cell: how good its decisions were and what they were worth against the same method without trust.

    Further rows, of rates alone, hold the recorded scores against :data:`THRESHOLDS`: a re-scoring, no run, for a stream with
    another threshold would differ later on. ``retention_gain`` is relative; ``ppl_rise_cut`` is the share of the rise of
    perplexity without trust that was avoided; ``overhead`` is the time of trust relative to the editing time without it.
    """
    by_place = {(cell["method"], *_place(cell)): directory for directory, cell in cells}
    rows: list[dict[str, Any]] = []
    for directory, cell in cells:
        frame = decisions(read_events(directory))
        if frame.empty:
            continue
        both = classification.both_classes(frame)
        areas = {name: area(frame) if both else np.nan for name, area in AREAS.items()}
        plain = by_place.get((PLAIN, *_place(cell)))
        unedited = by_place.get((UNEDITED, *_place({**cell, "batch": "1", "replay": "0"})))
        gains = _gains(directory, plain, unedited)
        rows.append({**cell, "rule": "as run", **classification.rates(frame), **areas, **gains})
        rows += [{**cell, "rule": f"re-scored at {t:g}", **classification.rates(frame, t)} for t in THRESHOLDS]
    return pd.DataFrame(rows)


def _gains(directory: str, plain: str | None, unedited: str | None) -> dict[str, float]:
    """What the decisions of a cell were worth; NaN where a cell to compare with is missing."""
    scores, base = final_scores(directory), final_scores(plain) if plain else {}
    start = final_scores(unedited)["perplexity"] if unedited else np.nan
    kept, perplexity, neighbours = (base.get(name, np.nan) for name in ("retention", "perplexity", "NS"))
    rise = perplexity - start
    seconds = {stage: clocks["cpu"] for stage, clocks in read_provenance(directory)["seconds"].items()}
    return {
        "retention": scores["retention"],
        "retention_unguarded": kept,
        "retention_gain": scores["retention"] / kept - 1 if kept else np.nan,
        "NS": scores["NS"],
        "NS_unguarded": neighbours,
        "perplexity": scores["perplexity"],
        "perplexity_unguarded": perplexity,
        "ppl_rise_cut": 1 - (scores["perplexity"] - start) / rise if rise > 0 else np.nan,
        "overhead": seconds.get("trust", 0.0) / max(1e-9, sum(seconds.get(s, 0.0) for s in EDITING if s != "trust")),
    }


def _place(cell: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(v for k, v in cell.items() if k not in ("method", "rank"))


def trust_curves(cells: Cells) -> pd.DataFrame:
    """ROC and precision-recall of each judged method, its seeds pooled: curve, threshold, x, y."""
    parts = [pd.DataFrame(columns=["threshold", "x", "y", "method", "curve", "n"])]
    for method, frame in trust_decisions(cells).groupby("method", sort=False):
        if classification.both_classes(frame):
            curves = {"roc": classification.roc(frame), "precision_recall": classification.precision_recall(frame)}
            for name, curve in curves.items():
                values = curve.set_axis(["threshold", "x", "y"], axis=1)
                parts.append(values.assign(method=method, curve=name, n=len(frame)))
    return stacked(parts)


def trust_decisions(cells: Cells) -> pd.DataFrame:
    """Every judged and labelled batch of the guarded cells: their coordinates, its ``number`` in the stream, and the
    other columns of ``decisions``."""
    numbered = {"batch": "number"}
    return stacked([decisions(read_events(d)).rename(columns=numbered).assign(**cell) for d, cell in cells])


RATES = {  # of decisions, and the batches that they are shares of
    "accuracy": lambda runs: runs["n"],
    "rollback_rate": lambda runs: runs["n"],
    "false_positive_rate": lambda runs: runs["n"] * (1 - runs["harmful"]),
    "false_negative_rate": lambda runs: runs["n"] * runs["harmful"],
}
MEANS = ("auc", "ppl_rise_cut", "overhead")


def as_run(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a trust table that were run, without those for other thresholds."""
    return table[table["rule"] == "as run"] if "rule" in table else table


def worth(runs: pd.DataFrame, forgetting: pd.DataFrame) -> dict[str, Interval]:
    """value, low and high of every measure, for the seeds of one method on one kind of stream.

    Shares of decisions are over all batches of all seeds (Wilson). The gain of retention is over cases and seeds as in the
    curves: a t-interval over two or three seeds would forget that each stands on hundreds of cases. Perplexity and seconds
    have one number a seed, and Student's interval.
    """
    found = {name: _rate(runs[name], basis(runs)) for name, basis in RATES.items() if name in runs}
    found |= {name: mean_interval(runs[name]) for name in MEANS if name in runs}
    return found | {"retention_gain": _retention_gain(runs, forgetting)}


def _rate(shares: pd.Series, n: pd.Series) -> Interval:
    """A share over all batches of all seeds, NaN where a seed has none of its class."""
    known = shares.notna() & (n > 0)
    total = float(n[known].sum())
    return share_interval(float((shares[known] * n[known]).sum()) / total, total) if total else UNKNOWN


def _retention_gain(runs: pd.DataFrame, forgetting: pd.DataFrame) -> Interval:
    """Gain of the share of edits that hold, relative to the same method without trust."""
    kept, base = (runs[c].to_numpy(dtype=float) for c in ("retention", "retention_unguarded"))
    if not len(base) or not base.mean() > 0:
        return UNKNOWN
    last = last_snapshot(forgetting[forgetting["metric"] == RETENTION])
    keys = ["experiment", *SETTING, "seed"]
    cases = runs[keys].merge(last[[*keys, "n"]], on=keys, how="left")["n"]
    n = cases.fillna(last["n"].min() if len(last) else 1.0).to_numpy(dtype=float)
    half = Z * np.sqrt((kept * (1 - kept) + base * (1 - base)) / n)
    difference = kept - base
    found = pooled(difference, difference - half, difference + half, bounds=(-np.inf, np.inf))
    return Interval(*(float(x / base.mean()) for x in found))
