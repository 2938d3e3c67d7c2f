"""Were a guard's decisions right? Rates, ROC and precision-recall from labelled events.

A batch is *harmful* when applying it lowered the composite on evaluation probes (:mod:`editlab.editing.labels`); harmful
is the positive class, and low trust its score. A batch counts as rolled back when less than half of its update stayed.
One sweep over the recorded scores gives the curve of every threshold without a new run (the streams of other thresholds
would differ later on; those of the threshold ablation are real runs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.errors import DataError

COLUMNS = ["batch", "stress", "trust", "threshold", "scale", "rolled_back", "harmful", "composite_change"]


def decisions(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a batch that was judged and labelled: :data:`COLUMNS`; ``stress`` is empty for harmless intent."""
    rows = []
    for event in events:
        if "trust" not in event or "with" not in event:
            continue
        change = event["with"]["composite"] - event["without"]["composite"]
        scale = float(event["scale"])
        row = [event["batch"], event.get("stress", ""), event["trust"], event["threshold"], scale, scale < 0.5]
        rows.append([*row, change < 0, change])
    return pd.DataFrame(rows, columns=COLUMNS)


def rates(frame: pd.DataFrame, threshold: float | None = None) -> dict[str, float]:
    """How good the decisions were; with ``threshold``, those that it would have taken on the same scores.

    Returns:
        n, harmful (share), rollback_rate, false_positive_rate (of the harmless), false_negative_rate (of the harmful)
        and accuracy; NaN where a class is empty.
    """
    harmful = frame["harmful"].to_numpy(dtype=bool)
    rolled = (frame["rolled_back"] if threshold is None else frame["trust"] < threshold).to_numpy(dtype=bool)
    return {
        "n": float(len(frame)),
        "harmful": _share(harmful),
        "rollback_rate": _share(rolled),
        "false_positive_rate": _share(rolled[~harmful]),
        "false_negative_rate": _share(~rolled[harmful]),
        "accuracy": _share(rolled == harmful),
    }


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def roc(frame: pd.DataFrame) -> pd.DataFrame:
    """The ROC curve of low trust as a sign of harm: threshold, false_positive_rate, true_positive_rate, ascending.

    Raises:
        DataError: all batches are of one class.
    """
    harmful, order = _ranked(frame)
    positives = harmful.cumsum() / harmful.sum()
    negatives = (~harmful).cumsum() / (~harmful).sum()
    last = np.append(np.diff(order) != 0, True)  # equal scores move together
    return pd.DataFrame(
        {
            "threshold": np.r_[-np.inf, order[last]],
            "false_positive_rate": np.r_[0.0, negatives[last]],
            "true_positive_rate": np.r_[0.0, positives[last]],
        }
    )


def precision_recall(frame: pd.DataFrame) -> pd.DataFrame:
    """threshold, recall and precision of rolling back at and below each score.

    Raises:
        DataError: all batches are of one class.
    """
    harmful, order = _ranked(frame)
    caught, taken = harmful.cumsum(), np.arange(1, len(harmful) + 1)
    last = np.append(np.diff(order) != 0, True)
    values = {"threshold": order, "recall": caught / harmful.sum(), "precision": caught / taken}
    return pd.DataFrame({k: v[last] for k, v in values.items()})


def area_under_roc(frame: pd.DataFrame) -> float:
    """Probability that a harmful batch has less trust than a harmless one (ties count half)."""
    curve = roc(frame)
    return float(np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]))


def average_precision(frame: pd.DataFrame) -> float:
    """Precision averaged over the steps of recall."""
    curve = precision_recall(frame)
    return float((np.diff(curve["recall"], prepend=0.0) * curve["precision"]).sum())


def _ranked(frame: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores from the least trusted batch on."""
    harmful = frame["harmful"].to_numpy(dtype=bool)
    if harmful.all() or not harmful.any():
        raise DataError(f"decisions: {len(frame)} batches, all of one class; a curve needs harmful and harmless ones")
    order = np.argsort(frame["trust"].to_numpy(), kind="stable")
    return harmful[order], frame["trust"].to_numpy(dtype=float)[order]
