"""What batch size and replay do: scores over batch sizes, replay x batch heat maps, and replay's gain over none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.rows import largest, records
from editlab.analysis.scores import SCORES, controls, count, pooled_scores
from editlab.analysis.style import (
    COLORS,
    COLUMN,
    DARK,
    GREY,
    HEAT,
    LINES,
    MARKERS,
    apart,
    error_bars,
    legend,
    marks,
    panels,
    says,
    share_axis,
    styled,
)
from editlab.analysis.wording import (
    SCORE_NAMES,
    counted,
    few,
    label,
    leading,
    level,
    level_with,
    listed,
    signed_with,
    stands_on,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_CELLS = "No finished cell to compare."
NO_REPLAY = "No method was run with several replay rates."
MAPS = 12  # heat maps in one figure
ROOM = 8  # cells side by side that have room for a number


def _plain(matrix: pd.DataFrame) -> pd.DataFrame:
    """Scores of the contestants without replay, at each method's largest rank."""
    table = pooled_scores(matrix[~matrix["method"].isin(controls(matrix))])
    if table.empty:
        return table
    best = table.groupby("method")[["replay", "rank"]].agg({"replay": "min", "rank": "max"})
    keep = table.join(best, on="method", rsuffix="_kept")
    return table[(keep["replay"] == keep["replay_kept"]) & (keep["rank"] == keep["rank_kept"])]


@styled
def batch_size(matrix: pd.DataFrame) -> Figure:
    """ES, PS, NS and S over the batch size, one line a method."""
    table = _plain(matrix)
    if table.empty:
        return says(NO_CELLS)
    figure, axes = panels(2, 2, 3.3 + 0.13 * max(0, table["method"].nunique() // 3 - 1), sharex=True)
    looks = marks(table["method"])
    batches = sorted(table["batch"].unique())
    spread = min(0.16 if len(batches) < 4 else 0.06, 0.9 / len(looks))
    for axis, metric in zip(axes, SCORES, strict=True):
        part = table[table["metric"] == metric]
        for i, (method, rows) in enumerate(part.groupby("method", sort=False)):
            ordered = rows.sort_values("batch")
            shift = 2 ** (spread * (i - (len(looks) - 1) / 2))
            error_bars(axis, ordered["batch"] * shift, ordered, looks[str(method)], label(str(method)))
        axis.set_xscale("log", base=2)
        ticks = apart(batches)
        axis.set_xticks(ticks, [f"{b:g}" for b in ticks])
        axis.minorticks_off()
        axis.set_xlim(batches[0] / 1.7, batches[-1] * 1.7)
        axis.set_title(SCORE_NAMES[metric])
        share_axis(axis, float(part["low"].min()))
    for axis in axes[2:]:
        axis.set_xlabel("batch size")
    for axis in axes[::2]:
        axis.set_ylabel("success")
    legend(figure, axes[0])
    return figure


def batch_size_caption(matrix: pd.DataFrame) -> str:
    """S at the smallest and at the largest batch of each method, and where the intervals part."""
    table = _plain(matrix)
    if table.empty:
        return NO_CELLS
    rises: list[str] = []
    falls: list[str] = []
    rest: list[str] = []
    for method, rows in table[table["metric"] == "S"].groupby("method", sort=False):
        if rows["batch"].nunique() < 2:
            continue
        first, last = (rows.sort_values("batch").iloc[i] for i in (0, -1))
        text = f"{label(str(method))} from {level(first['value'])} to {level(last['value'])}"
        group = rises if last["low"] > first["high"] else falls if last["high"] < first["low"] else rest
        group.append(text)
    if len(rest) > 2:
        rest = [counted(len(rest), "other method") if rises or falls else f"all {counted(len(rest), 'method')}"]
    smallest, largest = table["batch"].min(), table["batch"].max()
    said = [
        f"{how} for {listed(few(group))}"
        for how, group in (("rises", rises), ("falls", falls), ("changes within overlapping intervals", rest))
        if group
    ]
    found = f"From batch {smallest} to {largest}, S {'; '.join(said)}." if said else "Only one batch size was run."
    at_largest = records(table[(table["metric"] == "S") & (table["batch"] == largest)])
    top = leading([(label(r["method"]), r["value"], r["low"], r["high"]) for r in at_largest], f"S at batch {largest}")
    return (
        f"{found} {top} Success at the end without replay; bars are 95 % intervals over cases and seeds "
        f"({stands_on(*count(table))})."
    )


def _replayed(matrix: pd.DataFrame) -> pd.DataFrame:
    """S of the methods that were run with several replay rates."""
    table = pooled_scores(matrix)
    table = table[table["metric"] == "S"]
    several = table.groupby("method")["replay"].nunique()
    table = table[table["method"].isin(several[several > 1].index)]
    largest = table.groupby("method")["rank"].transform("max")
    return table[table["rank"] == largest]


@styled
def replay_batch_heatmap(matrix: pd.DataFrame) -> Figure:
    """S by replay rate and batch size, one map a method, with half the width of the interval where there is room."""
    import matplotlib.pyplot as plt

    table = _replayed(matrix)
    methods = list(dict.fromkeys(table["method"]))[:MAPS]
    if not methods:
        return says(NO_REPLAY)
    table = table[table["method"].isin(methods)]
    rows, columns, roomy = _layout(table)
    height = 0.6 + rows * (0.35 + 0.12 * (columns > 2) + (0.31 if roomy else 0.17) * table["replay"].nunique())
    figure, grid = plt.subplots(rows, columns, figsize=(COLUMN, height), squeeze=False, sharex=True, sharey=True)
    low, high = float(table["value"].min()), float(table["value"].max())
    span = (low, high) if high > low else (low - 0.5, high + 0.5)
    image: Any = None
    for axis, method in zip(grid.flat, methods, strict=False):
        part = table[table["method"] == method]
        image = _heat(axis, part, sorted(table["batch"].unique()), sorted(table["replay"].unique()), span, roomy)
        axis.set_title(label(method).replace(" ", "\n") if columns > 2 else label(method))  # three long names collide
    for axis in list(grid.flat)[len(methods) :]:
        axis.set_visible(False)
    for axis in grid[:, 0]:
        axis.set_ylabel("replay rate")
    for axis in grid[-1]:
        axis.set_xlabel("batch size")
    bar = figure.colorbar(image, ax=list(grid.flat), shrink=0.8, pad=0.02)
    bar.set_label("S")
    bar.outline.set_visible(False)
    return figure


def _layout(table: pd.DataFrame) -> tuple[int, int, bool]:
    """Rows and columns of maps, and whether their cells have room for numbers."""
    maps = min(MAPS, table["method"].nunique())
    columns = min(2 if maps < 5 else 3, maps)
    return -(-maps // columns), columns, columns * table["batch"].nunique() <= ROOM


def _heat(
    axis: Axes, part: pd.DataFrame, batches: list[int], rates: list[float], span: tuple[float, float], roomy: bool
) -> Any:
    """One map; each cell says its value and half the width of its interval where there is room."""
    shape = (len(rates), len(batches))
    values, halves = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in records(part):
        place = rates.index(row["replay"]), batches.index(row["batch"])
        values[place], halves[place] = row["value"], (row["high"] - row["low"]) / 2
    image = axis.pcolormesh(values, cmap=HEAT, vmin=span[0], vmax=span[1], edgecolors="white", linewidth=1.2)
    for (i, j), value in np.ndenumerate(values):
        if roomy and not np.isnan(value):
            bright = (value - span[0]) / (span[1] - span[0]) > 0.55
            text = f"{value:.2f}\n±{halves[i, j]:.2f}"
            color = "black" if bright else "white"
            where: dict[str, Any] = {"ha": "center", "va": "center", "size": 5.4, "color": color, "linespacing": 0.95}
            axis.text(j + 0.5, i + 0.5, text, **where)
    axis.set_xticks(np.arange(len(batches)) + 0.5, [str(b) for b in batches], rotation=0 if roomy else 90)
    axis.set_yticks(np.arange(len(rates)) + 0.5, [f"{r:g}" for r in rates])
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def replay_batch_heatmap_caption(matrix: pd.DataFrame) -> str:
    """The largest change of S by replay, and whether its intervals part."""
    table = _replayed(matrix)
    if table.empty:
        return NO_REPLAY
    changes = []
    for (method, batch), part in table.groupby(["method", "batch"], sort=False):
        plain = part[part["replay"] == part["replay"].min()].iloc[0]
        for row in records(part[part["replay"] > plain["replay"]]):
            changes.append((row["value"] - plain["value"], row, plain, label(str(method)), batch))
    cut = table["method"].nunique() - MAPS
    left_out = f" The first {MAPS} methods are shown, {cut} are in the table." if cut > 0 else ""
    half = ", ± half of its 95 % interval" if _layout(table)[2] else "; intervals are in the table of every setting"
    scale = f"Each cell: S at the end{half} ({stands_on(*count(table))}).{left_out}"
    if not changes:
        return scale
    _, row, plain, name, batch = max(changes, key=lambda c: abs(c[0]))
    verb = "raises" if row["value"] >= plain["value"] else "lowers"
    apart = row["low"] > plain["high"] or row["high"] < plain["low"]
    sure = "the intervals part" if apart else "the intervals overlap (paired differences are in the table)"
    return (
        f"The largest effect of replay: a rate of {row['replay']:g} {verb} S of {name} at batch {batch} from "
        f"{level_with(plain['value'], plain['low'], plain['high'])} to {level_with(row['value'], row['low'], row['high'])}; "
        f"{sure}. {scale}"
    )


@styled
def replay_gain(table: pd.DataFrame) -> Figure:
    """Difference of S to no replay on the same cases, by rate, capacity and strategy."""
    part = table[table["metric"] == "S"] if len(table) else table
    if part.empty:
        return says(NO_REPLAY)
    figure, (axis,) = panels(1, 1, 2.5)
    rates = sorted(part["replay"].unique())
    groups = list(part.groupby(["strategy", "capacity"], sort=True))
    strategies = list(dict.fromkeys(part["strategy"]))
    for i, ((strategy, capacity), rows) in enumerate(groups):
        kind, size = strategies.index(strategy), sorted(part["capacity"].unique()).index(capacity)
        x = [rates.index(r) + 0.8 * ((i + 0.5) / len(groups) - 0.5) for r in rows["replay"]]
        sides = [(rows["value"] - rows["ci_low"]).clip(lower=0), (rows["ci_high"] - rows["value"]).clip(lower=0)]
        color = COLORS[size % len(COLORS)]
        face = color if kind == 0 else "white"
        look: dict[str, Any] = {
            "marker": MARKERS[size % len(MARKERS)],
            "markerfacecolor": face,
            "linestyle": "none",
            "capsize": 1.5,
        }
        axis.errorbar(x, rows["value"], yerr=sides, color=color, label=f"{strategy}, {capacity}", **look)
    axis.axhline(0, color=DARK, linewidth=0.7, linestyle=LINES[1])
    axis.set_xticks(range(len(rates)), [f"{r:g}" for r in rates])
    axis.grid(axis="x", visible=False)
    axis.set(xlabel="replayed facts per new fact", ylabel="S with replay − S without")
    for edge in range(1, len(rates)):
        axis.axvline(edge - 0.5, color=GREY, linewidth=0.4)
    legend(figure, axis)
    return figure


def replay_gain_caption(table: pd.DataFrame) -> str:
    """How many of the settings help, and the best of them."""
    part = table[table["metric"] == "S"] if len(table) else table
    if part.empty:
        return NO_REPLAY
    verdicts = part["verdict"].value_counts()
    best = largest(part, "value")
    where = f"rate {best['replay']:g}, capacity {best['capacity']}, {best['strategy']} sampling"
    helped = int(verdicts.get("helps", 0))
    hurt = int(verdicts.get("hurts", 0))
    gain = signed_with(best["value"], best["ci_low"], best["ci_high"])
    methods = ", ".join(label(str(m)) for m in dict.fromkeys(part["method"]))
    return (
        f"Replay raises S measurably in {helped} of {counted(len(part), 'setting')} and lowers it in {hurt}; the "
        f"largest difference to no replay is {gain} ({where}). {methods}; differences on the same cases with 95 % "
        f"intervals ({stands_on(int(part['n'].max()), int(part['seeds'].max()))}); filled and hollow: the strategies, "
        f"colour and shape: the capacity."
    )
