"""Greedy steps: what each step gains, which layers accept it, and whether trust knows what a step is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.intervals import Z, wilson
from editlab.analysis.rows import largest, smallest
from editlab.analysis.style import DARK, Mark, error_bars, legend, marks, panels, says, share_axis, styled
from editlab.analysis.wording import counted, label, level_with, signed_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_STEPS = "No greedy step was judged."


def _gains(steps: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean gain of each group with its normal interval: value, low, high, n."""
    rows = []
    for key, part in steps.groupby(by, sort=True):
        mean, n = float(part["gain"].mean()), len(part)
        half = Z * float(part["gain"].std(ddof=1)) / n**0.5 if n > 1 else float("nan")
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        rows.append(row | {"value": mean, "low": mean - half, "high": mean + half, "n": n})
    return pd.DataFrame(rows)


def _acceptance(steps: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Share of steps accepted in each group with Wilson's interval: value, low, high, n."""
    rows = []
    for key, part in steps.groupby(by, sort=True):
        share, n = float(part["accepted"].mean()), len(part)
        low, high = wilson(share, n)
        rows.append(dict(zip(by, key, strict=True)) | {"value": share, "low": float(low), "high": float(high), "n": n})
    return pd.DataFrame(rows)


def _looks(table: pd.DataFrame) -> dict[str, Mark]:
    """The same in the three figures, whatever the order of their rows."""
    return marks(sorted(table["method"].unique()))


def _drawn(table: pd.DataFrame, x: str, names: tuple[str, str], zero: bool) -> Figure:
    figure, (axis,) = panels(1, 1, 2.3)
    looks = _looks(table)
    for i, (method, rows) in enumerate(table.groupby("method", sort=True)):
        shift = 0.07 * (i - (len(looks) - 1) / 2)
        error_bars(axis, rows[x] + shift, rows, looks[str(method)], label(str(method)))
    axis.set_xticks(sorted(table[x].unique()))
    axis.set_xlim(table[x].min() - 0.4, table[x].max() + 0.4)
    axis.grid(axis="x", visible=False)
    axis.set(xlabel=names[0], ylabel=names[1])
    if zero:
        axis.axhline(0, color=DARK, linewidth=0.7)
    else:
        share_axis(axis, float(table["low"].min()))
    legend(figure, axis, columns=2)
    return figure


@styled
def greedy_gain_by_step(steps: pd.DataFrame) -> Figure:
    """Mean gain of each step (share of the batch's residual that it removes), by method."""
    if steps.empty:
        return says(NO_STEPS)
    return _drawn(_gains(steps, ["method", "step"]), "step", ("greedy step", "gain of the step"), True)


def greedy_gain_by_step_caption(steps: pd.DataFrame) -> str:
    """How the gain of the last step compares with that of the first."""
    if steps.empty:
        return NO_STEPS
    table = _gains(steps, ["method", "step"])
    found = []
    for method, rows in table.groupby("method", sort=True):
        ends = (rows.iloc[0], rows.iloc[-1])
        first, last = (signed_with(r["value"], r["low"], r["high"], 2) for r in ends)
        found.append(f"{label(str(method))}: step {ends[0]['step']:g} {first}, step {ends[1]['step']:g} {last}")
    seeds = steps["seed"].nunique()
    return (
        f"Mean gain by step. {'; '.join(found)}. Gain: share of the batch's residual that a step removes; 95 % intervals over "
        f"batches (n = {counted(len(steps), 'step')}, {counted(seeds, 'seed')}); later steps are tried only where "
        f"patience was left."
    )


@styled
def greedy_acceptance_by_layer(steps: pd.DataFrame) -> Figure:
    """Share of steps accepted, by layer and method."""
    if steps.empty:
        return says(NO_STEPS)
    return _drawn(_acceptance(steps, ["method", "layer"]), "layer", ("layer", "steps accepted"), False)


def greedy_acceptance_by_layer_caption(steps: pd.DataFrame) -> str:
    """The range of acceptance over methods and layers."""
    if steps.empty:
        return NO_STEPS
    table = _acceptance(steps, ["method", "layer"])
    high, low = largest(table, "value"), smallest(table, "value")

    def told(row: dict[str, Any]) -> str:
        return f"{label(row['method'])}, layer {row['layer']}, {level_with(row['value'], row['low'], row['high'])}"

    ends = f"from {told(low)} to {told(high)}" if len(table) > 1 else told(high)
    reasons = steps.loc[~steps["accepted"].astype(bool), "reason"].value_counts()
    why = f" The most frequent reason to refuse was {str(reasons.index[0]).replace('_', ' ')}." if len(reasons) else ""
    return (
        f"Share of greedy steps accepted: {ends}.{why} 95 % intervals (n = {counted(len(steps), 'step')}, "
        f"{counted(steps['seed'].nunique(), 'seed')})."
    )


@styled
def greedy_trust_gain(steps: pd.DataFrame) -> Figure:
    """Each step's gain over its trust: filled where it was accepted."""
    if steps.empty:
        return says(NO_STEPS)
    figure, (axis,) = panels(1, 1, 2.5)
    looks = _looks(steps)
    for method, rows in steps.groupby("method", sort=True):
        mark = looks[str(method)]
        accepted = rows["accepted"].astype(bool)
        for part, face, name in ((rows[accepted], mark.color, label(str(method))), (rows[~accepted], "none", None)):
            look: dict[str, Any] = {"facecolors": face, "edgecolors": mark.color, "linewidths": 0.6, "alpha": 0.7}
            axis.scatter(part["trust"], part["gain"], s=9, marker=mark.marker, label=name, **look)
    axis.axhline(0, color=DARK, linewidth=0.7)
    axis.set(xlabel="trust", ylabel="gain of the step")
    legend(figure, axis, columns=2)
    return figure


def greedy_trust_gain_caption(steps: pd.DataFrame) -> str:
    """Rank correlation of trust and gain, by method."""
    if steps.empty:
        return NO_STEPS
    found = []
    for method, rows in steps.groupby("method", sort=True):
        value, low, high = rank_correlation(rows["trust"], rows["gain"])
        found.append(f"{label(str(method))} {signed_with(value, low, high, 2)}")
    return (
        f"Rank correlation of trust and gain: {'; '.join(found)} (95 % intervals by Fisher's transformation). Filled: accepted, "
        f"hollow: taken back (n = {counted(len(steps), 'step')}, {counted(steps['seed'].nunique(), 'seed')})."
    )


def rank_correlation(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Spearman's correlation with Fisher's interval; NaN where a side does not vary or there are fewer than 4 pairs."""
    if len(x) < 4 or x.nunique() < 2 or y.nunique() < 2:
        return float("nan"), float("nan"), float("nan")
    value = float(x.rank().corr(y.rank()))
    centre, half = np.arctanh(np.clip(value, -0.999999, 0.999999)), Z * 1.03 / (len(x) - 3) ** 0.5
    return value, float(np.tanh(centre - half)), float(np.tanh(centre + half))
