"""Methods side by side: a forest plot with intervals, and one radar a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.rows import records
from editlab.analysis.scores import SCORES, count, headline, headline_settings, pooled_scores, wide
from editlab.analysis.style import COLUMN, DARK, GREY, LIGHT, marks, panels, says, styled
from editlab.analysis.wording import interval, label, leading, level, stands_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EMPTY = "No finished cell to compare."
AXES = ("ES", "PS", "NS", "fluency", "perplexity")


def _headline(matrix: pd.DataFrame) -> pd.DataFrame:
    """Final success at the headline settings, one row a method, the best S first, controls last."""
    table = wide(headline(pooled_scores(matrix)))
    if table.empty:
        return table
    return table.sort_values("S", ascending=False, kind="stable").reset_index(drop=True)


def _named(table: pd.DataFrame, metric: str) -> list[tuple[str, float, float, float]]:
    """(name, value, low, high) of each method."""
    return [(label(r["method"]), r[metric], r[f"{metric}_low"], r[f"{metric}_high"]) for r in records(table)]


def _setting(row: Mapping[str, Any]) -> str:
    """A method with its batch size, where it edits."""
    return label(row["method"]) if row["method"] == "none" else f"{label(row['method'])} ({row['batch']})"


@styled
def method_comparison(matrix: pd.DataFrame) -> Figure:
    """Forest plot: ES, PS, NS and S of every method at its headline setting, S in numbers at the right."""
    table = _headline(matrix)
    if table.empty:
        return says(EMPTY)
    figure, (axis,) = panels(1, 1, 0.75 + 0.36 * len(table))
    looks = dict(zip(SCORES, zip(("#0072B2", "#009E73", "#D55E00", "#000000"), "o^sD", strict=True), strict=True))
    for place, metric in enumerate(SCORES):
        color, marker = looks[metric]
        y = np.arange(len(table)) + 0.2 * (place - 1.5)
        x = table[metric]
        sides = [(x - table[f"{metric}_low"]).clip(lower=0), (table[f"{metric}_high"] - x).clip(lower=0)]
        face = color if metric == "S" else "white"
        style: dict[str, Any] = {
            "linestyle": "none",
            "markersize": 3.2,
            "elinewidth": 0.9,
            "capsize": 1.3,
            "markerfacecolor": face,
        }
        axis.errorbar(x, y, xerr=sides, color=color, marker=marker, label=metric, **style)
    for place, row in enumerate(records(table)):
        numbers = f"{level(row['S'])}\n{interval(row['S_low'], row['S_high'])}"
        axis.text(1.06, place, numbers, va="center", size=5.8, color=DARK)
        if place % 2:
            axis.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axis.text(1.06, -0.72, "S (95 %)", va="center", size=5.8, color=DARK)
    axis.set_yticks(range(len(table)), [_setting(row) for row in records(table)])
    axis.set(xlim=(-0.03, 1.03), ylim=(len(table) - 0.5, -0.5), xlabel="success at the end of the stream")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def method_comparison_caption(matrix: pd.DataFrame) -> str:
    """Who leads in S, and what a row is."""
    table = _headline(matrix)
    if table.empty:
        return EMPTY
    found = leading(_named(table, "S"), "S")
    edits = int(matrix["edits"].max())
    return (
        f"{found} Success after {edits} edits without replay, with 95 % intervals over cases and seeds "
        f"({stands_on(*count(table))}); batch size in brackets; S is the harmonic mean of ES, PS and NS."
    )


def _axes_table(matrix: pd.DataFrame) -> pd.DataFrame:
    """Per method the radar's axes in [0, 1] as (value, low, high): scores with intervals; GE and perplexity as shares of
    the unedited model's, with the range over seeds (they have no cases to draw anew)."""
    table = _headline(matrix)
    unedited = matrix[matrix["method"] == "none"]
    settings = headline_settings(matrix)
    rows: list[dict[str, Any]] = []
    for row in records(table):
        found: dict[str, Any] = {name: row[name] for name in ("method", "batch", "n", "seeds", "S")}
        for metric in ("ES", "PS", "NS"):
            found[metric] = (row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
        place = settings[settings["method"] == row["method"]].iloc[0]
        cells = matrix[(matrix[list(place.index)] == place).all(axis=1)].drop_duplicates("seed")
        for name, column, power in (("fluency", "GE", 1), ("perplexity", "perplexity", -1)):
            if column in matrix and len(unedited) and unedited[column].notna().any():
                kept = (cells[column] / unedited[column].mean()) ** power
                found[name] = tuple(np.clip((kept.mean(), kept.min(), kept.max()), 0, 1))
        rows.append(found)
    return pd.DataFrame(rows)


@styled
def method_radar(matrix: pd.DataFrame) -> Figure:
    """One radar a method; the dashed line is the unedited model, the band the 95 % interval."""
    import matplotlib.pyplot as plt

    table = _axes_table(matrix)
    if table.empty:
        return says(EMPTY)
    axes_names = [a for a in AXES if a in table]
    drawn = table[table["method"] != "none"].head(12)
    drawn = drawn if len(drawn) else table
    reference = table[table["method"] == "none"]
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(COLUMN, 0.25 + 1.12 * rows), squeeze=False, subplot_kw={"projection": "polar"}
    )
    angles = np.linspace(0, 2 * np.pi, len(axes_names), endpoint=False)
    closed = np.r_[angles, angles[:1]]
    looks = marks(matrix["method"])
    for axis, row in zip(grid.flat, records(drawn), strict=False):
        values = np.array([row[a] for a in axes_names], dtype=float)
        values = np.vstack([values, values[:1]])
        color = looks[row["method"]].color
        if len(reference):
            outline = [reference.iloc[0][a][0] for a in axes_names]
            axis.plot(closed, [*outline, outline[0]], color=GREY, linestyle=(0, (2, 1.5)), linewidth=0.8)
        axis.plot(closed, values[:, 0], color=color, marker=looks[row["method"]].marker, markersize=2.2, linewidth=1)
        low, high = (np.where(np.isnan(values[:, i]), values[:, 0], values[:, i]) for i in (1, 2))
        axis.fill_between(closed, low, high, color=color, alpha=0.3, linewidth=0)
        axis.set_xticks(angles, [_short(a) for a in axes_names], size=5)
        axis.set_yticks([0.5, 1.0], ["", ""])
        axis.set(ylim=(0, 1.05), title=_title(row))
        axis.tick_params(axis="x", pad=-4.5)
        axis.spines["polar"].set_color(LIGHT)
    for axis in list(grid.flat)[len(drawn) :]:
        axis.set_visible(False)
    return figure


def _short(axis: str) -> str:
    return {"fluency": "GE", "perplexity": "PPL"}.get(axis, axis)


def _title(row: Mapping[str, Any]) -> str:
    return f"{label(row['method'])} ({row['batch']})"


def method_radar_caption(matrix: pd.DataFrame) -> str:
    """What keeps the neighbours best among those that edit, and what the axes are."""
    table = _headline(matrix)
    if table.empty:
        return EMPTY
    editing = table[table["ES"] >= 0.5]
    found = leading(_named(editing, "NS"), "NS")
    who = (
        f"Of the {len(editing)} methods (of {len(table)}) that reach at least half of their edits: "
        if len(editing)
        else ""
    )
    extra = {"GE": "n-gram entropy (GE)", "perplexity": "inverse perplexity (PPL)"}
    kept = [text for column, text in extra.items() if column in matrix and (matrix["method"] == "none").any()]
    shares = f", and {' and '.join(kept)} as shares of the unedited model's, at most 1" if kept else ""
    ranges = " (for these two the range over seeds)" if kept else ""
    dashed = "; dashed: the unedited model" if (matrix["method"] == "none").any() else ""
    return (
        f"{who}{found} Axes from 0 to 1: ES, PS, NS{shares}; batch size in brackets; bands are 95 % intervals{ranges}"
        f"{dashed} ({stands_on(*count(table))})."
    )
