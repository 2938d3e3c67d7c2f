"""Forgetting: how many earlier edits hold as more follow, by method and by age, and over thousands of edits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.rows import records, smallest
from editlab.analysis.scores import SETTING, at, controls, count, pooled_curves
from editlab.analysis.style import band, error_bars, legend, marks, panels, says, shading, share_axis, styled
from editlab.analysis.wording import counted, few, label, leading, level_with, listed, stands_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETENTION, NEIGHBORS = "retention_success", "neighborhood_success"
NO_CURVES = "No curve was recorded."
QUARTERS = ("newest", "2nd", "3rd", "oldest")


def sequential(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows at the smallest batch that half of the methods have, without replay: many updates in a row, and alike.

    Controls are left out, and methods without that batch size.
    """
    rows = curves[~curves["method"].isin(controls(curves))]
    settings = rows[list(SETTING)].drop_duplicates()
    settings = settings[settings["replay"] == settings.groupby("method")["replay"].transform("min")]
    settings = settings[settings["rank"] == settings.groupby("method")["rank"].transform("max")]
    counts = settings.groupby("batch")["method"].nunique()
    usual = counts.index[2 * counts >= settings["method"].nunique()]
    smallest = min(usual if len(usual) else counts.index, default=0)
    return at(rows, settings[settings["batch"] == smallest])


def _scope(chosen: pd.DataFrame, curves: pd.DataFrame) -> str:
    """The batch size, and who was not run with it."""
    methods = set(chosen["method"])
    left = [m for m in dict.fromkeys(curves["method"]) if m not in methods and m not in controls(curves)]
    without = f" ({listed(few([label(m) for m in left]))}: not run so)" if left else ""
    return f"batch {int(chosen['batch'].iloc[0])}{without}"


@styled
def forgetting_curves(curves: pd.DataFrame) -> Figure:
    """Earlier edits that hold, and neighbours unharmed, over the edits seen: one line a method with its 95 % band."""
    table = pooled_curves(sequential(curves))
    table = table[table["metric"].isin([RETENTION, NEIGHBORS])]
    if table.empty:
        return says(NO_CURVES)
    figure, axes = panels(2, 1, 3.4, sharex=True)
    looks, faint = marks(table["method"]), shading(table["method"].nunique())
    for axis, metric, name in zip(axes, (RETENTION, NEIGHBORS), ("edits that hold", "neighbours"), strict=True):
        part = table[table["metric"] == metric]
        for method, rows in part.groupby("method", sort=False):
            band(
                axis, rows.sort_values("edits_seen"), "edits_seen", looks[str(method)], label(str(method)), alpha=faint
            )
        axis.set_ylabel(name)
        share_axis(axis, float(part["low"].min()))
    axes[-1].set_xlabel("edits seen")
    axes[-1].set_xticks(sorted(table["edits_seen"].unique())[:: max(1, table["edits_seen"].nunique() // 6)])
    legend(figure, axes[0])
    return figure


def forgetting_curves_caption(curves: pd.DataFrame) -> str:
    """Who keeps the most at the end."""
    chosen = sequential(curves)
    table = pooled_curves(chosen)
    last = table[table["edits_seen"] == table.groupby("method")["edits_seen"].transform("max")]
    kept, near = (last[last["metric"] == m] for m in (RETENTION, NEIGHBORS))
    if kept.empty:
        return NO_CURVES
    edits = counted(int(last["edits_seen"].max()), "edit")
    found = leading(_named(kept), f"share of edits that hold after {edits}")
    worst = smallest(near, "value") if len(near) else None
    low = (
        f" Neighbours suffer most under {label(worst['method'])}: "
        f"{level_with(worst['value'], worst['low'], worst['high'])}."
        if worst is not None
        else ""
    )
    basis = f"95 % bands over cases and seeds ({stands_on(*count(kept))} at the end)"
    return f"{found}{low} No replay, {_scope(chosen, curves)}; {basis}."


def _named(rows: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    return [(label(r["method"]), r["value"], r["low"], r["high"]) for r in records(rows)]


def _ages(curves: pd.DataFrame) -> pd.DataFrame:
    """Retention at the last snapshot by quarter of age (1: newest)."""
    chosen = sequential(curves)
    last = chosen[chosen["edits_seen"] == chosen.groupby("method")["edits_seen"].transform("max")]
    table = pooled_curves(last[last["metric"].str.startswith("retention_success_age")])
    return table.assign(age=table["metric"].str[-1].astype(int)) if len(table) else table


@styled
def retention_by_age(curves: pd.DataFrame) -> Figure:
    """Edits that hold at the end of the stream by their age, in quarters of the stream."""
    table = _ages(curves)
    if table.empty:
        return says(NO_CURVES)
    figure, (axis,) = panels(1, 1, 2.3)
    looks = marks(table["method"])
    for i, (method, rows) in enumerate(table.groupby("method", sort=False)):
        ordered = rows.sort_values("age")
        shift = min(0.1, 0.8 / len(looks)) * (i - (len(looks) - 1) / 2)
        error_bars(axis, ordered["age"] + shift, ordered, looks[str(method)], label(str(method)))
    axis.set_xticks(range(1, 5), QUARTERS)
    axis.grid(axis="x", visible=False)
    axis.set(xlabel="age of the edit (quarter of the stream)", ylabel="edits that hold at the end")
    share_axis(axis, float(table["low"].min()))
    legend(figure, axis)
    return figure


def retention_by_age_caption(curves: pd.DataFrame) -> str:
    """Which methods lose old edits, as far as the intervals part."""
    table = _ages(curves)
    if table.empty:
        return NO_CURVES
    lost = []
    for method, rows in table.groupby("method", sort=False):
        ordered = rows.sort_values("age")
        newest, oldest = ordered.iloc[0], ordered.iloc[-1]
        if oldest["high"] < newest["low"]:
            ends = (level_with(r["value"], r["low"], r["high"]) for r in (newest, oldest))
            lost.append(f"{label(str(method))} (from {' to '.join(ends)})")
    found = (
        f"The oldest quarter holds measurably less than the newest under {listed(lost)}."
        if lost
        else "Under no method does the oldest quarter hold measurably less than the newest: the intervals overlap."
    )
    n, seeds = count(table)
    return (
        f"{found} Edits that hold at the end, by quarter of the stream, without replay, "
        f"{_scope(sequential(curves), curves)}; 95 % intervals "
        f"({stands_on(n, seeds)} a point)."
    )


LARGE = ((RETENTION, "edits that hold"), (NEIGHBORS, "neighbours"))


@styled
def large_scale_forgetting(table: pd.DataFrame) -> Figure:
    """Thousands of edits: retention and neighbours, without replay and with the highest rate."""
    curves = pooled_curves(table[table["metric"].isin([RETENTION, NEIGHBORS])])
    if curves.empty:
        return says(NO_CURVES)
    rates = sorted(curves["replay"].unique())
    rates = rates if len(rates) < 3 else [rates[0], rates[-1]]
    methods = list(dict.fromkeys(curves["method"]))
    height = 1.6 + 1.35 * 1 + 0.14 * -(-len(methods) // 2)
    figure, axes = panels(2, len(rates), height + 0.3, sharex=True, sharey="row")
    looks, faint = marks(methods), shading(len(methods))
    for number, axis in enumerate(axes):
        metric, name = LARGE[number // len(rates)]
        rate = rates[number % len(rates)]
        part = curves[(curves["metric"] == metric) & (curves["replay"] == rate)]
        for method, rows in part.groupby("method", sort=False):
            band(
                axis,
                rows.sort_values("edits_seen"),
                "edits_seen",
                looks[str(method)],
                label(str(method)),
                marker=False,
                alpha=faint,
            )
        if number % len(rates) == 0:
            axis.set_ylabel(name)
        if number < len(rates):
            axis.set_title("no replay" if rate == 0 else f"replay {rate:g}")
        else:
            axis.set_xlabel("edits seen")
        axis.set_ylim(-0.02, 1.03)
    first = axes[: len(rates)]
    fullest = max(first, key=lambda a: len(a.get_legend_handles_labels()[1]))
    legend(figure, fullest, columns=2)
    return figure


def large_scale_forgetting_caption(table: pd.DataFrame) -> str:
    """Who keeps the most after the whole stream."""
    curves = pooled_curves(table[table["metric"] == RETENTION])
    if curves.empty:
        return NO_CURVES
    last = curves[curves["edits_seen"] == curves["edits_seen"].max()]
    rows = [(_with_replay(row), float(row["value"]), float(row["low"]), float(row["high"])) for row in records(last)]
    edits = counted(int(last["edits_seen"].max()), "edit")
    worst = min(rows, key=lambda r: r[1])
    least = f" The least is kept by {worst[0]}: {level_with(*worst[1:])}." if len(rows) > 1 else ""
    return (
        f"{leading(rows, f'share of edits that hold after {edits}')}{least} 95 % bands over cases and seeds "
        f"({stands_on(*count(last))} at the end)."
    )


def _with_replay(row: dict[str, Any]) -> str:
    return f"{label(row['method'])} with replay {row['replay']:g}" if row["replay"] else label(row["method"])
