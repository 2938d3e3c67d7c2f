"""The methods side by side: the matrix with its paired comparisons, the headline, every setting, the baselines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import panels, sides
from editlab.analysis.draw.style import COLUMN, DARK, GREY, LIGHT, marks
from editlab.analysis.edit.cells import CELL_FILES, FIXED, cells_table
from editlab.analysis.edit.comparisons import between, clear_winner, comparisons
from editlab.analysis.edit.printing import BATCH, BOLD, METHOD, SCORE_COLUMNS, every_setting
from editlab.analysis.edit.scores import (
    INTERVALS,
    SCORES,
    SETTING,
    basis,
    controls,
    headline,
    headline_settings,
    named,
    pooled_scores,
    wide,
    with_batch,
)
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import mean_table
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import largest, records
from editlab.analysis.text.wording import (
    SCORE_NAMES,
    counted,
    interval,
    label,
    leading,
    level_with,
    listed,
    signed_with,
)
from editlab.analysis.text.wording import level as level_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

MATRIX = ("ablation_matrix", "comparisons")
AXES = ("ES", "PS", "NS", "fluency", "perplexity")  # of the radar


def by_score(matrix: pd.DataFrame) -> pd.DataFrame:
    """Final success at the headline settings, one row a method, the best S first."""
    table = wide(headline(pooled_scores(matrix)))
    return table.sort_values("S", ascending=False, kind="stable").reset_index(drop=True) if len(table) else table


# ---- figures -----------------------------------------------------------------------------------------------------


def _headline(matrix: pd.DataFrame) -> pd.DataFrame:
    table = by_score(matrix)
    return table.assign(edits=matrix["edits"].max()) if len(table) else table


@figure(
    "Methods side by side",
    "ablation_matrix",
    lambda table: (
        f"Success after {int(table['edits'].max())} edits without replay, with 95 % intervals over cases and seeds "
        f"({basis(table)}); batch size in brackets; S is the harmonic mean of ES, PS and NS."
    ),
    rows=_headline,
    cites=("methods.best_S",),
    level=1,
)
def method_comparison(table: pd.DataFrame) -> Drawing:
    """Forest plot: ES, PS, NS and S of every method at its headline setting, S in numbers at the right."""
    figure, (axis,) = panels(1, 1, 0.75 + 0.36 * len(table))
    looks = dict(zip(SCORES, zip(("#0072B2", "#009E73", "#D55E00", "#000000"), "o^sD", strict=True), strict=True))
    for place, metric in enumerate(SCORES):
        color, marker = looks[metric]
        y = np.arange(len(table)) + 0.2 * (place - 1.5)
        x = table[metric]
        face = color if metric == "S" else "white"
        style: dict[str, Any] = {"linestyle": "none", "markersize": 3.2, "elinewidth": 0.9, "markerfacecolor": face}
        axis.errorbar(
            x,
            y,
            xerr=sides(table, f"{metric}_low", f"{metric}_high", metric),
            color=color,
            marker=marker,
            label=metric,
            capsize=1.3,
            **style,
        )
    for place, row in enumerate(records(table)):
        numbers = f"{level_text(row['S'])}\n{interval(row['S_low'], row['S_high'])}"
        axis.text(1.06, place, numbers, va="center", size=5.8, color=DARK)
        if place % 2:
            axis.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axis.text(1.06, -0.72, "S (95 %)", va="center", size=5.8, color=DARK)
    axis.set_yticks(range(len(table)), [with_batch(row) for row in records(table)])
    axis.set(xlim=(-0.03, 1.03), ylim=(len(table) - 0.5, -0.5), xlabel="success at the end of the stream")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _axes_table(matrix: pd.DataFrame) -> pd.DataFrame:
    """Per method the radar's axes in [0, 1] as (value, low, high): scores with intervals; GE and perplexity as shares of
    the unedited model's, with the range over seeds (they have no cases to draw anew)."""
    table = by_score(matrix)
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


@figure(
    "Profile of each method", "ablation_matrix", _radar_legend, rows=_axes_table, cites=("methods.sparing",), level=9
)
def method_radar(table: pd.DataFrame) -> Drawing:
    """One radar a method; the dashed line is the unedited model, the band the 95 % interval."""
    import matplotlib.pyplot as plt

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
    looks = marks(table["method"])
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
        axis.set_xticks(angles, [{"fluency": "GE", "perplexity": "PPL"}.get(a, a) for a in axes_names], size=5)
        axis.set_yticks([0.5, 1.0], ["", ""])
        axis.set(ylim=(0, 1.05), title=f"{label(row['method'])} ({row['batch']})")
        axis.tick_params(axis="x", pad=-4.5)
        axis.spines["polar"].set_color(LIGHT)
    for axis in list(grid.flat)[len(drawn) :]:
        axis.set_visible(False)
    return figure


# ---- printed tables ----------------------------------------------------------------------------------------------


@sheet("methods", "Methods, headline setting", *MATRIX, level=1)
def methods_sheet(tables: Tables) -> Printed:
    """The headline: one row a method at its headline setting, best S first, controls last."""
    matrix, compared = tables["ablation_matrix"], tables["comparisons"]
    frame = wide(headline(pooled_scores(matrix)))
    frame = frame.assign(control=frame["method"].isin(controls(matrix)))
    frame = frame.sort_values(["control", "S"], ascending=[True, False], kind="stable").reset_index(drop=True)
    inside = list(frame.loc[~frame["control"], "method"])
    for metric in SCORES:
        frame[f"{metric}_best"] = False
        if inside:
            top = largest(frame[~frame["control"]], metric)["method"]
            frame[f"{metric}_best"] = (frame["method"] == top) & clear_winner(compared, top, inside, metric)
    frame = frame.merge(_side_effects(matrix), on=list(SETTING), how="left")
    edits = counted(int(matrix["edits"].max()), "edit")
    legend = f"{INTERVALS}: {edits}, no replay ({basis(frame)}); {BOLD}. PPL: perplexity of held-out text."
    columns = [METHOD, BATCH, *SCORE_COLUMNS, Column("perplexity", "PPL", "level", 1)]
    return Printed(frame, columns, legend, "ablation_matrix")


def _side_effects(matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean perplexity and entropy of generated text over seeds, by setting."""
    cells = matrix.drop_duplicates([*SETTING, "seed"])
    names = [c for c in ("perplexity", "GE") if c in cells]
    return cells.groupby(list(SETTING), sort=False)[names].mean().reset_index()


@sheet("baselines", "Baselines", "baseline_comparison", level=8)
def baselines_sheet(tables: Tables) -> Printed:
    """ROME, MEMIT and EMMET on the same facts: scores, time and memory."""
    matrix = tables["baseline_comparison"]
    frame = wide(pooled_scores(matrix))
    final = matrix[(matrix["when"] == "final") & (matrix["protocol"] == "success")]
    extra = mean_table(final, list(SETTING), ["seconds_per_edit", "peak_memory_mb"]).drop(columns="seeds")
    frame = frame.merge(extra, on=list(SETTING), how="left")
    edits = counted(int(matrix["edits"].max()), "edit")
    legend = f"Baselines on the same {edits} ({basis(frame)}), with 95 % intervals over cases; times are measured."
    costs = [Column("seconds_per_edit", "ms/edit", "level", 0, 1000.0), Column("peak_memory_mb", "MB", "count")]
    return Printed(frame, [METHOD, BATCH, *SCORE_COLUMNS, *costs], legend, "baseline_comparison")


@sheet("ablation", "Every setting", *MATRIX)
def ablation_sheet(tables: Tables) -> Printed:
    """Every setting, seeds together."""
    return every_setting(tables, "ablation_matrix", "Every setting of the matrix. ")


@sheet("quick_validation", "Quick validation", "quick_validation")
def quick_validation_sheet(tables: Tables) -> Printed:
    """Quick validation, seeds together."""
    return every_setting(tables, "quick_validation", "Quick validation. ")


# ---- findings ----------------------------------------------------------------------------------------------------


def findings(tables: Tables) -> list[Finding]:
    """The best methods by the paired test, what the controls score, and who spares the neighbours while editing."""
    if "ablation_matrix" not in tables or tables["ablation_matrix"].empty:
        return []
    matrix, found = tables["ablation_matrix"], []
    table, outside = wide(headline(pooled_scores(matrix))), controls(matrix)
    inside = table[~table["method"].isin(outside)]
    if "comparisons" in tables:
        compared = tables["comparisons"]
        found = [_best(inside, compared, metric) for metric in SCORES if len(inside) and inside[metric].notna().any()]
    return [*found, *_controls(table, inside, outside), *_sparing(table)]


def _best(table: pd.DataFrame, compared: pd.DataFrame, metric: str) -> Finding:
    """Which method is on top of a score, and whether the paired test puts it above every other one."""
    ordered = table.sort_values(metric, ascending=False, kind="stable")
    top, others = ordered.iloc[0], list(ordered["method"].iloc[1:])
    value, low, high = (float(top[c]) for c in (metric, f"{metric}_low", f"{metric}_high"))
    name, said, score = label(top["method"]), level_with(value, low, high), SCORE_NAMES[metric]
    sure = clear_winner(compared, top["method"], others, metric)
    if not others:
        sentence = f"{name}, the only method, reaches a {score} of {said}."
    elif sure:
        pair = between(compared, top["method"], others[0], metric)
        assert pair is not None
        gap = signed_with(pair["value"], pair["ci_low"], pair["ci_high"])
        sentence = (
            f"{name} has the highest {score} of {len(ordered)} methods ({setting(table)}), {said}: {gap} against "
            f"{label(others[0])}, the next, on the same cases."
        )
    else:
        alike = [label(m) for m in others if not _above(compared, top["method"], m, metric)]
        sentence = (
            f"{name} scores the highest {score} of {len(ordered)} methods ({setting(table)}), {said}, but the paired test "
            f"does not set it apart from {listed(alike)}."
        )
    return Finding(f"methods.best_{metric}", sentence, value, low, high, int(top["n"]), sure, "ablation_matrix")


def setting(table: pd.DataFrame) -> str:
    """The headline setting in words: ``batch 32 (ROME: 1), no replay``."""
    sizes = table["batch"].value_counts()
    usual = int(sizes.index[0])
    others = [f"{label(r['method'])}: {r['batch']}" for r in records(table) if r["batch"] != usual]
    replay = float(table["replay"].max())
    exceptions = f" ({', '.join(others)})" if others else ""
    return f"batch {usual}{exceptions}, {f'replay {replay:g}' if replay else 'no replay'}"


def _above(compared: pd.DataFrame, a: str, b: str, metric: str) -> bool:
    pair = between(compared, a, b, metric)
    return pair is not None and pair["ci_low"] > 0


def _controls(table: pd.DataFrame, inside: pd.DataFrame, outside: list[str]) -> list[Finding]:
    """What the unedited model and random updates score: how much of a method's score is its own."""
    found = []
    for row in records(table[table["method"].isin(outside)]):
        value, low, high = row["ES"], row["ES_low"], row["ES_high"]
        what = (
            "The unedited model" if row["method"] == "none" else f"A control of updates that are {label(row['method'])}"
        )
        rest = [label(r["method"]) for r in records(inside) if not r["ES_low"] > high]
        sure = len(inside) > 0 and not rest
        told = f"; {listed(rest)} {'is' if len(rest) == 1 else 'are'} not measurably above it" if rest else ""
        told = f"; the intervals of all {counted(len(inside), 'method')} lie above it" if sure else told
        sentence = f"{what} has an efficacy (ES) of {level_with(value, low, high)}{told}."
        key = f"methods.control_{row['method']}"
        found.append(Finding(key, sentence, value, low, high, int(row["n"]), sure, "ablation_matrix"))
    return found


def _sparing(table: pd.DataFrame) -> list[Finding]:
    """Who keeps the neighbours best among those that edit: a method that does nothing spares them all."""
    editing = table[table["ES"] >= 0.5].sort_values("NS", ascending=False, kind="stable")
    if editing.empty:
        return []
    who = f"Of the {len(editing)} methods (of {len(table)}) that reach at least half of their edits: "
    value, low, high = named(editing, "NS")[0][1:]
    sure = bool(len(editing) > 1 and low > editing["NS_high"].iloc[1:].max())
    sentence = who + leading(named(editing, "NS"), "NS")
    n = int(editing["n"].iloc[0])
    return [Finding("methods.sparing", sentence, value, low, high, n, sure, "ablation_matrix")]


TOPIC = Topic(
    name="methods",
    title="Methods",
    about="the methods",
    tables=(
        Collected("ablation_matrix", cells_table, ("edit",), CELL_FILES, settings=FIXED),
        Collected("comparisons", lambda run: comparisons(run.cells["edit"]), ("edit",), files=("cases.csv",)),
        Collected("quick_validation", cells_table, ("quick_validation",), CELL_FILES, settings=FIXED),
        Collected(
            "baseline_comparison",
            partial(cells_table, with_costs=True),
            ("baseline_comparison",),
            CELL_FILES,
            settings=FIXED,
        ),
    ),
    figures=(
        method_comparison,
        method_radar,
    ),
    sheets=(
        methods_sheet,
        ablation_sheet,
        baselines_sheet,
        quick_validation_sheet,
    ),
    reads=MATRIX,
    findings=findings,
    sentences=4,
)
