"""What it costs: CPU time by stage of every method, and the speed benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.intervals import mean_interval
from editlab.analysis.rows import records
from editlab.analysis.scores import SETTING, at, headline_settings
from editlab.analysis.style import COLORS, DARK, HATCHES, LINES, MARKERS, apart, legend, panels, says, styled
from editlab.analysis.wording import counted, label, level, level_with, listed, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("targets", "keys", "solve", "commit", "trust", "evaluate", "load")
NO_CELLS = "No finished cell to compare."


def _split(costs: pd.DataFrame) -> pd.DataFrame:
    """CPU seconds of a cell by stage, means over seeds at the headline settings; total with its interval."""
    rows: list[dict[str, Any]] = []
    chosen = at(costs, headline_settings(costs)) if len(costs) else costs
    for key, part in chosen.groupby(list(SETTING), sort=False):
        stages = {stage: float(part[f"cpu_{stage}"].mean()) for stage in SHOWN if f"cpu_{stage}" in part}
        names = [f"cpu_{stage}" for stage in stages]
        total, low, high = mean_interval(part[names].sum(axis=1))
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True)) | stages
        rows.append(row | {"total": total, "low": low, "high": high, "seeds": len(part)})
    return pd.DataFrame(rows)


@styled
def time_split(costs: pd.DataFrame) -> Figure:
    """Stacked bars: CPU seconds of a cell by stage, one bar a method, the range over seeds as a whisker."""
    table = _split(costs)
    if table.empty:
        return says(NO_CELLS)
    figure, (axis,) = panels(1, 1, 0.85 + 0.27 * len(table))
    left = pd.Series(0.0, index=table.index)
    stages = [s for s in SHOWN if s in table and table[s].max() >= 0.005 * table["total"].max()]
    shades = ("#0072B2", "#56B4E9", "#E69F00", "#CC79A7", "#D55E00", "#bfbfbf", "#efefef")
    for stage, shade in zip(SHOWN, shades, strict=True):
        if stage in stages:
            hatch = HATCHES[SHOWN.index(stage) % len(HATCHES)]
            axis.barh(
                table.index,
                table[stage],
                left=left,
                color=shade,
                hatch=hatch,
                label=stage,
                edgecolor=DARK,
                linewidth=0.4,
            )
            left = left + table[stage]
    span = _range(costs)
    for y, row in enumerate(records(table)):
        low, high = span[row["method"]]
        axis.plot([low, high], [y, y], color="black", linewidth=1.1, marker="|", markersize=4)
    axis.set_yticks(
        table.index,
        [_setting(row) for row in records(table)],
    )
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("CPU seconds a cell")
    legend(figure, axis, columns=4)
    return figure


def _setting(row: dict[str, Any]) -> str:
    """A method with its batch size, where it edits."""
    return label(row["method"]) if row["method"] == "none" else f"{label(row['method'])} ({row['batch']})"


def _range(costs: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Least and largest total of the seeds at the headline settings."""
    chosen = at(costs, headline_settings(costs))
    total = chosen[[f"cpu_{s}" for s in SHOWN if f"cpu_{s}" in chosen]].sum(axis=1)
    ends = total.groupby(chosen["method"]).agg(["min", "max"])
    return {str(m): (float(row["min"]), float(row["max"])) for m, row in ends.iterrows()}


def time_split_caption(costs: pd.DataFrame) -> str:
    """Which stage takes the most of the editing, and of which method."""
    table = _split(costs)
    if table.empty:
        return NO_CELLS
    editing = [s for s in ("targets", "keys", "solve", "commit", "trust") if s in table]
    edits = table[table[editing].sum(axis=1) > 0]
    if edits.empty:
        return "Nothing was edited."
    shares = edits[editing].div(edits[editing].sum(axis=1), axis=0)
    shares.index = pd.Index([label(m) for m in edits["method"]])
    most = shares.idxmax(axis=1)
    found = []
    for stage in most.value_counts().index:
        part = shares.loc[most[most == stage].index, stage]
        ends = f"{percent(part.min())} to {percent(part.max())}" if len(part) > 1 else percent(part.iloc[0])
        found.append(f"{stage} for {listed(list(part.index))} ({ends})")
    cells = counted(int(table["seeds"].sum()), "cell")
    return (
        f"The largest part of the CPU time of editing: {'; '.join(found)}. CPU seconds of a cell by stage, batch size in "
        f"brackets; whiskers: the range over {counted(int(table['seeds'].max()), 'seed')} (n = {cells}). Times are "
        "measured and differ from run to run."
    )


NO_BENCHMARK = "No benchmark has been run: make bench."


def _x_panels(speed: pd.DataFrame) -> list[str]:
    return [b for b in ("targets", "solve", "evaluation") if (speed["benchmark"] == b).any()] if len(speed) else []


@styled
def speed_benchmark(speed: pd.DataFrame) -> Figure:
    """CPU milliseconds a fact of the targets, seconds of a solve, prompts scored a second: whatever was measured."""
    names = _x_panels(speed)
    if not names:
        return says(NO_BENCHMARK)
    figure, axes = panels(len(names), 1, 0.3 + 1.6 * len(names))
    for axis, name in zip(axes, names, strict=True):
        part = speed[speed["benchmark"] == name]
        for i, (series, rows) in enumerate(part.groupby("series", sort=False)):
            ordered = rows.sort_values("x")
            sides = [
                (ordered["value"] - ordered["low"]).clip(lower=0),
                (ordered["high"] - ordered["value"]).clip(lower=0),
            ]
            look: dict[str, Any] = {
                "color": COLORS[i % len(COLORS)],
                "marker": MARKERS[i % len(MARKERS)],
                "linestyle": LINES[i % len(LINES)],
            }
            bars = [side.fillna(0) for side in sides]
            if len(ordered) == 1:
                axis.axhline(ordered["value"].iloc[0], color=look["color"], linestyle=look["linestyle"], linewidth=0.8)
            axis.errorbar(ordered["x"], ordered["value"], yerr=bars, capsize=1.5, elinewidth=0.8, label=series, **look)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ticks = apart(sorted(part["x"].unique()))
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.set(title=name, xlabel=part["x_name"].iloc[0], ylabel=part["unit"].iloc[0])
        axis.margins(y=0.15)
        axis.legend(loc="best", handlelength=2.0)
    return figure


def speed_benchmark_caption(speed: pd.DataFrame) -> str:
    """How many times less the library needs, and on which machine."""
    names = _x_panels(speed)
    if not names:
        return NO_BENCHMARK
    found = []
    for row in records(speed[speed["speedup"].notna()].drop_duplicates("benchmark")):
        spread = level_with(row["speedup"], row["speedup_low"], row["speedup_high"], 1)
        found.append(
            f"{row['benchmark']} {spread} times less CPU time than {row['against']} at {row['x']:g} {row['x_name']}"
        )
    machine = speed["machine"].iloc[0]
    told = f"{'; '.join(found)}. " if found else ""
    return (
        f"{told[:1].upper()}{told[1:]}Bars: least and median of the repetitions where they were kept. Measured on {machine}, one "
        f"thread (n = {counted(len(speed), 'measurement')}; at most {level(speed['repetitions'].max(), 0)} repetitions each)."
    )
