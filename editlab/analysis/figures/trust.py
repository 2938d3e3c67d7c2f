"""Trust: how well its score tells harmful batches from harmless ones, and what rolling them back saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.analysis.decisions import area_under_roc, average_precision, precision_recall, roc
from editlab.analysis.intervals import Z, wilson
from editlab.analysis.rows import records
from editlab.analysis.scores import SETTING, count, pooled_curves
from editlab.analysis.style import DARK, GREY, legend, marks, panels, says, share_axis, styled
from editlab.analysis.style import band as line_with_band
from editlab.analysis.wording import counted, label, leading, level_with, stands_on
from editlab.randomness import derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_CLASS = "No curve: a curve needs harmful and harmless batches, and there is one kind alone."
RESAMPLES = 500
GRID = np.linspace(0, 1, 101)
Curve = Callable[[pd.DataFrame], NDArray[np.float64]]
Area = Callable[[pd.DataFrame], float]


def _roc_on_grid(frame: pd.DataFrame) -> NDArray[np.float64]:
    """The share of harmful batches caught at each false positive rate of the grid (a staircase: the last step before)."""
    curve = roc(frame)
    x = curve["false_positive_rate"].to_numpy(dtype=float)
    y = curve["true_positive_rate"].to_numpy(dtype=float)
    return np.asarray(y[np.searchsorted(x, GRID, side="right") - 1], dtype=np.float64)


def _precision_on_grid(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Precision at the first threshold that reaches each recall of the grid."""
    curve = precision_recall(frame)
    recall, precision = (curve[c].to_numpy(dtype=float) for c in ("recall", "precision"))
    place = np.minimum(np.searchsorted(recall, GRID - 1e-12, side="left"), len(recall) - 1)
    return np.asarray(precision[place], dtype=np.float64)


def stressed(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions of the experiment with harmful batches."""
    if "experiment" not in decisions or decisions.empty:
        return decisions
    return decisions[decisions["experiment"] == decisions["experiment"].iloc[0]]


def both_classes(frame: pd.DataFrame) -> bool:
    return bool(frame["harmful"].any() and not frame["harmful"].all()) if len(frame) else False


def resampled_curves(frame: pd.DataFrame, curve: Curve) -> NDArray[np.float64]:
    """``(draws, grid)`` of a curve on batches drawn anew, harmful and harmless ones apart, so that neither class is lost."""
    rng = np.random.default_rng(derive_seed("trust curve", 0))
    harmful = frame["harmful"].to_numpy(dtype=bool)
    classes = [np.flatnonzero(harmful), np.flatnonzero(~harmful)]
    small = frame[["harmful", "trust"]]
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rng.choice(c, size=len(c)) for c in classes])
        draws.append(curve(small.iloc[rows]))
    return np.stack(draws)


def band(frame: pd.DataFrame, curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % band of a curve on the grid.

    The bootstrap over batches alone would call a perfect curve of three harmful batches certain; so the band is at least
    as wide as Wilson's interval of the share itself: of the harmful batches for ROC, of those rolled back for precision.
    """
    low, high = np.quantile(resampled_curves(frame, curve), [0.025, 0.975], axis=0)
    values, harmful = curve(frame), float(frame["harmful"].sum())
    caught = np.maximum(1.0, GRID * harmful)
    basis = np.full_like(GRID, harmful) if curve is _roc_on_grid else caught / np.maximum(values, 1e-9)
    bottom, top = wilson(values, np.minimum(basis, len(frame)))
    return np.minimum(low, bottom), np.maximum(high, top)


def area_with_interval(frame: pd.DataFrame, area: Area) -> tuple[float, float, float]:
    """An area under a curve with its 95 % interval: of ROC by Newcombe's score method (2006), which has a width for a
    perfect curve too; of precision-recall the areas under the edges of its band.
    """
    value = area(frame)
    if area is area_under_roc:
        harmful = int(frame["harmful"].sum())
        return value, *newcombe(value, harmful, len(frame) - harmful)
    low, high = band(frame, _precision_on_grid)
    return value, min(value, float(low.mean())), max(value, float(high.mean()))


def newcombe(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Newcombe's method 5 for an area under the ROC curve: the values that the area does not reject at 5 %."""
    theta = np.linspace(0.0, 1.0, 2001)
    half = (positives + negatives) / 2 - 1
    spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
    variance = theta * (1 - theta) * spread / (positives * negatives)
    inside = theta[np.abs(area - theta) <= Z * np.sqrt(np.maximum(0.0, variance)) + 1e-12]
    return float(min(inside.min(initial=area), area)), float(max(inside.max(initial=area), area))


def _curves(decisions: pd.DataFrame, curve: Curve, area: Area, names: tuple[str, str]) -> Figure:
    rows = stressed(decisions)
    groups = [(str(m), part) for m, part in rows.groupby("method", sort=False) if both_classes(part)]
    if not groups:
        return says(ONE_CLASS)
    figure, (axis,) = panels(1, 1, 2.9)
    looks = marks(m for m, _ in groups)
    for method, part in groups:
        low, high = band(part, curve)
        value, bottom, top = area_with_interval(part, area)
        name = f"{label(method)}: area {level_with(value, bottom, top)}"
        mark = looks[method]
        axis.step(GRID, curve(part), where="post", color=mark.color, linestyle=mark.line, label=name)
        axis.fill_between(GRID, low, high, step="post", color=mark.color, alpha=0.15, linewidth=0)
    axis.set(xlabel=names[0], ylabel=names[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    legend(figure, axis, columns=1)
    return figure


@styled
def trust_roc(decisions: pd.DataFrame) -> Figure:
    """ROC of low trust as a sign of harm, seeds pooled, with the 95 % band over batches."""
    figure = _curves(
        decisions, _roc_on_grid, area_under_roc, ("harmless batches rolled back", "harmful batches caught")
    )
    if figure.axes[0].has_data() and figure.axes[0].lines:
        figure.axes[0].plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 2)), linewidth=0.8)
    return figure


@styled
def trust_pr(decisions: pd.DataFrame) -> Figure:
    """Precision over recall of rolling back the least trusted batches; the dotted line is rolling back at random."""
    precision = ("harmful batches caught (recall)", "harmful among rolled back")
    figure = _curves(decisions, _precision_on_grid, average_precision, precision)
    rows = stressed(decisions)
    if figure.axes[0].lines and len(rows):
        figure.axes[0].axhline(rows["harmful"].mean(), color=DARK, linestyle=(0, (1, 2)), linewidth=0.8)
    return figure


def trust_roc_caption(decisions: pd.DataFrame) -> str:
    """The area of each score, and whether it beats chance."""
    return _areas_caption(decisions, area_under_roc, "area under the ROC curve", 0.5)


def trust_pr_caption(decisions: pd.DataFrame) -> str:
    """Average precision of each score, against the share of harmful batches."""
    rows = stressed(decisions)
    chance = float(rows["harmful"].mean()) if len(rows) else 0.0
    return _areas_caption(decisions, average_precision, "average precision", chance)


def _areas_caption(decisions: pd.DataFrame, area: Area, what: str, chance: float) -> str:
    rows = stressed(decisions)
    groups = [(str(m), part) for m, part in rows.groupby("method", sort=False) if both_classes(part)]
    if not groups:
        return ONE_CLASS
    found = []
    for method, part in groups:
        value, low, high = area_with_interval(part, area)
        verdict = "above chance" if low > chance else "below chance" if high < chance else "not told from chance"
        found.append(f"{label(method)} {level_with(value, low, high)}, {verdict}")
    n = len(groups[0][1])
    harmful = int(groups[0][1]["harmful"].sum())
    seeds = groups[0][1]["seed"].nunique()
    return (
        f"{what[0].upper()}{what[1:]} of low trust as a sign of harm: {'; '.join(found)} (chance {chance:.2f}). 95 % bands "
        f"over batches (n = {counted(n, 'batch', 'batches')} a method, {harmful} of them harmful, "
        f"{counted(seeds, 'seed')})."
    )


RETENTION = "retention_success"
PANELS = {"trust_eval": "harmful batches mixed in", "trust_clean": "no harmful batches"}


def _rollback(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[(table["metric"] == RETENTION) & (table["method"] != "none")]
    return pooled_curves(rows, ("experiment", *SETTING)) if len(rows) else rows


@styled
def rollback_effect_curve(table: pd.DataFrame) -> Figure:
    """Edits that hold over the edits seen, with and without trust; one panel with harmful batches, one without."""
    curves = _rollback(table)
    if curves.empty:
        return says("No curve was recorded.")
    experiments = list(dict.fromkeys(curves["experiment"]))
    figure, axes = panels(len(experiments), 1, 0.75 + 1.45 * len(experiments), sharex=True)
    looks = marks(curves["method"])
    for axis, experiment in zip(axes, experiments, strict=True):
        part = curves[curves["experiment"] == experiment]
        for method, rows in part.groupby("method", sort=False):
            line_with_band(axis, rows.sort_values("edits_seen"), "edits_seen", looks[str(method)], label(str(method)))
        axis.set(title=PANELS.get(experiment, experiment.replace("_", " ")), ylabel="edits that hold")
        share_axis(axis, float(part["low"].min()))
    axes[-1].set_xlabel("edits seen")
    legend(figure, axes[0])
    return figure


def rollback_effect_curve_caption(table: pd.DataFrame) -> str:
    """Who keeps the most at the end of the stream with harmful batches."""
    curves = _rollback(table)
    if curves.empty:
        return "No curve was recorded."
    first = curves[curves["experiment"] == curves["experiment"].iloc[0]]
    last = first[first["edits_seen"] == first["edits_seen"].max()]
    rows = [(label(r["method"]), r["value"], r["low"], r["high"]) for r in records(last)]
    where = PANELS.get(str(first["experiment"].iloc[0]), "stream")
    found = leading(rows, f"share of harmless edits that hold after {counted(int(last['edits_seen'].max()), 'edit')}")
    return f"With {where}: {found} 95 % bands over cases and seeds ({stands_on(*count(last))} at the end)."
