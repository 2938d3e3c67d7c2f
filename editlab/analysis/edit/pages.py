"""The interactive pages of the edit study: all cells, the curves along a stream, the facts that were missed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.draw.style import marks
from editlab.analysis.edit.missed import NONE_MISSED
from editlab.analysis.edit.scores import CONTROLS, SETTING, last_snapshot, pooled_curves
from editlab.analysis.report.pages import SOURCES, column, number, table_data
from editlab.analysis.report.topic import Page, Tables
from editlab.analysis.statistics.intervals import Interval, largest, mean_table, smallest, stacked
from editlab.analysis.text.wording import counted, label, level_with, listed

# Tables of cells and of curves, with the experiment that they are of.
OWN = ("quick_validation", "baseline_comparison", "replay_ablation", "combined", "lora_ablation", "greedy_eval")
CELL_TABLES = {"ablation_matrix": "edit", **{name: name for name in OWN}}
CURVE_TABLES = {"curves": "edit", "large_scale_forgetting": "large_scale"}
AXES = ("method", "batch", "replay", "capacity", "strategy", "rank", "seed", "when", "protocol")
BEST = ("S", "ES", "PS", "NS")
EXTRA = {"GE": 2, "perplexity": 1, "delta_norm": 1, "retention": 3, "parameters": 0, "acceptance": 3}
TITLES = {"delta_norm": "norm of the change"}
HIDDEN = ("capacity", "strategy", "when", "protocol", "edits", "GE", "norm of the change")
PARAMETERS = {"metric": "shown"}  # of the plot, where a choice has another name
PROBED = {"retention": "retention of all earlier edits", "neighborhood": "neighbours"}
METRICS = {f"{k}_{how}": f"{name} ({how})" for k, name in PROBED.items() for how in ("success", "accuracy")}
METRICS |= {"perplexity": "perplexity of held-out text", "target_norm": "mean norm of targets"}


def _by_experiment(tables: Tables, of: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Tables by experiment; rates are text, as they were declared."""
    found = {experiment: tables[name] for name, experiment in of.items() if name in tables}
    return {e: t.assign(replay=[f"{r:g}" for r in t["replay"]]) for e, t in found.items()}


def cells_data(tables: Tables) -> dict[str, Any]:
    """All cells of all experiments. Tables without ``when`` and ``protocol`` hold final success."""
    defaults = {"when": "final", "protocol": "success"}
    parts = [
        table.assign(experiment=experiment, **{k: v for k, v in defaults.items() if k not in table})
        for experiment, table in _by_experiment(tables, CELL_TABLES).items()
    ]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["experiment", *AXES])
    names = ["experiment", *(a for a in AXES if a in frame), *(c for c in ("edits", "n") if c in frame)]
    columns = [column(frame, n) for n in names]
    columns += [{"title": s, "kind": "interval", "digits": 3, "name": s} for s in BEST if s in frame]
    extra = {name: digits for name, digits in EXTRA.items() if name in frame}
    columns += [{"title": TITLES.get(n, n), "kind": "number", "digits": d, "name": n} for n, d in extra.items()]
    return table_data(frame, columns, "cells", hidden=HIDDEN, filters={**defaults, "experiment": "edit"}, best="S")


def cells_caption(tables: Tables) -> str:
    """How many cells there are, and the best of each experiment."""
    best, cells = [], 0
    found = _by_experiment(tables, CELL_TABLES)
    for experiment, table in found.items():
        cells += len(table.drop_duplicates([a for a in AXES[:7] if a in table]))
        final = table[(table["when"] == "final") & (table["protocol"] == "success")] if "when" in table else table
        final = final[~final["method"].isin(CONTROLS)].dropna(subset="S")
        if len(final):
            row = largest(final, "S")
            best.append(f"{label(row['method'])} in {experiment} ({level_with(*Interval.of(row, 'S'))})")
    highest = f" The cells with the highest composite score after their stream: {listed(best)}." if best else ""
    counts = f"{counted(cells, 'cell')} in {counted(len(found), 'experiment')}."
    return f"{counts}{highest} Intervals are over the facts of a cell."


def curve_points(tables: Tables) -> pd.DataFrame:
    """Curves of all experiments with seeds together: one row a (experiment, setting, edits_seen, metric).

    Shares have Wilson's interval of their cases pooled over seeds, other metrics Student's over seeds.
    """
    parts = [pd.DataFrame(columns=["experiment", *SETTING, "metric"])]
    for experiment, table in _by_experiment(tables, CURVE_TABLES).items():
        table = table[table["metric"].isin(METRICS)]
        shares = table["metric"].str.contains("success|accuracy")
        means = mean_table(table[~shares], [*SETTING, "edits_seen", "metric"], ["value"])
        means = means.rename(columns={"value_low": "low", "value_high": "high"}).assign(n=means["seeds"])
        parts += [part.assign(experiment=experiment) for part in (pooled_curves(table[shares]), means)]
    return stacked(parts)


def curves_data(tables: Tables, sources: Path = SOURCES) -> dict[str, Any]:
    """A vega-lite plot (``report/pages/curve.json``) of every curve with its 95 % band, and the choices beside it."""
    points = curve_points(tables)
    points = points.assign(label=points["method"].map(label), metric=points["metric"].map(METRICS))
    points = points.assign(control=["yes" if m in CONTROLS else "no" for m in points["method"]])
    numbers = ("value", "low", "high", "edits_seen", "n", "seeds")
    rows = [{k: number(v) if k in numbers else str(v) for k, v in row.items()} for row in points.to_dict("records")]
    colors = {label(method): mark.color for method, mark in marks(dict.fromkeys(points["method"])).items()}
    offered = {
        "experiment": list(dict.fromkeys(points["experiment"])),
        "metric": [m for m in METRICS.values() if m in set(points["metric"])],
        "batch": ["all", *sorted({str(b) for b in points["batch"]}, key=float)],
        "replay": ["all", *sorted({str(r) for r in points["replay"]}, key=float)],
        "controls": ["hide", "show"],
    }
    choices = [
        {"name": name, "parameter": PARAMETERS.get(name, name), "options": [[v, v] for v in values or ["none"]]}
        for name, values in offered.items()
    ]
    spec = json.loads((sources / "curve.json").read_text(encoding="utf-8"))
    spec["data"] = {"values": rows}
    spec["params"] = [{"name": c["parameter"], "value": c["options"][0][0]} for c in choices]
    for layer in spec["layer"]:
        layer["encoding"]["color"]["scale"] = {"domain": list(colors), "range": list(colors.values())}
    return {"name": "forgetting", "spec": spec, "choices": choices}


def curves_caption(tables: Tables) -> str:
    """How retention ends in each experiment."""
    points = curve_points(tables)
    sentences = []
    shown = points[(points["metric"] == "retention_success") & ~points["method"].isin(CONTROLS)]
    for experiment, part in shown.groupby("experiment", sort=False):
        last = last_snapshot(part)
        ends = smallest(last, "value"), largest(last, "value")
        low, high = (f"{level_with(*Interval.of(row))} ({label(row['method'])})" for row in ends)
        edits, n = counted(int(last["edits_seen"].max()), "edit"), int(last["n"].max())
        kept = f"retention of earlier edits runs from {low} to {high}, n at most {n:,} facts"
        sentences.append(f"In {experiment}, after {edits}, {kept}.")
    return " ".join(sentences) or "No experiment of this run has curves."


def missed_data(tables: Tables) -> dict[str, Any]:
    """The missed facts."""
    frame = tables["missed_facts"]
    return table_data(frame, [column(frame, name) for name in map(str, frame)], "missed")


def missed_caption(tables: Tables) -> str:
    """How many facts are in the list and which is the worst."""
    missed = tables["missed_facts"]
    if missed.empty:
        return NONE_MISSED
    lost, worst = int((missed["ES"] < 0.5).sum()), missed.iloc[0]
    return (
        f"The {counted(len(missed), 'worst fact')}; {lost} of them kept the old object in more than half of their streams. "
        f"The worst, {worst['prompt']!r} (to be {worst['target_new']!r}), has an efficacy of {worst['ES']:.2f} over "
        f"{counted(int(worst['streams']), 'stream')}."
    )


PAGES = (
    Page(
        "cells", "All cells",
        "Every cell of every experiment: scores with 95 % intervals over its facts. Click on a column head to sort (with shift "
        "by several), type under it to filter, or choose what is scored, when, and in which experiment.",
        "table", tuple(CELL_TABLES), cells_data, cells_caption,
    ),
    Page(
        "forgetting", "Along a stream",
        "What is left of earlier edits, and of what was not edited, as a stream goes on: means over seeds with 95 % bands. "
        "Click on a method in the legend to keep it alone (with shift several); point at a mark for its numbers.",
        "curve", tuple(CURVE_TABLES), curves_data, curves_caption,
    ),
    Page(
        "missed_facts", "Missed facts",
        "The edited facts with the worst scores over all streams that edited them, controls left out. ES, PS and NS are shares "
        "of streams and prompts; missed_by names the methods whose final model still prefers the old object.",
        "table", ("missed_facts",), missed_data, missed_caption,
    ),
)  # fmt: skip
