"""How well a score tells two classes apart: rates, ROC, precision and recall, with bands that know how few cases there are.

A frame has the columns ``harmful`` (the positive class) and ``trust`` (its score: low means harmful).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.analysis.statistics.intervals import Interval, area_interval, wilson
from editlab.analysis.statistics.resampling import OF_CURVES, drawn_within, generator, percentiles
from editlab.errors import DataError

GRID = np.linspace(0, 1, 101)
Array = NDArray[np.float64]
Curve = Callable[[pd.DataFrame, Array], Array]


def both_classes(frame: pd.DataFrame) -> bool:
    """Whether there are harmful and harmless cases: a curve needs both."""
    return bool(frame["harmful"].any() and not frame["harmful"].all()) if len(frame) else False


def _labelled(frame: pd.DataFrame) -> tuple[NDArray[np.bool_], Array]:
    """Labels, and scores that are higher where harm is likelier; raises ``DataError`` where all are of one class."""
    if not both_classes(frame):
        raise DataError(f"decisions: {len(frame)} batches, all of one class; a curve needs harmful and harmless ones")
    return frame["harmful"].to_numpy(dtype=bool), -frame["trust"].to_numpy(dtype=float)


def roc(frame: pd.DataFrame) -> pd.DataFrame:
    """The ROC curve of low trust as a sign of harm: threshold, false_positive_rate, true_positive_rate, ascending."""
    from sklearn.metrics import roc_curve

    false, true, scores = roc_curve(*_labelled(frame), drop_intermediate=False)
    return pd.DataFrame({"threshold": -scores, "false_positive_rate": false, "true_positive_rate": true})


def precision_recall(frame: pd.DataFrame) -> pd.DataFrame:
    """threshold, recall and precision of rolling back at and below each score."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, scores = precision_recall_curve(*_labelled(frame), drop_intermediate=False)
    values = {"threshold": -scores, "recall": recall[:-1], "precision": precision[:-1]}  # without the end (0, 1)
    return pd.DataFrame({name: value[::-1] for name, value in values.items()})


def area_under_roc(frame: pd.DataFrame) -> float:
    """Probability that a harmful batch has less trust than a harmless one (ties count half)."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(frame)))


def average_precision(frame: pd.DataFrame) -> float:
    """Precision averaged over the steps of recall."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_labelled(frame)))


def _passed(frame: pd.DataFrame, counts: Array) -> tuple[Array, Array]:
    """Harmful cases, and all cases, at and below each score: ``(draws, scores)``, every case counted as often as drawn."""
    order = np.argsort(frame["trust"].to_numpy(), kind="stable")
    last = np.append(np.diff(frame["trust"].to_numpy(dtype=float)[order]) != 0, True)  # equal scores move together
    harmful, drawn = frame["harmful"].to_numpy(dtype=bool)[order], counts[:, order]
    return (drawn * harmful).cumsum(axis=1)[:, last], drawn.cumsum(axis=1)[:, last]


def roc_on_grid(frame: pd.DataFrame, counts: Array) -> Array:
    """The share of harmful batches caught at each false positive rate of the grid (a staircase: the last step before)."""
    caught, taken = _passed(frame, counts)
    curves = zip((taken - caught) / (taken - caught)[:, -1:], caught / caught[:, -1:], strict=True)
    return np.stack([np.r_[0.0, y][np.searchsorted(np.r_[0.0, x], GRID, side="right") - 1] for x, y in curves])


def precision_on_grid(frame: pd.DataFrame, counts: Array) -> Array:
    """Precision at the first threshold that reaches each recall of the grid."""
    found = []
    for caught, taken in zip(*_passed(frame, counts), strict=True):
        there = np.diff(taken, prepend=0.0) > 0
        recall, precision = caught[there] / caught[-1], caught[there] / taken[there]
        place = np.searchsorted(recall, GRID - 1e-12, side="left")
        found.append(precision[np.minimum(place, len(recall) - 1)])
    return np.stack(found)


def on_grid(frame: pd.DataFrame, curve: Curve) -> Array:
    """A curve of the cases as they are."""
    return curve(frame, np.ones((1, len(frame))))[0]


def band(frame: pd.DataFrame, curve: Curve) -> tuple[Array, Array]:
    """The 95 % band of a curve on the grid.

    The bootstrap over batches alone would call a perfect curve of three harmful batches certain; so the band is at least
    as wide as Wilson's interval of the share itself: of the harmful batches for ROC, of those rolled back for precision.
    """
    weights = drawn_within(generator("trust curve"), frame["harmful"], OF_CURVES)
    low, high = percentiles(curve(frame, weights))
    values, harmful = on_grid(frame, curve), float(frame["harmful"].sum())
    caught = np.maximum(1.0, GRID * harmful)
    basis = np.full_like(GRID, harmful) if curve is roc_on_grid else caught / np.maximum(values, 1e-9)
    bottom, top = wilson(values, np.minimum(basis, len(frame)))
    return np.minimum(low, bottom), np.maximum(high, top)


def roc_area(frame: pd.DataFrame) -> Interval:
    """Area under the ROC curve with its interval by Newcombe's score method."""
    value, harmful = area_under_roc(frame), int(frame["harmful"].sum())
    return Interval(value, *area_interval(value, harmful, len(frame) - harmful))


def precision_area(frame: pd.DataFrame) -> Interval:
    """Average precision; its interval are the areas under the edges of the band."""
    value = average_precision(frame)
    low, high = band(frame, precision_on_grid)
    return Interval(value, min(value, float(low.mean())), max(value, float(high.mean())))


def rates(frame: pd.DataFrame, threshold: float | None = None) -> dict[str, float]:
    """How good decisions (column ``rolled_back``) were; with ``threshold``, those that it would have taken on the scores.

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


def _share(flags: Any) -> float:
    return float(flags.mean()) if len(flags) else float("nan")
