"""Forgetting: how many earlier edits hold as more follow, by method and by age, and over thousands of edits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pandas as pd

from editlab.analysis.draw import plots
from editlab.analysis.draw.plots import Drawing, legend, panels, share_axis
from editlab.analysis.draw.style import marks
from editlab.analysis.edit import scores
from editlab.analysis.edit.cells import curves_table
from editlab.analysis.edit.printing import METHOD, REPLAY
from editlab.analysis.edit.scores import RETENTION, SETTING, last_snapshot, named, over, pooled_curves, with_replay
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import of_cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Interval, beside, ends, grouped, records, smallest
from editlab.analysis.statistics.turning_points import MINIMUM, stream_turning_point
from editlab.analysis.text.findings import Finding, leader_finding
from editlab.analysis.text.wording import counted, few, label, level_with, listed, signed

NO_CURVES = "No curve was recorded."
NEAR = "Neighbours suffer most under {name}: {number}."
FEWEST = "The fewest edits hold under {name}: {number} after {edits}."
READ = ("curves", "large_scale_forgetting", "turning_points")
QUARTERS = ("newest", "2nd", "3rd", "oldest")
SHOWN = {RETENTION: "edits that hold", scores.NEIGHBORS: "NS", "neighborhood_accuracy": "NS exact"}
SHOWN |= {"same_subject_accuracy": "SS exact"}
POINT = {"kind": "kind", "edits": "knot", "ci_low": "low", "ci_high": "high"}
POINT |= {name: name for name in ("slope_before", "slope_after", "p_value")}
LONG = (RETENTION, scores.NEIGHBORS)


def turning_points(table: pd.DataFrame) -> pd.DataFrame:
    """The turning point of each method's curve, seeds together: knot with interval, slopes, kind."""
    curves = table[table["metric"] == RETENTION]
    snapshots = curves.groupby(list(SETTING))["edits_seen"].transform("nunique")

    def told(part: pd.DataFrame) -> dict[str, Any]:
        point = dataclasses.asdict(stream_turning_point(part, "value"))
        found = {column: point[field] for column, field in POINT.items()}
        return {"metric": RETENTION, **found, "seeds": part["seed"].nunique()}

    columns = [*SETTING, "metric", *POINT, "seeds"]
    return grouped(curves[snapshots >= MINIMUM], SETTING, told, columns=columns)


def sequential(curves: pd.DataFrame) -> pd.DataFrame:
    """Many updates in a row, and alike: the rows at the smallest batch that half of the methods have, without replay.

    Controls are left out, and methods without that batch size.
    """
    rows = scores.plain(curves)
    return rows[rows["batch"] == min(scores.common_batches(rows), default=0)]


def _shown(curves: pd.DataFrame) -> pd.DataFrame:
    """Retention and neighbours, seeds together."""
    return pooled_curves(curves[curves["metric"].isin(list(SHOWN))])


def _scope(curves: pd.DataFrame) -> pd.DataFrame:
    """The same of the sequential streams; ``scope``: their batch, and who was not run so."""
    chosen = sequential(curves)
    return _shown(chosen).assign(scope=_told_scope(chosen, curves))


def _told_scope(chosen: pd.DataFrame, curves: pd.DataFrame) -> str:
    present = {*chosen["method"], *scores.controls(curves)}
    left = [label(method) for method in dict.fromkeys(curves["method"]) if method not in present]
    return f"batch {chosen['batch'].max():g}" + (f" ({listed(few(left))}: not run so)" if left else "")


def _ages(curves: pd.DataFrame) -> pd.DataFrame:
    """Retention at the last snapshot by quarter of age (1: newest)."""
    last = last_snapshot(sequential(curves))
    table = pooled_curves(last[last["metric"].str.startswith(f"{RETENTION}_age")])
    return table.assign(age=table["metric"].str[-1].astype(int), scope=_told_scope(last, curves))


@figure(
    "Forgetting curves",
    "curves",
    lambda table: (
        f"No replay, {table['scope'].iloc[0]}; {over(last_snapshot(table), 'bands')} at the end. {scores.SURROUNDINGS}."
    ),
    rows=_scope,
    empty=NO_CURVES,
    cites=("forgetting.holds_most", "forgetting.neighbours"),
    level=1,
)
def forgetting_curves(table: pd.DataFrame) -> Drawing:
    """Over the edits seen: earlier edits that hold, neighbours unharmed and exactly right, other facts of the edited subjects."""
    parts = [(table[table["metric"] == metric], {"ylabel": name}) for metric, name in SHOWN.items()]
    parts = [(rows, labels) for rows, labels in parts if len(rows)]
    figure = plots.curves_over_edits(parts, 0.6 + 0.9 * len(parts))
    snapshots = sorted(table["edits_seen"].unique())
    figure.axes[-1].set_xticks(snapshots[:: max(1, len(snapshots) // 6)])
    return figure


@figure(
    "Retention by age",
    "curves",
    lambda table: (
        f"Edits that hold at the end, by quarter of the stream, without replay, {table['scope'].iloc[0]}; 95 % intervals "
        f"({scores.basis(table)} a point)."
    ),
    rows=_ages,
    empty=NO_CURVES,
    cites=("forgetting.age",),
    level=7,
)
def retention_by_age(table: pd.DataFrame) -> Drawing:
    """Edits that hold at the end of the stream by their age, in quarters of the stream."""
    names = "age of the edit (quarter of the stream)", "edits that hold at the end"
    step = min(0.1, 0.8 / table["method"].nunique())
    figure, axis = plots.beside_each_other(table.sort_values("age", kind="stable"), "age", names, step)
    axis.set_xticks(range(1, 5), QUARTERS)
    share_axis(axis, float(table["low"].min()))
    legend(figure, axis)
    return figure


@figure(
    "Thousands of edits",
    "large_scale_forgetting",
    lambda curves: f"{over(last_snapshot(curves), 'bands')} at the end.",
    rows=_shown,
    empty=NO_CURVES,
    cites=("forgetting.long_*",),
    level=4,
)
def large_scale_forgetting(curves: pd.DataFrame) -> Drawing:
    """Thousands of edits: retention and neighbours, without replay and with the highest rate."""
    rates = sorted({curves["replay"].min(), curves["replay"].max()})
    looks = marks(curves["method"])
    height = 3.25 + 0.14 * -(-len(looks) // 2)
    figure, axes = panels(height, 2 * len(rates), len(rates), xlabel="edits seen", sharex=True, sharey="row")
    for axis, (metric, rate) in zip(axes, itertools.product(LONG, rates), strict=True):
        part = curves[(curves["metric"] == metric) & (curves["replay"] == rate)]
        plots.bands_over_edits(axis, part, looks, marker="")
        axis.set_ylim(-0.02, 1.03)
    for axis, metric in zip(axes[:: len(rates)], LONG, strict=True):
        axis.set_ylabel(SHOWN[metric])
    for axis, rate in zip(axes, rates, strict=False):
        axis.set_title("no replay" if rate == 0 else f"replay {rate:g}")
    legend(figure, *axes[: len(rates)], columns=2)
    return figure


@sheet("forgetting", "Long streams", "large_scale_forgetting", "turning_points", level=8)
def forgetting_sheet(tables: Tables) -> Printed:
    """What holds after the long stream, and where gradual forgetting turns."""
    points, last = tables["turning_points"], last_snapshot(_shown(tables["large_scale_forgetting"]))

    def told(part: pd.DataFrame) -> dict[str, Any]:
        metrics = {row["metric"].removesuffix("_success"): Interval.of(row) for row in records(part)}
        return {**beside(metrics), "n": int(part["n"].max()), "seeds": int(part["seeds"].max())}

    frame = grouped(last, SETTING, told)
    if len(points):
        knot = {"edits": "turn", "ci_low": "turn_low", "ci_high": "turn_high"}
        turns = points.rename(columns=knot)[[*SETTING, "kind", *knot.values(), "p_value"]]
        frame = frame.merge(turns, on=list(SETTING), how="left")
        frame["kind"] = frame["kind"].map(lambda k: str(k).replace("_", " ") if k != "none" else "even")
        frame[list(knot.values())] = frame[list(knot.values())].where(frame["kind"] != "even")
    drawn = "broken line; interval over streams and snapshots drawn anew; even: one line does"
    text = (
        f"After {counted(int(last['edits_seen'].max()), 'edit')} in sequence: edits that hold and neighbours unharmed with "
        f"{over(frame)}{f', and the turning point of retention ({drawn})' if len(points) else ''}."
    )
    columns = [METHOD, REPLAY, Column("retention", "holds"), Column("neighborhood", "NS")]
    columns += [Column("kind", "shape", "text"), Column("turn", "turns at", "count")]
    return Printed(frame, columns, text)


def findings(tables: Tables) -> Iterator[Finding]:
    """What each method still holds at the end of the matrix's streams, and of the long ones; where forgetting turns."""
    curves, long, turns = (tables[name] for name in READ)
    if len(curves):
        table = _scope(curves)
        last = last_snapshot(table)
        kept, near = (last[last["metric"] == metric] for metric in LONG)
        yield from _along(table)
        yield from _most(kept, "forgetting.holds_most", READ[0])
        yield from _least(near, "forgetting.neighbours", NEAR, READ[0])
        yield from _aged(_ages(curves))
    if len(long):
        last = last_snapshot(_shown(long[long["metric"] == RETENTION]))
        yield from _most(last, "forgetting.long_stream", READ[1])
        if len(last) > 1:
            yield from _least(last, "forgetting.long_least", FEWEST, READ[1])
    yield from map(_turn, records(turns))


def _along(table: pd.DataFrame) -> Iterator[Finding]:
    """How many of its edits each method still holds at the end, one batch after another without replay."""
    for method, part in table[table["metric"] == RETENTION].groupby("method", sort=False):
        if len(part) < 2:
            continue
        start, end = ends(part, "edits_seen")
        first, last = Interval.of(start), Interval.of(end)
        moved = "falls" if last.value < first.value else "rises"
        how = moved if last.apart(first) else "does not change measurably"
        sentence = (
            f"The share of edits that hold under {label(str(method))} (batch {end['batch']}, no replay) {how}: "
            f"{level_with(*first)} after {start['edits_seen']} edits, {level_with(*last)} after {end['edits_seen']}."
        )
        yield Finding(f"forgetting.{method}", sentence, *last, int(end["n"]), last.apart(first), "curves")


def _most(last: pd.DataFrame, key: str, source: str) -> Iterator[Finding]:
    """Who holds the most."""
    if len(last):
        ordered = last.sort_values("value", ascending=False, kind="stable")
        what = f"share of edits that hold after {counted(int(last['edits_seen'].max()), 'edit')}"
        yield leader_finding(key, named(ordered), what, int(last["n"].max()), source)


def _least(last: pd.DataFrame, key: str, sentence: str, source: str) -> Iterator[Finding]:
    """Who is at the bottom."""
    if len(last):
        worst = smallest(last, "value")
        numbers, edits = Interval.of(worst), counted(worst["edits_seen"], "edit")
        told = sentence.format(name=with_replay(worst), number=level_with(*numbers), edits=edits)
        sure = len(last) > 1 and (last["low"] > numbers.high).sum() == len(last) - 1
        yield Finding(key, told, *numbers, int(worst["n"]), bool(sure), source)


def _aged(table: pd.DataFrame) -> Iterator[Finding]:
    """Which methods lose old edits, as far as the intervals part."""
    if table.empty:
        return
    lost = []
    for method, rows in table.groupby("method", sort=False):
        newest, oldest = map(Interval.of, ends(rows, "age"))
        if oldest.high < newest.low:
            lost.append(f"{label(str(method))} (from {level_with(*newest)} to {level_with(*oldest)})")
    sentence = "Under no method does the oldest quarter hold measurably less than the newest: the intervals overlap."
    if lost:
        sentence = f"The oldest quarter holds measurably less than the newest under {listed(lost)}."
    n = int(table["n"].max())
    yield Finding("forgetting.age", sentence, *Interval(float(len(lost))), n, bool(lost), "curves")


def _turn(row: dict[str, Any]) -> Finding:
    """Where a broken line fits better than one: the turning point with its interval."""
    name, kind, knot = with_replay(row), row["kind"], Interval.of(row, "edits")
    if kind == "none":
        sentence = f"{name} shows no turning point: one straight line describes its retention."
    else:
        how = "turns into a steeper fall" if kind == "collapse" else "levels off"
        slopes = (
            f"{signed(row['slope_before'], 2)} before and {signed(row['slope_after'], 2)} after it, per 1,000 edits"
        )
        spread = f"95 % interval {knot.low:,.0f} to {knot.high:,.0f}; slope {slopes}"
        sentence = f"The retention of {name} {how} at about {knot.value:,.0f} edits ({spread})."
    key = f"forgetting.turn_{row['method']}_replay{row['replay']:g}"
    return Finding(key, sentence, *knot, int(row["seeds"]), kind != "none", "turning_points")


FILES = ("curve.csv",)
LARGE_SCALE = ("large_scale", "large_scale_replay")
TOPIC = Topic(
    "Forgetting",
    about="forgetting along a stream",
    tables=(
        Collected("curves", of_cells(curves_table), ("edit",), FILES),
        Collected("large_scale_forgetting", of_cells(curves_table), LARGE_SCALE, FILES),
        Collected("turning_points", of_cells(lambda c: turning_points(curves_table(c))), LARGE_SCALE, FILES),
    ),
    reads=READ,
)
