"""Forgetting: how many earlier edits hold as more follow, by method and by age, and over thousands of edits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.draw.plots import bands_over_edits, beside_each_other, legend, panels, shading, share_axis
from editlab.analysis.draw.style import marks
from editlab.analysis.edit.cells import curves_table
from editlab.analysis.edit.printing import METHOD, REPLAY
from editlab.analysis.edit.scores import (
    NEIGHBORS,
    RETENTION,
    SETTING,
    at,
    basis,
    controls,
    named,
    pooled_curves,
    with_replay,
)
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.turning_points import MINIMUM, stream_turning_point
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records, smallest
from editlab.analysis.text.wording import counted, few, label, leading, level_with, listed, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

NO_CURVES = "No curve was recorded."
QUARTERS = ("newest", "2nd", "3rd", "oldest")
SHOWN = ((RETENTION, "edits that hold"), (NEIGHBORS, "neighbours"))


def turning_points(table: pd.DataFrame, metric: str = "retention_success") -> pd.DataFrame:
    """The turning point of each method's curve, seeds together: knot with interval, slopes, kind."""
    rows = []
    curves = table[table["metric"] == metric]
    for key, part in curves.groupby(list(SETTING), sort=False):
        if part["edits_seen"].nunique() < MINIMUM:
            continue
        point = stream_turning_point(part, "value")
        rows.append(
            {
                **dict(zip(SETTING, key, strict=True)),
                "metric": metric,
                "kind": point.kind,
                "edits": point.knot,
                "ci_low": point.low,
                "ci_high": point.high,
                "slope_before": point.slope_before,
                "slope_after": point.slope_after,
                "p_value": point.p_value,
                "seeds": part["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


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


def _scope(curves: pd.DataFrame) -> pd.DataFrame:
    """Retention and neighbours of the sequential streams, seeds together; ``scope``: their batch, and who was not run so."""
    chosen = sequential(curves)
    table = pooled_curves(chosen[chosen["metric"].isin([RETENTION, NEIGHBORS])])
    return table.assign(scope=_told_scope(chosen, curves)) if len(table) else table


def _told_scope(chosen: pd.DataFrame, curves: pd.DataFrame) -> str:
    methods = set(chosen["method"])
    left = [m for m in dict.fromkeys(curves["method"]) if m not in methods and m not in controls(curves)]
    without = f" ({listed(few([label(m) for m in left]))}: not run so)" if left else ""
    return f"batch {int(chosen['batch'].iloc[0])}{without}"


def _at_the_end(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of each method's last snapshot."""
    return curves[curves["edits_seen"] == curves.groupby("method")["edits_seen"].transform("max")]


def _ages(curves: pd.DataFrame) -> pd.DataFrame:
    """Retention at the last snapshot by quarter of age (1: newest)."""
    last = _at_the_end(sequential(curves))
    table = pooled_curves(last[last["metric"].str.startswith("retention_success_age")])
    if table.empty:
        return table
    return table.assign(age=table["metric"].str[-1].astype(int), scope=_told_scope(last, curves))


# ---- figures -----------------------------------------------------------------------------------------------------


@figure(
    "Forgetting curves",
    "curves",
    lambda table: (
        f"No replay, {table['scope'].iloc[0]}; 95 % bands over cases and seeds ({basis(_at_the_end(table))} at the end)."
    ),
    rows=_scope,
    empty=NO_CURVES,
    cites=("forgetting.holds_most", "forgetting.neighbours"),
    level=1,
)
def forgetting_curves(table: pd.DataFrame) -> Drawing:
    """Earlier edits that hold, and neighbours unharmed, over the edits seen: one line a method with its 95 % band."""
    figure, axes = panels(2, 1, 3.4, sharex=True)
    looks, faint = marks(table["method"]), shading(table["method"].nunique())
    for axis, (metric, name) in zip(axes, SHOWN, strict=True):
        part = table[table["metric"] == metric]
        bands_over_edits(axis, part, looks, faint)
        axis.set_ylabel(name)
        share_axis(axis, float(part["low"].min()))
    axes[-1].set_xlabel("edits seen")
    axes[-1].set_xticks(sorted(table["edits_seen"].unique())[:: max(1, table["edits_seen"].nunique() // 6)])
    legend(figure, axes[0])
    return figure


@figure(
    "Retention by age",
    "curves",
    lambda table: (
        f"Edits that hold at the end, by quarter of the stream, without replay, {table['scope'].iloc[0]}; 95 % intervals "
        f"({basis(table)} a point)."
    ),
    rows=_ages,
    empty=NO_CURVES,
    cites=("forgetting.age",),
    level=7,
)
def retention_by_age(table: pd.DataFrame) -> Drawing:
    """Edits that hold at the end of the stream by their age, in quarters of the stream."""
    figure, (axis,) = panels(1, 1, 2.3)
    looks = marks(table["method"])
    beside_each_other(axis, table.sort_values("age", kind="stable"), "age", looks, min(0.1, 0.8 / len(looks)))
    axis.set_xticks(range(1, 5), QUARTERS)
    axis.grid(axis="x", visible=False)
    axis.set(xlabel="age of the edit (quarter of the stream)", ylabel="edits that hold at the end")
    share_axis(axis, float(table["low"].min()))
    legend(figure, axis)
    return figure


@figure(
    "Thousands of edits",
    "large_scale_forgetting",
    lambda curves: f"95 % bands over cases and seeds ({basis(_at_the_end(curves))} at the end).",
    rows=lambda table: pooled_curves(table[table["metric"].isin([RETENTION, NEIGHBORS])]),
    empty=NO_CURVES,
    cites=("forgetting.long_*",),
    level=4,
)
def large_scale_forgetting(curves: pd.DataFrame) -> Drawing:
    """Thousands of edits: retention and neighbours, without replay and with the highest rate."""
    rates = sorted(curves["replay"].unique())
    rates = rates if len(rates) < 3 else [rates[0], rates[-1]]
    methods = list(dict.fromkeys(curves["method"]))
    figure, axes = panels(2, len(rates), 3.25 + 0.14 * -(-len(methods) // 2), sharex=True, sharey="row")
    looks, faint = marks(methods), shading(len(methods))
    for number, axis in enumerate(axes):
        metric, name = SHOWN[number // len(rates)]
        rate = rates[number % len(rates)]
        part = curves[(curves["metric"] == metric) & (curves["replay"] == rate)]
        bands_over_edits(axis, part, looks, faint, marker=False)
        if number % len(rates) == 0:
            axis.set_ylabel(name)
        if number < len(rates):
            axis.set_title("no replay" if rate == 0 else f"replay {rate:g}")
        else:
            axis.set_xlabel("edits seen")
        axis.set_ylim(-0.02, 1.03)
    fullest = max(axes[: len(rates)], key=lambda a: len(a.get_legend_handles_labels()[1]))
    legend(figure, fullest, columns=2)
    return figure


def _long(table: pd.DataFrame) -> pd.DataFrame:
    """Retention after the whole of the long streams, the best first."""
    curves = pooled_curves(table[table["metric"] == RETENTION])
    last = curves[curves["edits_seen"] == curves["edits_seen"].max()]
    return last.sort_values("value", ascending=False, kind="stable")


# ---- printed table -----------------------------------------------------------------------------------------------


@sheet("forgetting", "Long streams", "large_scale_forgetting", "turning_points", level=8)
def forgetting_sheet(tables: Tables) -> Printed:
    """What holds after the long stream, and where gradual forgetting turns."""
    table, points = tables["large_scale_forgetting"], tables["turning_points"]
    curves = pooled_curves(table[table["metric"].isin([RETENTION, NEIGHBORS])])
    last = curves[curves["edits_seen"] == curves["edits_seen"].max()]
    rows: list[dict[str, Any]] = []
    for key, part in last.groupby(list(SETTING), sort=False):
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for record in records(part):
            name = record["metric"].removesuffix("_success")
            row |= {name: record["value"], f"{name}_low": record["low"], f"{name}_high": record["high"]}
        rows.append(row | {"n": int(part["n"].max()), "seeds": int(part["seeds"].max())})
    frame = pd.DataFrame(rows)
    if len(points):
        turns = points.rename(columns={"edits": "turn", "ci_low": "turn_low", "ci_high": "turn_high"})
        wanted = [*SETTING, "kind", "turn", "turn_low", "turn_high", "p_value"]
        frame = frame.merge(turns[wanted], on=list(SETTING), how="left")
        frame["kind"] = frame["kind"].map(lambda k: str(k).replace("_", " ") if k != "none" else "even")
        for name in ("turn", "turn_low", "turn_high"):
            frame[name] = frame[name].where(frame["kind"] != "even")
    text = (
        f"After {counted(int(last['edits_seen'].max()), 'edit')} in sequence: edits that hold and neighbours unharmed with "
        f"95 % intervals over cases and seeds ({basis(frame)}), and the turning point of retention (broken line; interval "
        "over streams and snapshots drawn anew; even: one line does)."
    )
    columns = [METHOD, REPLAY, Column("retention", "holds"), Column("neighborhood", "NS")]
    columns += [Column("kind", "shape", "text"), Column("turn", "turns at", "count")]
    return Printed(frame, columns, text, "large_scale_forgetting")


# ---- findings ----------------------------------------------------------------------------------------------------


def findings(tables: Tables) -> list[Finding]:
    """What each method still holds at the end of the matrix's streams, and of the long ones; where forgetting turns."""
    found: list[Finding] = []
    if "curves" in tables and len(tables["curves"]):
        found += _along(tables["curves"]) + _ends(tables["curves"]) + _aged(tables["curves"])
    if "large_scale_forgetting" in tables and len(tables["large_scale_forgetting"]):
        found += _long_streams(tables["large_scale_forgetting"])
    return found + [_turn(row) for row in records(tables.get("turning_points", pd.DataFrame()))]


def _along(curves: pd.DataFrame) -> list[Finding]:
    """How many of its edits each method still holds at the end, one batch after another without replay."""
    table = _scope(curves)
    found = []
    for method, part in table[table["metric"] == RETENTION].groupby("method", sort=False):
        if len(part) < 2:
            continue
        ordered = part.sort_values("edits_seen")
        first, last = ordered.iloc[0], ordered.iloc[-1]
        ends = [level_with(r["value"], r["low"], r["high"]) for r in (first, last)]
        lost, gained = bool(last["high"] < first["low"]), bool(last["low"] > first["high"])
        how = "falls" if lost else "rises" if gained else "does not change measurably"
        sentence = (
            f"The share of edits that hold under {label(str(method))} (batch {last['batch']}, no replay) {how}: {ends[0]} after "
            f"{first['edits_seen']} edits, {ends[1]} after {last['edits_seen']}."
        )
        numbers = (float(last["value"]), float(last["low"]), float(last["high"]))
        found.append(Finding(f"forgetting.{method}", sentence, *numbers, int(last["n"]), lost or gained, "curves"))
    return found


def _ends(curves: pd.DataFrame) -> list[Finding]:
    """Who holds the most at the end, and whose neighbours suffer the most."""
    last = _at_the_end(_scope(curves))
    kept, near = (last[last["metric"] == m] for m in (RETENTION, NEIGHBORS))
    found = []
    if len(kept):
        edits = counted(int(kept["edits_seen"].max()), "edit")
        found = [_most(kept, "forgetting.holds_most", f"share of edits that hold after {edits}", "curves")]
    if len(near):
        worst = smallest(near, "value")
        value, low, high = (float(worst[c]) for c in ("value", "low", "high"))
        sure = bool((near.loc[near["method"] != worst["method"], "low"] > high).all()) and len(near) > 1
        sentence = f"Neighbours suffer most under {label(worst['method'])}: {level_with(value, low, high)}."
        found.append(Finding("forgetting.neighbours", sentence, value, low, high, int(worst["n"]), sure, "curves"))
    return found


def _most(rows: pd.DataFrame, key: str, what: str, source: str) -> Finding:
    """Who is on top, claimed only where the intervals part."""
    ordered = named(rows.sort_values("value", ascending=False, kind="stable"))
    sure = len(ordered) > 1 and ordered[0][2] > max(r[3] for r in ordered[1:])
    return Finding(key, leading(ordered, what), *ordered[0][1:], int(rows["n"].max()), sure, source)


def _aged(curves: pd.DataFrame) -> list[Finding]:
    """Which methods lose old edits, as far as the intervals part."""
    table = _ages(curves)
    if table.empty:
        return []
    lost = []
    for method, rows in table.groupby("method", sort=False):
        newest, oldest = (rows.sort_values("age").iloc[i] for i in (0, -1))
        if oldest["high"] < newest["low"]:
            ends = (level_with(r["value"], r["low"], r["high"]) for r in (newest, oldest))
            lost.append(f"{label(str(method))} (from {' to '.join(ends)})")
    sentence = (
        f"The oldest quarter holds measurably less than the newest under {listed(lost)}."
        if lost
        else "Under no method does the oldest quarter hold measurably less than the newest: the intervals overlap."
    )
    nan = float("nan")
    return [
        Finding("forgetting.age", sentence, float(len(lost)), nan, nan, int(table["n"].max()), bool(lost), "curves")
    ]


def _long_streams(table: pd.DataFrame) -> list[Finding]:
    """Who holds the most after the long streams, and who the least."""
    last = _long(table)
    if last.empty:
        return []
    edits = counted(int(last["edits_seen"].max()), "edit")
    what, source = f"share of edits that hold after {edits}", "large_scale_forgetting"
    found = [_most(last, "forgetting.long_stream", what, source)]
    if len(last) > 1:
        name, value, low, high = named(last)[-1]
        sure = bool(high < last["low"].iloc[:-1].min())
        sentence = f"The fewest edits hold under {name}: {level_with(value, low, high)} after {edits}."
        found.append(Finding("forgetting.long_least", sentence, value, low, high, int(last["n"].max()), sure, source))
    return found


def _turn(row: dict[str, Any]) -> Finding:
    """Where a broken line fits better than one: the turning point with its interval."""
    name, kind = with_replay(row), row["kind"]
    key = f"forgetting.turn_{row['method']}_replay{row['replay']:g}"
    value, low, high = float(row["edits"]), float(row["ci_low"]), float(row["ci_high"])
    slopes = f"{signed(row['slope_before'], 2)} before and {signed(row['slope_after'], 2)} after it, per 1,000 edits"
    if kind == "none":
        sentence = f"{name} shows no turning point: one straight line describes its retention."
    else:
        how = "turns into a steeper fall" if kind == "collapse" else "levels off"
        spread = f"95 % interval {low:,.0f} to {high:,.0f}; slope {slopes}"
        sentence = f"The retention of {name} {how} at about {value:,.0f} edits ({spread})."
    return Finding(key, sentence, value, low, high, int(row["seeds"]), kind != "none", "turning_points")


TOPIC = Topic(
    name="forgetting",
    title="Forgetting",
    about="forgetting along a stream",
    tables=(
        Collected("curves", lambda run: curves_table(run.cells["edit"]), ("edit",), files=("curve.csv",)),
        Collected(
            "large_scale_forgetting",
            lambda run: curves_table(run.cells["large_scale"]),
            ("large_scale",),
            files=("curve.csv",),
        ),
        Collected(
            "turning_points",
            lambda run: turning_points(curves_table(run.cells["large_scale"])),
            ("large_scale",),
            files=("curve.csv",),
        ),
    ),
    figures=(
        forgetting_curves,
        retention_by_age,
        large_scale_forgetting,
    ),
    sheets=(forgetting_sheet,),
    reads=("curves", "large_scale_forgetting", "turning_points"),
    findings=findings,
)
