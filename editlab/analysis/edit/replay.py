"""What replay does: replay x batch heat maps over the matrix, and the ablation of rate, capacity and strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, heat_maps, legend, panels, sides
from editlab.analysis.draw.style import COLORS, DARK, GREY, LINES, MARKERS
from editlab.analysis.edit.cells import CELL_FILES, cells_table, read_cases
from editlab.analysis.edit.comparisons import adjusted, against, of_kind, seen_before, wide_cases
from editlab.analysis.edit.printing import BATCH, METHOD, REPLAY, differences_sheet
from editlab.analysis.edit.scores import basis, pooled_scores
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells, of_cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Interval, largest
from editlab.analysis.text.findings import ALPHA, Finding, difference_finding
from editlab.analysis.text.wording import counted, label

ABLATION = "replay_ablation"
NO_REPLAY = "No method was run with several replay rates."
MAPS = 12  # heat maps in one figure
ROOM = 8  # cells side by side that have room for a number
SETTINGS = ("method", "batch", "replay", "capacity", "strategy")


def replay_gain_table(cells: Cells) -> pd.DataFrame:
    """Every (rate, capacity, strategy) of a replay ablation against no replay, all seeds together. A setting whose
    cells scored exactly as another one's ``repeats`` it."""
    none = {(c["method"], c["batch"], c["seed"]): d for d, c in cells if float(c["replay"]) == 0}
    replayed = [(directory, cell) for directory, cell in cells if float(cell["replay"]) > 0]
    seen: set[Any] = set()

    def repeats(place: tuple[str, ...], pairs: Sequence[tuple[str, str]]) -> dict[str, bool]:
        scores = {str(i): wide_cases(read_cases(one)) for i, (one, _) in enumerate(pairs)}
        return {"repeats": seen_before(place[:2], [scores], seen)}  # a buffer that is never full has any size

    rows = against(replayed, SETTINGS, lambda c: none.get((c["method"], c["batch"], c["seed"])), repeats)
    return adjusted(pd.DataFrame(rows), ["metric"]) if rows else pd.DataFrame()


def _replayed(matrix: pd.DataFrame) -> pd.DataFrame:
    """S of the methods that were run with several replay rates."""
    table = pooled_scores(matrix)
    table = table[table["metric"] == "S"]
    table = table[table.groupby("method")["replay"].transform("nunique") > 1]
    return table[table["rank"] == table.groupby("method")["rank"].transform("max")]


def _layout(table: pd.DataFrame) -> tuple[int, int, bool]:
    """Rows and columns of maps, and whether their cells have room for numbers."""
    maps = min(MAPS, table["method"].nunique())
    columns = min(2 if maps < 5 else 3, maps)
    return -(-maps // columns), columns, columns * table["batch"].nunique() <= ROOM


def _map_legend(table: pd.DataFrame) -> str:
    cut = table["method"].nunique() - MAPS
    left_out = f" The first {MAPS} methods are shown, {cut} are in the table." if cut > 0 else ""
    half = ", ± half of its 95 % interval" if _layout(table)[2] else "; intervals are in the table of every setting"
    return f"Each cell: S at the end{half} ({basis(table)}).{left_out}"


@figure(
    "Replay by batch size",
    "ablation_matrix",
    _map_legend,
    rows=_replayed,
    empty=NO_REPLAY,
    cites=("replay.summary", "replay.largest"),
    level=2,
)
def replay_batch_heatmap(table: pd.DataFrame) -> Drawing:
    """S by replay rate and batch size, one map a method, with half the width of the interval where there is room."""
    methods = list(dict.fromkeys(table["method"]))[:MAPS]
    table = table[table["method"].isin(methods)].assign(half=(table["high"] - table["low"]) / 2)
    rows, columns, roomy = _layout(table)
    rates, batches = sorted(table["replay"].unique()), sorted(table["batch"].unique())
    gap = "\n" if columns > 2 else " "  # three long names collide
    maps = {label(str(m)).replace(" ", gap): part for m, part in table.groupby("method", sort=False)}
    low, high = float(table["value"].min()), float(table["value"].max())
    span = (low, high) if high > low else (low - 0.5, high + 0.5)
    height = 0.6 + rows * (0.35 + 0.12 * (columns > 2) + (0.31 if roomy else 0.17) * len(rates))
    places, axes = (("batch", batches), ("replay", rates)), ("batch size", "replay rate")
    figure = heat_maps(maps, places, axes, span, columns=columns, height=height, numbers=roomy, scale="S")
    for axis in figure.axes[: len(maps)]:
        axis.tick_params(axis="x", rotation=0 if roomy else 90)
    return figure


def _gain_legend(rows: pd.DataFrame) -> str:
    methods = ", ".join(label(str(m)) for m in dict.fromkeys(rows["method"]))
    return (
        f"{methods}; differences on the same cases with 95 % intervals ({basis(rows)}); shape: the strategy, "
        "colour: the capacity."
    )


@figure(
    "Gain by replay",
    "replay_gain",
    _gain_legend,
    rows=lambda table: table[table["metric"] == "S"],
    empty=NO_REPLAY,
    cites=("replay.settings", "replay.best_setting"),
    level=7,
)
def replay_gain(part: pd.DataFrame) -> Drawing:
    """Difference of S to no replay on the same cases, by rate, capacity and strategy."""
    figure, (axis,) = panels(2.5, xlabel="replayed facts per new fact", ylabel="S with replay − S without")
    rates = sorted(part["replay"].unique())
    groups = list(part.groupby(["strategy", "capacity"], sort=True))
    strategies = list(dict.fromkeys(part["strategy"]))
    for i, ((strategy, capacity), rows) in enumerate(groups):
        kind, size = strategies.index(strategy), sorted(part["capacity"].unique()).index(capacity)
        x = [rates.index(r) + 0.8 * ((i + 0.5) / len(groups) - 0.5) for r in rows["replay"]]
        color, marker = COLORS[size % len(COLORS)], MARKERS[kind % len(MARKERS)]
        look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none", "capsize": 1.5}
        look["label"] = f"{strategy}, {capacity}"
        axis.errorbar(x, rows["value"], yerr=sides(rows), **look)
    axis.axhline(0, color=DARK, linewidth=0.7, linestyle=LINES[1])
    axis.set_xticks(range(len(rates)), [f"{r:g}" for r in rates])
    axis.grid(axis="x", visible=False)
    for edge in range(1, len(rates)):
        axis.axvline(edge - 0.5, color=GREY, linewidth=0.4)
    legend(figure, axis)
    return figure


@sheet("replay_effect", "Effect of replay", "comparisons")
def replay_effect_sheet(tables: Tables) -> Printed:
    """Each replay rate of a method against none, on the same cases."""
    rows = tables["comparisons"].query("kind == 'replay'")
    rows = rows.rename(columns={"a": "method", "a_batch": "batch", "a_replay": "replay"})
    what = "What replay changes: paired differences to no replay on the same cases with 95 % intervals"
    return differences_sheet(rows, [METHOD, BATCH, REPLAY], what)


@sheet("replay_ablation", "Rate, capacity, strategy", "replay_gain", level=8)
def replay_ablation_sheet(tables: Tables) -> Printed:
    """Rate x capacity x strategy against no replay."""
    places = [METHOD, REPLAY, Column("capacity", "cap.", "count"), Column("strategy", "strategy", "text")]
    what = (
        "Replay against none, by rate, capacity and strategy: paired differences on the same cases with 95 % intervals"
    )
    return differences_sheet(tables["replay_gain"], places, what)


def _told(row: Mapping[str, Any]) -> tuple[str, str, str]:
    rank = f"_rank{row['a_rank']}" if row["a_rank"] else ""
    key = f"replay.{row['a']}_batch{row['a_batch']}_rate{row['a_replay']:g}{rank}"
    return key, f"Replaying {row['a_replay']:g} facts per new fact", f" of {label(row['a'])} at batch {row['a_batch']}"


def findings(tables: Tables) -> Iterator[Finding]:
    """Every replay rate against none: S, then the count of what helps and what hurts; the best of the ablation."""
    found = list(of_kind(tables, "replay", _told, "Replay"))
    yield from found
    if found:
        most = max(found[:-1], key=lambda f: abs(f.value))
        sentence = f"The largest difference of all: {most.sentence[0].lower()}{most.sentence[1:]}"
        yield dataclasses.replace(most, key="replay.largest", sentence=sentence)
    if len(tables["replay_gain"]):
        yield from _ablation(tables["replay_gain"])


def _ablation(table: pd.DataFrame) -> Iterator[Finding]:
    """The largest gain of S by replay, and how often it helps."""
    rows = table[(table["metric"] == "S") & ~table["repeats"]]
    best = largest(rows, "value")
    where = f" of {label(best['method'])} (capacity {best['capacity']}, {best['strategy']} sampling)"
    subject = f"Replaying {best['replay']:g} facts per new fact, the best of {counted(len(rows), 'setting')},"
    yield difference_finding("replay.best_setting", best, subject, "S", "replay_gain", where)
    helps, hurts = (int(((rows["p_holm"] < ALPHA) & (sign * rows["value"] > 0)).sum()) for sign in (1, -1))
    sentence = f"Of {counted(len(rows), 'different replay setting')}, {helps} raise S measurably and {hurts} lower it."
    mean, n = Interval(float(rows["value"].mean())), int(rows["n"].max())
    yield Finding("replay.settings", sentence, *mean, n, helps + hurts > 0, "replay_gain")


TOPIC = Topic(
    "Replay",
    about="replay",
    tables=(
        Collected("replay_ablation", cells_table, (ABLATION,), CELL_FILES),
        Collected("replay_gain", of_cells(replay_gain_table), (ABLATION,), ("cases.csv",)),
    ),
    reads=("ablation_matrix", "comparisons", "replay_gain"),
)
