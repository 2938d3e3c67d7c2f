"""What it costs: CPU time by stage of every method, and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, legend, panels, rows_below
from editlab.analysis.draw.style import DARK, HATCHES
from editlab.analysis.edit.cells import EDITING, cell_costs, cell_facts
from editlab.analysis.edit.printing import BATCH, METHOD
from editlab.analysis.edit.scores import SETTING, headline, with_batch
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.run import Cells, of_cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Interval, beside, grouped, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, label, listed, percent

STAGES = ("load", "targets", "keys", "solve", "commit", "trust", "label", "evaluate", "generate", "write")

SHADES = {  # of the stages that are drawn
    "targets": "#0072B2", "keys": "#56B4E9", "solve": "#E69F00", "commit": "#CC79A7", "trust": "#D55E00",
    "evaluate": "#bfbfbf", "load": "#efefef",
}  # fmt: skip


def costs_table(cells: Cells) -> pd.DataFrame:
    """One row a cell: costs and CPU seconds by stage."""
    rows = []
    for directory, cell in cells:
        seconds = cell_facts(directory)["seconds"]
        stages = {f"cpu_{stage}": seconds.get(stage, {}).get("cpu", 0.0) for stage in STAGES}
        rows.append({**cell, **cell_costs(directory), **stages})
    return pd.DataFrame(rows)


def _spread(values: pd.Series) -> Interval:
    """Mean, least and most of what was measured: the range over seeds."""
    return Interval(float(values.mean()), float(values.min()), float(values.max()))


def _split(costs: pd.DataFrame) -> pd.DataFrame:
    """CPU seconds of a cell by stage, means over seeds at the headline settings; mean, least and largest total."""

    def told(part: pd.DataFrame) -> dict[str, Any]:
        stages = part.rename(columns=lambda name: name.removeprefix("cpu_"))[list(SHADES)]
        return {**stages.mean(), **beside({"total": _spread(stages.sum(axis=1))}), "seeds": len(part)}

    return grouped(headline(costs), SETTING, told)


@figure(
    "Where the time goes",
    "costs",
    lambda table: (
        "CPU seconds of a cell by stage, batch size in brackets; whiskers: the range over "
        f"{counted(int(table['seeds'].max()), 'seed')} (n = {counted(int(table['seeds'].sum()), 'cell')}). Times are measured "
        "and differ from run to run."
    ),
    rows=_split,
    cites=("costs.largest",),
    level=7,
)
def time_split(table: pd.DataFrame) -> Drawing:
    """Stacked bars: CPU seconds of a cell by stage, one bar a method, the range over seeds as a whisker."""
    figure, (axis,) = panels(0.85 + 0.27 * len(table), xlabel="CPU seconds a cell")
    left = pd.Series(0.0, index=table.index)
    for number, (stage, shade) in enumerate(SHADES.items()):
        if table[stage].max() >= 0.005 * table["total"].max():
            look: dict[str, Any] = {"color": shade, "hatch": HATCHES[number], "edgecolor": DARK, "linewidth": 0.4}
            axis.barh(table.index, table[stage], left=left, label=stage, **look)
            left = left + table[stage]
    for y, row in enumerate(records(table)):
        axis.plot([row["total_low"], row["total_high"]], [y, y], color="black", linewidth=1.1, marker="|", markersize=4)
    rows_below(axis, [with_batch(row) for row in records(table)])
    legend(figure, axis, columns=4)
    return figure


@sheet("costs", "Time and memory", "costs")
def costs_sheet(tables: Tables) -> Printed:
    """Measured time and memory of each method at its headline setting, with the range over seeds."""
    chosen = headline(tables["costs"])
    chosen = chosen.assign(editing=sum(chosen[f"cpu_{s}"] for s in EDITING))
    measured = ("seconds_per_edit", "editing", "cpu_targets", "cpu_solve", "cpu_evaluate", "peak_memory_mb")

    def told(part: pd.DataFrame) -> dict[str, Any]:
        return {"seeds": len(part), **beside({name: _spread(part[name]) for name in measured})}

    frame = grouped(chosen, SETTING, told)
    seeds = int(frame["seeds"].max()) if len(frame) else 0
    text = (
        f"Measured cost of a cell: mean and range over {counted(seeds, 'seed')}. Editing, targets, solve and evaluation in CPU "
        "seconds; ms an edit on the wall clock. Times differ from run to run."
    )
    stages = {"editing": "editing", "cpu_targets": "targets", "cpu_solve": "solve", "cpu_evaluate": "eval."}
    time, memory = Column("seconds_per_edit", "ms/edit", "level", 0, 1000.0), Column("peak_memory_mb", "MB", "count")
    columns = [METHOD, BATCH, time, *columns_of(stages, digits=1), memory]
    return Printed(frame, columns, text)


def findings(tables: Tables) -> Iterator[Finding]:
    """The stage that takes the most of each method's editing time (least and largest share over seeds)."""
    most: dict[str, dict[str, float]] = {}
    for method, part in headline(tables["costs"]).groupby("method", sort=False):
        stages = part[[f"cpu_{s}" for s in EDITING]]
        total = stages.sum(axis=1)
        if not (total > 0).all():
            continue
        shares = stages.div(total, axis=0)
        column, name = str(shares.mean().idxmax()), label(str(method))
        stage, numbers = column.removeprefix("cpu_"), _spread(shares[column])
        most.setdefault(stage, {})[name] = numbers.value
        sentence = (
            f"{percent(numbers.value)} of the CPU time of editing with {name} goes to its {stage} "
            f"(range over {counted(len(part), 'seed')}: {percent(numbers.low)} to {percent(numbers.high)})."
        )
        yield Finding(f"costs.{method}", sentence, *numbers, len(part), numbers.low > 0.5, "costs")
    if most:
        yield _largest(most)


def _largest(most: Mapping[str, Mapping[str, float]]) -> Finding:
    """Which stage takes the largest part, and of which methods."""
    told = []
    for stage, shares in sorted(most.items(), key=lambda item: -len(item[1])):
        ends = dict.fromkeys(map(percent, (min(shares.values()), max(shares.values()))))
        told.append(f"{stage} for {listed(list(shares))} ({' to '.join(ends)})")
    every = [share for shares in most.values() for share in shares.values()]
    numbers = Interval(sum(every) / len(every), min(every), max(every))
    sentence = f"The largest part of the CPU time of editing: {'; '.join(told)}."
    return Finding("costs.largest", sentence, *numbers, len(every), numbers.low > 0.5, "costs")


TOPIC = Topic(
    "Costs",
    about="what the cells cost",
    tables=(Collected("costs", of_cells(costs_table), ("edit",), files=("record",)),),
    reads=("costs",),
    sentences=2,
)
