"""How full a map is: retention over the edits a dimension of its keys, for maps of several widths and two kinds of world.

A linear map keeps at most as many independent associations as its keys have dimensions. If that is what ends a stream, the
curves of all widths fall on one another over edits / dimension. In a world with one fact a subject nothing else can: where a
subject has several, their keys are nearly the same at its end, and a later edit of it overwrites the earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, legend, panels
from editlab.analysis.draw.style import COLORS, MARKERS
from editlab.analysis.edit.cells import curves_table
from editlab.analysis.edit.scores import over
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, grouped, pooled, wilson
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, label, level_with, listed

WIDTHS, WORLDS = (256, 512, 1024, 2048), (1, 5)
EXPERIMENTS = tuple(f"capacity_{width}_{facts}" for width in WIDTHS for facts in WORLDS)
RETENTION, SINGLE = "retention_accuracy", "retention_single_accuracy"
KEYS = ["method", "facts_a_subject", "inner", "edits_seen"]


def capacity_table(run: Run) -> pd.DataFrame:
    """Exact answers of earlier edits along the streams of every width and world, long, with ``inner`` and
    ``facts_a_subject``."""
    parts = []
    for experiment, cells in run.cells.items():
        plan = run.settings["experiments"][experiment]
        model, facts = run.settings["models"][plan["model"]], run.settings["datasets"][plan["dataset"]]
        curves = curves_table(cells)
        kept = curves[curves["metric"].isin((RETENTION, SINGLE))]
        place = {"inner": model["inner"] or 4 * model["width"], "facts_a_subject": facts["facts_a_subject"]}
        parts.append(kept.assign(**place))
    return pd.concat(parts, ignore_index=True)


def _pooled(table: pd.DataFrame, metric: str = RETENTION) -> pd.DataFrame:
    """Seeds together, with ``load``: edits a dimension of the keys."""

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = pooled(part["value"], *wilson(part["value"], part["n"]))
        return {**found._asdict(), "seeds": len(part), "n": int(part["n"].sum())}

    columns = [*KEYS, *UNKNOWN._fields, "seeds", "n"]
    rows = grouped(table[table["metric"] == metric], KEYS, told, columns=columns)
    return rows.assign(load=rows["edits_seen"] / rows["inner"])


def _title(method: str, facts: int) -> str:
    return f"{label(method)}, {counted(facts, 'fact')} a subject"


@figure(
    "Edits a dimension",
    "capacity",
    lambda rows: (
        "Earlier edits answered exactly, over the edits seen for each dimension of the keys of the edited map, with "
        f"{over(rows, 'bands')} at a point; one colour a width."
    ),
    rows=_pooled,
    empty="No stream was run at several widths.",
    cites=("capacity.*",),
    level=3,
)
def capacity_curves(rows: pd.DataFrame) -> Drawing:
    """Retention over edits / dimension, one line a width; one panel a method and world."""
    places = sorted({(int(row["facts_a_subject"]), str(row["method"])) for row in records(rows)})
    columns = rows["method"].nunique()
    drawn, axes = panels(
        -(-len(places) // columns), columns, 0.6 + 1.5 * -(-len(places) // columns), sharex=True, sharey=True
    )
    widths = sorted(rows["inner"].unique())
    for axis, (facts, method) in zip(axes, places, strict=False):
        part = rows[(rows["method"] == method) & (rows["facts_a_subject"] == facts)]
        for i, width in enumerate(widths):
            line = part[part["inner"] == width].sort_values("load")
            look: dict[str, Any] = {
                "color": COLORS[i % len(COLORS)],
                "marker": MARKERS[i % len(MARKERS)],
                "markersize": 2.4,
            }
            axis.plot(line["load"], line["value"], label=f"{width:,} dimensions", **look)
            axis.fill_between(line["load"], line["low"], line["high"], color=look["color"], alpha=0.12, linewidth=0)
        axis.set_title(_title(method, facts))
        axis.set_xscale("log", base=2)
        axis.set_ylim(-0.02, 1.03)
    for axis in axes[-columns:]:
        axis.set_xlabel("edits / dimension")
    for axis in axes[::columns]:
        axis.set_ylabel("edits that hold, exactly")
    legend(drawn, axes[0], columns=len(widths))
    return drawn


def _at_equal(rows: pd.DataFrame, column: str) -> Iterator[tuple[tuple[str, int], float, list[tuple[int, Interval]]]]:
    """For each method and world: the largest value of ``column`` that all widths reach, and what each holds there."""
    for facts, method in sorted({(int(row["facts_a_subject"]), str(row["method"])) for row in records(rows)}):
        part = rows[(rows["method"] == method) & (rows["facts_a_subject"] == facts)]
        at = float(part.groupby("inner")[column].max().min())
        found = []
        for width in sorted({int(inner) for inner in part["inner"]}):
            line = part[part["inner"] == width].sort_values(column)
            values = (float(np.interp(at, line[column], line[name])) for name in ("value", "low", "high"))
            found.append((width, Interval(*values)))
        yield (method, facts), at, found


def findings(tables: Tables) -> list[Finding]:
    """Whether equal loads hold equally much, and whether equal edits do."""
    rows, found = _pooled(tables["capacity"]) if "capacity" in tables else pd.DataFrame(), []
    if rows.empty:
        return []
    n = int(rows["n"].max())
    for column, unit in (("load", "edits a dimension"), ("edits_seen", "edits")):
        for (method, facts), at, held in _at_equal(rows, column):
            if len(held) < 2:
                continue
            numbers = sorted((number for _, number in held), key=lambda number: number.value)
            apart, spread = numbers[0].high < numbers[-1].low, numbers[-1].value - numbers[0].value
            told = [f"{level_with(*number)} of {width:,} dimensions" for width, number in held]
            verdict = "the widths differ" if apart else "the intervals of all widths overlap"
            amount = f"{at:.2f} {unit}" if column == "load" else f"{at:,.0f} {unit}"
            sentence = f"After {amount}, {_title(method, facts)} still answers {listed(told)} exactly: {verdict}."
            key = f"capacity.{column}_{method}_{facts}"
            found.append(Finding(key, sentence, spread, float("nan"), float("nan"), n, apart, "capacity"))
    return found


TOPIC = Topic(
    name="capacity",
    title="How full a map is",
    about="the capacity of the edited map",
    tables=(
        Collected(
            "capacity", capacity_table, EXPERIMENTS, ("curve.csv",), settings=("experiments", "models", "datasets")
        ),
    ),
    figures=(capacity_curves,),
    reads=("capacity",),
    findings=findings,
    sentences=4,
)
