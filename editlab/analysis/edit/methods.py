"""The methods side by side: the matrix with its paired comparisons, the headline, every setting, the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, forest, panels
from editlab.analysis.draw.style import DARK, GREY, LIGHT, marks
from editlab.analysis.edit import scores
from editlab.analysis.edit.cells import CELL_FILES, cells_table
from editlab.analysis.edit.comparisons import between, comparisons
from editlab.analysis.edit.printing import BATCH, BOLD, METHOD, SCORE_COLUMNS, every_setting, mark_best
from editlab.analysis.edit.scores import SCORES, SETTING, basis, controls, headline, over, side_by_side, with_batch
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import of_cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, mean_table, records
from editlab.analysis.text.findings import Finding, leader_finding
from editlab.analysis.text.wording import SCORE_NAMES, counted, interval, label, level_with, listed, signed_with
from editlab.analysis.text.wording import level as level_text

MATRIX = ("ablation_matrix", "comparisons")
CONTROLLED = {
    "none": "The unedited model",
    "random": "The control of random updates of the same norm",
    "shuffled": "The control of shuffled targets",
}
AXES = {"ES": "ES", "PS": "PS", "NS": "NS", "fluency": "GE", "perplexity": "PPL"}  # of the radar, as they are shown
LOOKS = {
    "ES": ("#0072B2", "o"), "PS": ("#009E73", "^"), "NS": ("#D55E00", "s"), "NS_exact": ("#D55E00", "x"),
    "SS_exact": ("#CC79A7", "P"), "S": ("#000000", "D"),
}  # fmt: skip


def by_score(matrix: pd.DataFrame) -> pd.DataFrame:
    """Final success at the headline settings, one row a method, the best S first."""
    return headline(side_by_side(matrix)).sort_values("S", ascending=False, kind="stable").reset_index(drop=True)


@figure(
    "Methods side by side",
    "ablation_matrix",
    lambda table: (
        f"Success after {int(table['edits'].max())} edits without replay, with {over(table)}; batch size in brackets; S is the "
        f"harmonic mean of ES, PS and NS. {scores.SURROUNDINGS}."
    ),
    rows=lambda matrix: by_score(matrix).assign(edits=matrix["edits"].max()),
    cites=("methods.best_S",),
    level=1,
)
def method_comparison(table: pd.DataFrame) -> Drawing:
    """Forest plot: ES, PS, S and what is left of the surroundings, every method at its headline setting; S in numbers."""
    looks = {metric: look for metric, look in LOOKS.items() if metric in table}
    series = []
    for place, (metric, (color, marker)) in enumerate(looks.items()):
        rows = table[[metric, f"{metric}_low", f"{metric}_high"]].set_axis(Interval._fields, axis=1)
        look = {"color": color, "marker": marker, "markerfacecolor": color if metric == "S" else "white"}
        places = np.arange(len(table)) + 0.8 * (place + 0.5) / len(looks) - 0.4
        series.append((scores.TITLES.get(metric, metric), rows, places, look))
    names, height = [with_batch(row) for row in records(table)], 0.7 + 0.28 * len(table)
    figure, axis = forest(names, series, height, "success at the end of the stream", columns=3)
    for place, row in enumerate(records(table)):
        numbers = f"{level_text(row['S'])}\n{interval(row['S_low'], row['S_high'])}"
        axis.text(1.06, place, numbers, va="center", size=5.8, color=DARK)
        if place % 2:
            axis.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axis.text(1.06, -0.72, "S (95 %)", va="center", size=5.8, color=DARK)
    axis.tick_params(axis="y", length=0)
    return figure


def _axes_table(matrix: pd.DataFrame) -> pd.DataFrame:
    """Per method the radar's axes in [0, 1] as (value, low, high): scores with intervals; GE and perplexity as shares of
    the unedited model's, with the range over seeds (they have no cases to draw anew)."""
    table, unedited = by_score(matrix), matrix[matrix["method"] == "none"]
    rows: list[dict[str, Any]] = []
    for row in records(table):
        found = {name: row[name] for name in ("method", "batch", "n", "seeds", "S")}
        found |= {metric: tuple(Interval.of(row, metric)) for metric in ("ES", "PS", "NS")}
        cells = scores.at(matrix, table[table["method"] == row["method"]]).drop_duplicates("seed")
        for name, column, power in (("fluency", "GE", 1), ("perplexity", "perplexity", -1)):
            if column in matrix and unedited[column].notna().any():
                kept = (cells[column] / unedited[column].mean()) ** power
                found[name] = tuple(np.clip((kept.mean(), kept.min(), kept.max()), 0, 1))
        rows.append(found)
    return pd.DataFrame(rows)


def _radar_legend(table: pd.DataFrame) -> str:
    unedited = bool((table["method"] == "none").any())
    extra = {"fluency": "n-gram entropy (GE)", "perplexity": "inverse perplexity (PPL)"}
    kept = [text for axis, text in extra.items() if axis in table]
    shares = f", and {' and '.join(kept)} as shares of the unedited model's, at most 1" if kept else ""
    ranges = " (for these two the range over seeds)" if kept else ""
    return (
        f"Axes from 0 to 1: ES, PS, NS{shares}; batch size in brackets; bands are 95 % intervals{ranges}"
        f"{'; dashed: the unedited model' if unedited else ''} ({basis(table)})."
    )


@figure("Profile of each method", "ablation_matrix", _radar_legend, rows=_axes_table, cites=("methods.sparing",))
def method_radar(table: pd.DataFrame) -> Drawing:
    """One radar a method; the dashed line is the unedited model, the band the 95 % interval."""
    names = [name for name in AXES if name in table]
    reference = table[table["method"] == "none"]
    drawn = table[table["method"] != "none"].head(12)
    drawn = drawn if len(drawn) else table
    columns = min(3, len(drawn))
    height = 0.25 + 1.12 * -(-len(drawn) // columns)
    figure, axes = panels(height, len(drawn), columns, subplot_kw={"projection": "polar"})
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    closed = np.r_[angles, angles[:1]]
    looks = marks(table["method"])
    for axis, row in zip(axes, records(drawn), strict=True):
        look = looks[row["method"]]
        values, low, high = np.array([row[name] for name in [*names, names[0]]], dtype=float).T
        if len(reference):
            outline = [reference.iloc[0][name][0] for name in [*names, names[0]]]
            axis.plot(closed, outline, color=GREY, linestyle=(0, (2, 1.5)), linewidth=0.8)
        axis.plot(closed, values, color=look.color, marker=look.marker, markersize=2.2, linewidth=1)
        low, high = (np.where(np.isnan(end), values, end) for end in (low, high))
        axis.fill_between(closed, low, high, color=look.color, alpha=0.3, linewidth=0)
        axis.set_xticks(angles, [AXES[name] for name in names], size=5)
        axis.set_yticks([0.5, 1.0], ["", ""])
        axis.set(ylim=(0, 1.05), title=f"{label(row['method'])} ({row['batch']})")
        axis.tick_params(axis="x", pad=-4.5)
        axis.spines["polar"].set_color(LIGHT)
    return figure


@sheet("methods", "Methods, headline setting", *MATRIX, level=1)
def methods_sheet(tables: Tables) -> Printed:
    """The headline: one row a method at its headline setting, best S first, controls last."""
    matrix, compared = tables["ablation_matrix"], tables["comparisons"]
    frame = headline(side_by_side(matrix))
    frame = frame.assign(control=frame["method"].isin(controls(matrix)))
    frame = frame.sort_values(["control", "S"], ascending=[True, False], kind="stable").reset_index(drop=True)
    inside = frame[~frame["control"]]
    mark_best(frame, [(inside, compared)] if len(inside) else [], "headline")
    cells = matrix.drop_duplicates([*SETTING, "seed"]).groupby(list(SETTING), sort=False)
    means = cells[[c for c in ("perplexity", "GE") if c in matrix]].mean().reset_index()
    frame = frame.merge(means, on=list(SETTING), how="left")
    edits = counted(int(matrix["edits"].max()), "edit")
    about = f"{BOLD}. {scores.SURROUNDINGS}; PPL: perplexity of held-out text."
    legend = f"Success after {edits}, no replay, with {over(frame)}; {about}"
    shown = [Column(name, scores.TITLES.get(name, name)) for name in scores.SHOWN if name in frame]
    columns = [METHOD, BATCH, *shown, Column("perplexity", "PPL", "level", 1)]
    return Printed(frame, columns, legend)


ablation_sheet = every_setting("ablation", "Every setting", MATRIX, "Every setting of the matrix")


@sheet("baselines", "Baselines", "baseline_comparison", level=8)
def baselines_sheet(tables: Tables) -> Printed:
    """ROME, MEMIT and EMMET on the same facts: scores, time and memory."""
    matrix = tables["baseline_comparison"]
    extra = mean_table(scores.final_success(matrix), SETTING, ["seconds_per_edit", "peak_memory_mb"])
    frame = side_by_side(matrix).merge(extra.drop(columns="seeds"), on=list(SETTING), how="left")
    edits = counted(int(matrix["edits"].max()), "edit")
    legend = f"Baselines on the same {edits} ({basis(frame)}), with 95 % intervals over cases; times are measured."
    costs = [Column("seconds_per_edit", "ms/edit", "level", 0, 1000.0), Column("peak_memory_mb", "MB", "count")]
    return Printed(frame, [METHOD, BATCH, *SCORE_COLUMNS, *costs], legend)


quick_validation_sheet = every_setting("quick_validation", "Quick validation", ["quick_validation"], "Quick validation")


def findings(tables: Tables) -> Iterator[Finding]:
    """The best methods by the paired test, what the controls score, and who spares the neighbours while editing."""
    matrix, compared = (tables[name] for name in MATRIX)
    if matrix.empty:
        return
    table, outside = headline(side_by_side(matrix)), controls(matrix)
    inside = table[~table["method"].isin(outside)]
    if "comparisons" in tables:
        yield from (_best(inside, compared, metric) for metric in SCORES if inside[metric].notna().any())
    yield from _controls(table, inside, outside)
    yield from _sparing(table)


def _best(table: pd.DataFrame, compared: pd.DataFrame, metric: str) -> Finding:
    """Which method is on top of a score, and whether the paired test puts it above every other one."""
    ordered = table.sort_values(metric, ascending=False, kind="stable")
    top, others = ordered.iloc[0], list(ordered["method"].iloc[1:])
    found, score, name = Interval.of(top, metric), SCORE_NAMES[metric], label(top["method"])
    pairs = {other: between(compared, top["method"], other, metric) for other in others}
    alike = [label(other) for other, pair in pairs.items() if pair is None or not pair.low > 0]
    said = f"{score} of {len(ordered)} methods ({setting(table)}), {level_with(*found)}"
    if not others:
        sentence = f"{name}, the only method, reaches a {score} of {level_with(*found)}."
    elif alike:
        apart = f"the paired test does not set it apart from {listed(alike)}"
        sentence = f"{name} scores the highest {said}, but {apart}."
    else:
        gap = signed_with(*(pairs[others[0]] or UNKNOWN))
        sentence = f"{name} has the highest {said}: {gap} against {label(others[0])}, the next, on the same cases."
    sure = bool(others) and not alike
    return Finding(f"methods.best_{metric}", sentence, *found, int(top["n"]), sure, "ablation_matrix")


def setting(table: pd.DataFrame) -> str:
    """The headline setting in words: ``batch 32 (ROME: 1), no replay``."""
    return ", ".join(
        [
            _usual(table, "batch", lambda size: f"batch {size:g}"),
            _usual(table, "replay", lambda rate: f"replay {rate:g}" if rate else "no replay"),
        ]
    )


def _usual(table: pd.DataFrame, column: str, told: Callable[[float], str]) -> str:
    """What most methods have of a column, and in brackets which ones have what else."""
    usual = table[column].value_counts().index[0]
    others = [f"{label(r['method'])}: {r[column]:g}" for r in records(table) if r[column] != usual]
    return told(usual) + (f" ({', '.join(others)})" if others else "")


def _controls(table: pd.DataFrame, inside: pd.DataFrame, outside: list[str]) -> Iterator[Finding]:
    """What the unedited model and random updates score: how much of a method's score is its own."""
    for row in records(table[table["method"].isin(outside)]):
        numbers = Interval.of(row, "ES")
        what = CONTROLLED.get(row["method"], f"The control of {label(row['method'])}")
        rest = [label(r["method"]) for r in records(inside) if not r["ES_low"] > numbers.high]
        sure = len(inside) > 0 and not rest
        told = f"; {listed(rest)} {'is' if len(rest) == 1 else 'are'} not measurably above it" if rest else ""
        told = f"; the intervals of all {counted(len(inside), 'method')} lie above it" if sure else told
        sentence = f"{what} has an efficacy (ES) of {level_with(*numbers)}{told}."
        key = f"methods.control_{row['method']}"
        yield Finding(key, sentence, *numbers, int(row["n"]), sure, "ablation_matrix")


def _sparing(table: pd.DataFrame) -> Iterator[Finding]:
    """Who keeps the neighbours best among those that edit: a method that does nothing spares them all."""
    editing = table[table["ES"] >= 0.5].sort_values("NS", ascending=False, kind="stable")
    if len(editing):
        who = f"Of the {len(editing)} methods (of {len(table)}) that reach at least half of their edits: "
        n = int(editing["n"].iloc[0])
        yield leader_finding("methods.sparing", scores.named(editing, "NS"), "NS", n, "ablation_matrix", who)


TOPIC = Topic(
    "Methods",
    about="the methods",
    tables=(
        Collected("ablation_matrix", cells_table, ("edit",), CELL_FILES),
        Collected("comparisons", of_cells(comparisons), ("edit",), ("cases.csv",)),
        Collected("quick_validation", cells_table, ("quick_validation",), CELL_FILES),
        Collected("baseline_comparison", partial(cells_table, with_costs=True), ("baseline_comparison",), CELL_FILES),
    ),
    reads=MATRIX,
    sentences=4,
)
