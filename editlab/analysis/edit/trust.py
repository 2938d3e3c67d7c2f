"""Trust: how well its score tells harmful batches from harmless ones, and what rolling them back saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, curves_over_edits, legend, of_methods, panels
from editlab.analysis.draw.style import DARK, GREY
from editlab.analysis.edit.cells import CELL_FILES, cells_table, curves_table
from editlab.analysis.edit.decisions import as_run, trust_curves, trust_decisions, trust_table, worth
from editlab.analysis.edit.printing import METHOD, every_setting
from editlab.analysis.edit.scores import RETENTION, SETTING, basis, last_snapshot, named, over, pooled_curves
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.run import Cells, Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics import classification
from editlab.analysis.statistics.intervals import Interval, beside, grouped
from editlab.analysis.text.findings import Finding, against_chance, direction, leader_finding, size_percent
from editlab.analysis.text.wording import counted, label, level_with, percent, percent_with, signed

EXPERIMENTS = ("trust_eval", "trust_clean")
Area = Callable[[pd.DataFrame], Interval]
ONE_CLASS = "No curve: a curve needs harmful and harmless batches, and there is one kind alone."
ENOUGH = 20  # harmful batches: with fewer the share of them among those rolled back goes in leaps
FEW = f"No curve: it needs {ENOUGH} harmful batches of a method, and there are fewer. The areas are in the findings."


def _by_experiment(table: Callable[[Cells], pd.DataFrame]) -> Callable[[Run], pd.DataFrame]:
    """A table of each experiment, one under the other."""
    return lambda run: pd.concat([table(c).assign(experiment=e) for e, c in run.cells.items()], ignore_index=True)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The decisions on streams with harmful batches, of the methods that have both kinds of batch."""
    if table.empty:
        return table
    rows = table[table["experiment"] == table["experiment"].iloc[0]] if "experiment" in table else table
    kinds = rows.groupby("method")["harmful"].transform("nunique")
    return rows[kinds > 1]


def _often_judged(table: pd.DataFrame) -> pd.DataFrame:
    """Of these the methods with enough harmful batches."""
    rows = judged(table)
    return rows[rows.groupby("method")["harmful"].transform("sum") >= ENOUGH] if len(rows) else rows


def _areas_legend(rows: pd.DataFrame) -> str:
    part = rows[rows["method"] == rows["method"].iloc[0]]
    return (
        f"95 % bands over batches (n = {counted(len(part), 'batch', 'batches')} a method, {int(part['harmful'].sum())} of "
        f"them harmful, {counted(part['seed'].nunique(), 'seed')}); dotted: chance."
    )


def _curves(rows: pd.DataFrame, curve: classification.Curve, area: Area, names: tuple[str, str]) -> Drawing:
    """A curve of each method, seeds pooled, with the 95 % band over batches."""
    figure, (axis,) = panels(2.9, xlabel=names[0], ylabel=names[1])
    for part, mark, name in of_methods(rows):
        low, high = classification.band(part, curve)
        line = {"color": mark.color, "linestyle": mark.line, "label": f"{name}: area {level_with(*area(part))}"}
        axis.step(classification.GRID, classification.on_grid(part, curve), where="post", **line)
        axis.fill_between(classification.GRID, low, high, step="post", color=mark.color, alpha=0.15, linewidth=0)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    legend(figure, axis, columns=1)
    return figure


@figure("ROC of trust", "trust_decisions", _areas_legend, rows=judged, empty=ONE_CLASS, cites=("trust.auc_*",), level=2)
def trust_roc(rows: pd.DataFrame) -> Drawing:
    """ROC of low trust as a sign of harm; the dotted line is chance."""
    names = ("harmless batches rolled back", "harmful batches caught")
    figure = _curves(rows, classification.roc_on_grid, classification.roc_area, names)
    figure.axes[0].plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 2)), linewidth=0.8)
    return figure


@figure(
    "Precision and recall of trust",
    "trust_decisions",
    _areas_legend,
    rows=_often_judged,
    empty=FEW,
    cites=("trust.precision_*",),
)
def trust_pr(rows: pd.DataFrame) -> Drawing:
    """Precision over recall of rolling back the least trusted batches; the dotted line is rolling back at random."""
    names = ("harmful batches caught (recall)", "harmful among rolled back")
    figure = _curves(rows, classification.precision_on_grid, classification.precision_area, names)
    figure.axes[0].axhline(rows["harmful"].mean(), color=DARK, linestyle=(0, (1, 2)), linewidth=0.8)
    return figure


PANELS = {"trust_eval": "harmful batches mixed in", "trust_clean": "no harmful batches"}


def _rollback(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[(table["metric"] == RETENTION) & (table["method"] != "none")]
    return pooled_curves(rows, ("experiment", *SETTING)) if len(rows) else rows


def _at_the_end(curves: pd.DataFrame) -> pd.DataFrame:
    """Retention at the end of the first kind of stream, the best first."""
    first = curves[curves["experiment"] == curves["experiment"].iloc[0]]
    return last_snapshot(first).sort_values("value", ascending=False, kind="stable")


@figure(
    "Retention with and without rollback",
    "trust_forgetting",
    lambda curves: f"{over(_at_the_end(curves), 'bands')} at the end.",
    rows=_rollback,
    empty="No curve was recorded.",
    cites=("trust.kept",),
    level=3,
)
def rollback_effect_curve(curves: pd.DataFrame) -> Drawing:
    """Edits that hold over the edits seen, with and without trust; one panel with harmful batches, one without."""
    parts = [
        (part, {"title": PANELS.get(str(e), str(e).replace("_", " ")), "ylabel": "edits that hold"})
        for e, part in curves.groupby("experiment", sort=False)
    ]
    return curves_over_edits(parts, 0.75 + 1.45 * len(parts))


@sheet("trust", "Decisions of trust", "trust_eval", "trust_forgetting", level=6)
def trust_sheet(tables: Tables) -> Printed:
    """How good the decisions were and what they were worth, by method and kind of stream."""

    def told(part: pd.DataFrame) -> dict[str, Any]:
        experiment = part["experiment"].iloc[0]
        stream = {"trust_eval": "harmful", "trust_clean": "clean"}.get(experiment, experiment)
        numbers = beside(worth(part, tables["trust_forgetting"]))
        return {"stream": stream, "seeds": len(part), **numbers, "n": int(part["n"].sum())}

    frame = grouped(as_run(tables["trust_eval"]), ["experiment", "method"], told)
    text = (
        "Decisions of trust against their labels, and their worth against the same method without trust: share of right "
        "decisions, harmless batches rolled back (FPR), harmful ones kept (FNR), area under the ROC curve, relative gain of "
        "retention, share of the rise of perplexity avoided, time of trust relative to the editing time without it, with 95 % "
        f"intervals over batches (shares) or seeds ({basis(frame, 'batch', 'batches')})."
    )
    shares = {"accuracy": "right", "false_positive_rate": "FPR", "false_negative_rate": "FNR", "auc": "AUC"}
    changes = {"retention_gain": "retention %", "ppl_rise_cut": "PPL %"}
    columns = [METHOD, Column("stream", "stream", "text"), *columns_of(shares)]
    columns += columns_of(changes, "difference", 0, 100.0) + columns_of({"overhead": "time %"}, "level", 0, 100.0)
    return Printed(frame, columns, text)


TOGETHER = "Replay, low-rank storage and trust, alone and together, on streams with harmful batches"
combined_sheet = every_setting("combined", "Replay, LoRA and trust together", ["combined"], TOGETHER, level=8)

CHANGED = {  # a relative change by trust: what changes, sign of the number's effect on it
    "retention_gain": ("the share of edits that hold", 1.0),
    "ppl_rise_cut": ("the rise of held-out perplexity", -1.0),
}
SHARES = {"overhead": "adds {} to the editing time", "accuracy": "decides rightly on {} of the batches"}


def findings(tables: Tables) -> Iterator[Finding]:
    """How well trust tells harm, and what its decisions were worth, by method and kind of stream."""
    batches = judged(tables["trust_decisions"])
    if len(batches):
        yield from _detection(batches)
    curves, runs = tables["trust_forgetting"], as_run(tables["trust_eval"])
    if curves.empty:
        return
    for _, part in runs.groupby(["experiment", "method"], sort=False) if len(runs) else ():
        numbers = worth(part, curves)
        known = [name for name in (*CHANGED, *SHARES) if numbers[name].value == numbers[name].value]
        yield from (_worth(part, name, numbers[name]) for name in known)
    guarded = _rollback(curves)
    if len(guarded):
        yield _kept(guarded)


def _detection(rows: pd.DataFrame) -> Iterator[Finding]:
    """Who tells harm best: trust, or a ruler held to the norm of the update, or its distances, or chance; and areas under
    both curves, beside chance."""
    methods = [(str(method), part) for method, part in rows.groupby("method", sort=False)]
    areas = [(label(method), *classification.roc_area(part)) for method, part in methods]
    if len(areas) > 1:
        areas.sort(key=lambda area: -area[1])
        what = "area under the ROC curve as a judge of harmful batches"
        yield leader_finding("trust.rivals", areas, what, len(rows), "trust_decisions")
    kinds: list[tuple[str, str, Area, float]] = [
        ("auc", "an area under the ROC curve", classification.roc_area, 0.5),
        ("precision", "an average precision", classification.precision_area, float(rows["harmful"].mean())),
    ]
    for name, what, area, chance in kinds:
        for method, part in methods:
            numbers = area(part)
            verdict, sure = against_chance(numbers.low, numbers.high, chance)
            sentence = (
                f"A low score of {label(method)} marks harmful batches with {what} of {level_with(*numbers)}, "
                f"{verdict} ({chance:.2f})."
            )
            yield Finding(f"trust.{name}_{method}", sentence, *numbers, len(part), sure, "trust_decisions")


def _worth(runs: pd.DataFrame, name: str, numbers: Interval) -> Finding:
    """One number of trust over the seeds of a method on one kind of stream."""
    method, experiment = runs["method"].iloc[0], runs["experiment"].iloc[0]
    if name in CHANGED:
        claim, sure = _changed(name, numbers)
    else:
        claim, sure = SHARES[name].format(percent_with(*numbers)), numbers.known
    if name == "accuracy":  # with few harmful batches, never acting is right most of the time
        idle = 1 - float((runs["harmful"] * runs["n"]).sum() / runs["n"].sum())
        sure = bool(numbers.low > idle)
        claim += f", where never acting would be right on {percent(idle)}"
        claim += "" if sure else ": not measurably better"
    stream = "with harmful batches" if experiment == "trust_eval" else "without harmful batches"
    sentence = f"On streams {stream}, {label(method)} {claim} ({counted(len(runs), 'seed')})."
    return Finding(f"trust.{name}_{method}_{experiment}", sentence, *numbers, len(runs), sure, "trust_eval")


def _changed(name: str, numbers: Interval) -> tuple[str, bool]:
    """What trust does to a quantity, relative to the same method without it, as far as the interval says."""
    what, sign = CHANGED[name]
    low, high = sorted((sign * numbers.low, sign * numbers.high))
    verb = direction(low, high)
    if verb is None:
        spread = f" ({signed(100 * low, 0)} to {signed(100 * high, 0)} %)" if numbers.known else ""
        return f"makes no measurable difference to {what}: {signed(100 * sign * numbers.value, 0)} %{spread}", False
    return f"{verb} {what} by {size_percent(*numbers)}, relative to no guard", True


def _kept(curves: pd.DataFrame) -> Finding:
    """Who keeps the most at the end of the stream with harmful batches."""
    last = _at_the_end(curves)
    lead = f"With {PANELS.get(str(last['experiment'].iloc[0]), 'stream')}: "
    what = f"share of harmless edits that hold after {counted(int(last['edits_seen'].max()), 'edit')}"
    return leader_finding("trust.kept", named(last), what, int(last["n"].max()), "trust_forgetting", lead)


EVENTS = ("events.jsonl",)
TOPIC = Topic(
    "Trust",
    about="trust and rollback",
    tables=(
        Collected("trust_eval", _by_experiment(trust_table), EXPERIMENTS, ("metrics.csv", "curve.csv", *EVENTS)),
        Collected("trust_curves", _by_experiment(trust_curves), EXPERIMENTS, EVENTS),
        Collected("trust_forgetting", _by_experiment(curves_table), EXPERIMENTS, ("curve.csv",)),
        Collected("trust_decisions", _by_experiment(trust_decisions), EXPERIMENTS, EVENTS),
        Collected("combined", cells_table, ("combined",), CELL_FILES),
    ),
    reads=("trust_decisions", "trust_eval", "trust_forgetting"),
    sentences=4,
)
