"""What it costs: CPU time by stage of every method, and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.draw.plots import legend, panels
from editlab.analysis.draw.style import DARK, HATCHES
from editlab.analysis.edit.cells import EDITING, cell_costs, cell_facts
from editlab.analysis.edit.printing import BATCH, METHOD
from editlab.analysis.edit.scores import SETTING, at, headline_settings, with_batch
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, label, listed, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

STAGES = ("load", "targets", "keys", "solve", "commit", "trust", "label", "evaluate", "generate", "write")

SHOWN = ("targets", "keys", "solve", "commit", "trust", "evaluate", "load")
SHADES = ("#0072B2", "#56B4E9", "#E69F00", "#CC79A7", "#D55E00", "#bfbfbf", "#efefef")


def costs_table(cells: Cells) -> pd.DataFrame:
    """One row a cell: costs and CPU seconds by stage."""
    rows = []
    for directory, cell in cells:
        seconds = cell_facts(directory)["seconds"]
        stages = {f"cpu_{stage}": seconds.get(stage, {}).get("cpu", 0.0) for stage in STAGES}
        rows.append({**cell, **cell_costs(directory), **stages})
    return pd.DataFrame(rows)


def _chosen(costs: pd.DataFrame) -> pd.DataFrame:
    return at(costs, headline_settings(costs)) if len(costs) else costs


def _split(costs: pd.DataFrame) -> pd.DataFrame:
    """CPU seconds of a cell by stage, means over seeds at the headline settings; least and largest total of the seeds."""
    rows: list[dict[str, Any]] = []
    for key, part in _chosen(costs).groupby(list(SETTING), sort=False):
        stages = part[[f"cpu_{stage}" for stage in SHOWN if f"cpu_{stage}" in part]]
        total, means = stages.sum(axis=1), stages.rename(columns=lambda name: name.removeprefix("cpu_")).mean()
        ends = {"total": total.mean(), "least": total.min(), "most": total.max(), "seeds": len(part)}
        rows.append({**dict(zip(SETTING, key, strict=True)), **means, **ends})
    return pd.DataFrame(rows)


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
    figure, (axis,) = panels(1, 1, 0.85 + 0.27 * len(table))
    left = pd.Series(0.0, index=table.index)
    for number, (stage, shade) in enumerate(zip(SHOWN, SHADES, strict=True)):
        if stage in table and table[stage].max() >= 0.005 * table["total"].max():
            look: dict[str, Any] = {"color": shade, "hatch": HATCHES[number], "edgecolor": DARK, "linewidth": 0.4}
            axis.barh(table.index, table[stage], left=left, label=stage, **look)
            left = left + table[stage]
    for y, row in enumerate(records(table)):
        axis.plot([row["least"], row["most"]], [y, y], color="black", linewidth=1.1, marker="|", markersize=4)
    axis.set_yticks(table.index, [with_batch(row) for row in records(table)])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("CPU seconds a cell")
    legend(figure, axis, columns=4)
    return figure


@sheet("costs", "Time and memory", "costs")
def costs_sheet(tables: Tables) -> Printed:
    """Measured time and memory of each method at its headline setting, with the range over seeds."""
    chosen = _chosen(tables["costs"])
    chosen = chosen.assign(editing=sum(chosen[f"cpu_{s}"] for s in EDITING))
    rows = []
    for key, part in chosen.groupby(list(SETTING), sort=False):
        row = dict(zip(SETTING, key, strict=True)) | {"seeds": len(part)}
        for name in ("seconds_per_edit", "editing", "cpu_targets", "cpu_solve", "cpu_evaluate", "peak_memory_mb"):
            row |= {name: part[name].mean(), f"{name}_low": part[name].min(), f"{name}_high": part[name].max()}
        rows.append(row)
    frame = pd.DataFrame(rows)
    seeds = int(frame["seeds"].max()) if len(frame) else 0
    text = (
        f"Measured cost of a cell: mean and range over {counted(seeds, 'seed')}. Editing, targets, solve and evaluation in CPU "
        "seconds; ms an edit on the wall clock. Times differ from run to run."
    )
    stages = {"editing": "editing", "cpu_targets": "targets", "cpu_solve": "solve", "cpu_evaluate": "eval."}
    columns = [METHOD, BATCH, Column("seconds_per_edit", "ms/edit", "level", 0, 1000.0)]
    columns += [Column(name, title, "level", 1) for name, title in stages.items()]
    return Printed(frame, [*columns, Column("peak_memory_mb", "MB", "count")], text, "costs")


def findings(tables: Tables) -> list[Finding]:
    """The stage that takes the most of each method's editing time (least and largest share over seeds)."""
    table = tables.get("costs", pd.DataFrame())
    found: list[Finding] = []
    most: dict[str, list[tuple[str, float]]] = {}
    for method, part in _chosen(table).groupby("method", sort=False) if len(table) else ():
        stages = part[[f"cpu_{s}" for s in EDITING]]
        total = stages.sum(axis=1)
        if not (total > 0).all():
            continue
        shares = stages.div(total, axis=0)
        stage, name = str(shares.mean().idxmax()), label(str(method))
        value, low, high = (float(f(shares[stage])) for f in (pd.Series.mean, pd.Series.min, pd.Series.max))
        most.setdefault(stage.removeprefix("cpu_"), []).append((name, value))
        sentence = (
            f"{percent(value)} of the CPU time of editing with {name} goes to its {stage.removeprefix('cpu_')} "
            f"(range over {counted(len(part), 'seed')}: {percent(low)} to {percent(high)})."
        )
        found.append(Finding(f"costs.{method}", sentence, value, low, high, len(part), low > 0.5, "costs"))
    return found + _largest(most)


def _largest(most: dict[str, list[tuple[str, float]]]) -> list[Finding]:
    """Which stage takes the largest part, and of which methods."""
    told = []
    for stage, methods in sorted(most.items(), key=lambda item: -len(item[1])):
        shares = [share for _, share in methods]
        ends = " to ".join(dict.fromkeys((percent(min(shares)), percent(max(shares)))))
        told.append(f"{stage} for {listed([name for name, _ in methods])} ({ends})")
    if not told:
        return []
    shares = [share for methods in most.values() for _, share in methods]
    numbers = (sum(shares) / len(shares), min(shares), max(shares))
    sentence = f"The largest part of the CPU time of editing: {'; '.join(told)}."
    return [Finding("costs.largest", sentence, *numbers, len(shares), min(shares) > 0.5, "costs")]


TOPIC = Topic(
    name="costs",
    title="Costs",
    about="what the cells cost",
    tables=(Collected("costs", lambda run: costs_table(run.cells["edit"]), ("edit",), files=("record",)),),
    figures=(time_split,),
    sheets=(costs_sheet,),
    reads=("costs",),
    findings=findings,
    sentences=2,
)
