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

from editlab.analysis.draw.plots import Drawing, band, doublings, legend, panels
from editlab.analysis.draw.style import mark_of
from editlab.analysis.edit.cells import curves_table
from editlab.analysis.edit.scores import over, pooled_curves
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import Interval, mean_interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, label, level_with, listed, signed_with

WIDTHS, WORLDS = (256, 512, 1024, 2048), (1, 5)
EXPERIMENTS = tuple(f"capacity_{width}_{facts}" for width in WIDTHS for facts in WORLDS)
RETENTION, SINGLE = "retention_accuracy", "retention_single_accuracy"
PANEL = ["facts_a_subject", "method"]


def capacity_table(run: Run) -> pd.DataFrame:
    """Exact answers of earlier edits along the streams of every width and world, long, with ``inner`` and
    ``facts_a_subject``."""
    parts = []
    for experiment, cells in run.cells.items():
        plan = run.settings["experiments"][experiment]
        model, facts = run.settings["models"][plan["model"]], run.settings["datasets"][plan["dataset"]]
        place = {"inner": model["inner"] or 4 * model["width"], "facts_a_subject": facts["facts_a_subject"]}
        parts.append(curves_table(cells).assign(**place))
    curves = pd.concat(parts, ignore_index=True)
    return curves[curves["metric"].isin((RETENTION, SINGLE))].reset_index(drop=True)


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Retention with seeds together, with ``load``: edits a dimension of the keys."""
    rows = pooled_curves(table[table["metric"] == RETENTION], ("method", "facts_a_subject", "inner"))
    return rows.assign(load=rows["edits_seen"] / rows["inner"])


def _title(facts: Any, method: Any) -> str:
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
    places = rows.groupby(PANEL)
    columns, looks = rows["method"].nunique(), {width: mark_of(i) for i, width in enumerate(sorted(set(rows["inner"])))}
    labels = {"xlabel": "edits / dimension", "ylabel": "edits that hold, exactly"}
    height = 0.6 + 1.5 * -(-len(places) // columns)
    drawn, axes = panels(height, len(places), columns, **labels, sharex=True, sharey=True)
    ends = np.ceil(np.log([rows["load"].min(), rows["load"].max()]) / np.log(4))
    for axis, (place, part) in zip(axes, places, strict=True):
        for width, line in part.groupby("inner"):
            band(axis, line, "load", looks[width], f"{width:,} dimensions", 0.12, linestyle="-", markersize=2.4)
        doublings(axis, [4.0**k for k in range(int(ends[0]), int(ends[1]) + 1)])
        axis.set(title=_title(*place), ylim=(-0.02, 1.03))
    legend(drawn, axes[0], columns=len(looks))
    return drawn


def _at_equal(part: pd.DataFrame, column: str) -> tuple[float, dict[int, Interval]]:
    """The largest value of ``column`` that all widths reach, and what each holds there."""
    at = float(part.groupby("inner")[column].max().min())
    held = {}
    for width, rows in part.groupby("inner"):
        line = rows.sort_values(column)
        held[int(str(width))] = Interval(*(float(np.interp(at, line[column], line[end])) for end in Interval._fields))
    return at, held


def _between(table: pd.DataFrame) -> Iterator[Finding]:
    """Which of two methods holds more after the last edit, on the same streams: of all edits, and of those to whose subject the
    stream has not come back."""
    last = table[table["edits_seen"] == table["edits_seen"].max()]
    asked = {RETENTION: "edits", SINGLE: "edits whose subject was edited once"}
    for (facts, metric), part in last.groupby(["facts_a_subject", "metric"]):
        methods = list(dict.fromkeys(part["method"]))
        if len(methods) != 2 or (facts == 1 and metric == SINGLE):  # there it is every edit
            continue
        told, gaps = [], []
        for width, rows in part.groupby("inner"):
            by_seed = rows.pivot(index="seed", columns="method", values="value")
            gaps.append(mean_interval(by_seed[methods[1]] - by_seed[methods[0]]))
            told.append(f"{signed_with(*gaps[-1], 2)} at {width:,} dimensions")
        world = f"In a world of {counted(int(str(facts)), 'fact')} a subject"
        shares = f"the share of {asked[metric]} that {label(methods[1])} still answers exactly differs from {label(methods[0])}'s"
        sentence = (
            f"{world}, after {int(last['edits_seen'].max()):,} edits, {shares} on the same streams by {listed(told)}."
        )
        same = all(gap.low > 0 for gap in gaps) or all(gap.high < 0 for gap in gaps)
        spread = Interval(float(np.mean([gap.value for gap in gaps])))
        yield Finding(f"capacity.between_{facts}_{metric}", sentence, *spread, len(part), same, "capacity")


def findings(tables: Tables) -> Iterator[Finding]:
    """Whether equal loads hold equally much, whether equal edits do, and which method holds more."""
    yield from _between(tables["capacity"])
    rows = _pooled(tables["capacity"])
    for column, unit, digits in (("load", "edits a dimension", 2), ("edits_seen", "edits", 0)):
        for (facts, method), part in rows.groupby(PANEL):
            at, held = _at_equal(part, column)
            if len(held) < 2:
                continue
            least, *_, most = sorted(held.values(), key=lambda number: number.value)
            verdict = "the widths differ" if least.apart(most) else "the intervals of all widths overlap"
            told = [f"{level_with(*number)} at {width:,} dimensions" for width, number in held.items()]
            world = f"{label(str(method))} in a world of {counted(int(str(facts)), 'fact')} a subject"
            share = f"the share that {world} still answers exactly is {listed(told)}"
            sentence = f"After {at:,.{digits}f} {unit}, {share}: {verdict}."
            key, spread = f"capacity.{column}_{method}_{facts}", Interval(most.value - least.value)
            yield Finding(key, sentence, *spread, int(rows["n"].max()), least.apart(most), "capacity")


SETTINGS = ("experiments", "models", "datasets")
TOPIC = Topic(
    "How full a map is",
    about="the capacity of the edited map",
    tables=(Collected("capacity", capacity_table, EXPERIMENTS, ("curve.csv",), settings=SETTINGS),),
    reads=("capacity",),
    sentences=4,
)
