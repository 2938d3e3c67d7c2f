"""Trust: how well its score tells harmful batches from harmless ones, and what rolling them back saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.analysis.draw.plots import bands_over_edits, legend, panels, share_axis
from editlab.analysis.draw.style import DARK, GREY, marks
from editlab.analysis.edit.cells import CELL_FILES, FIXED, cells_table, curves_table
from editlab.analysis.edit.printing import METHOD, every_setting
from editlab.analysis.edit.scores import RETENTION, SETTING, basis, count, named, pooled_curves
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics import classification
from editlab.analysis.statistics.intervals import Interval
from editlab.analysis.text.findings import Finding, against_chance, direction, size_percent
from editlab.analysis.text.wording import counted, label, leading, level_with, percent, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

from editlab.analysis.edit.decisions import as_run, trust_curves, trust_decisions, trust_table, worth

EXPERIMENTS = ("trust_eval", "trust_clean")
ONE_CLASS = "No curve: a curve needs harmful and harmless batches, and there is one kind alone."


def _by_experiment(table: Any) -> Any:
    """A table of each experiment, one under the other."""

    def collect(run: Run) -> pd.DataFrame:
        return pd.concat([table(cells).assign(experiment=e) for e, cells in run.cells.items()], ignore_index=True)

    return collect


# ---- figures -----------------------------------------------------------------------------------------------------


def stressed(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions of the experiment with harmful batches."""
    if "experiment" not in decisions or decisions.empty:
        return decisions
    return decisions[decisions["experiment"] == decisions["experiment"].iloc[0]]


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The decisions on streams with harmful batches, of the methods that have both kinds of batch."""
    rows = stressed(table)
    both = (
        [m for m, part in rows.groupby("method", sort=False) if classification.both_classes(part)] if len(rows) else []
    )
    return rows[rows["method"].isin(both)] if both else rows.iloc[:0]


def _areas_legend(rows: pd.DataFrame) -> str:
    part = rows[rows["method"] == rows["method"].iloc[0]]
    return (
        f"95 % bands over batches (n = {counted(len(part), 'batch', 'batches')} a method, {int(part['harmful'].sum())} of "
        f"them harmful, {counted(part['seed'].nunique(), 'seed')}); dotted: chance."
    )


def _curves(rows: pd.DataFrame, curve: classification.Curve, area: Any, names: tuple[str, str]) -> Drawing:
    figure, (axis,) = panels(1, 1, 2.9)
    looks = marks(rows["method"])
    for method, part in rows.groupby("method", sort=False):
        low, high = classification.band(part, curve)
        name, mark = f"{label(str(method))}: area {level_with(*area(part))}", looks[str(method)]
        axis.step(
            classification.GRID,
            classification.on_grid(part, curve),
            where="post",
            color=mark.color,
            linestyle=mark.line,
            label=name,
        )
        axis.fill_between(classification.GRID, low, high, step="post", color=mark.color, alpha=0.15, linewidth=0)
    axis.set(xlabel=names[0], ylabel=names[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    legend(figure, axis, columns=1)
    return figure


@figure(
    "ROC of trust",
    "trust_decisions",
    _areas_legend,
    rows=judged,
    empty=ONE_CLASS,
    cites=("trust.auc_*",),
    level=2,
)
def trust_roc(rows: pd.DataFrame) -> Drawing:
    """ROC of low trust as a sign of harm, seeds pooled, with the 95 % band over batches."""
    names = ("harmless batches rolled back", "harmful batches caught")
    figure = _curves(rows, classification.roc_on_grid, classification.roc_area, names)
    figure.axes[0].plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 2)), linewidth=0.8)
    return figure


@figure(
    "Precision and recall of trust",
    "trust_decisions",
    _areas_legend,
    rows=judged,
    empty=ONE_CLASS,
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
    return first[first["edits_seen"] == first["edits_seen"].max()].sort_values("value", ascending=False, kind="stable")


@figure(
    "Retention with and without rollback",
    "trust_forgetting",
    lambda curves: f"95 % bands over cases and seeds ({basis(_at_the_end(curves))} at the end).",
    rows=_rollback,
    empty="No curve was recorded.",
    cites=("trust.kept",),
    level=3,
)
def rollback_effect_curve(curves: pd.DataFrame) -> Drawing:
    """Edits that hold over the edits seen, with and without trust; one panel with harmful batches, one without."""
    experiments = list(dict.fromkeys(curves["experiment"]))
    figure, axes = panels(len(experiments), 1, 0.75 + 1.45 * len(experiments), sharex=True)
    looks = marks(curves["method"])
    for axis, experiment in zip(axes, experiments, strict=True):
        part = curves[curves["experiment"] == experiment]
        bands_over_edits(axis, part, looks, 0.15)
        axis.set(title=PANELS.get(experiment, experiment.replace("_", " ")), ylabel="edits that hold")
        share_axis(axis, float(part["low"].min()))
    axes[-1].set_xlabel("edits seen")
    legend(figure, axes[0])
    return figure


# ---- printed table -----------------------------------------------------------------------------------------------


@sheet("trust", "Decisions of trust", "trust_eval", "trust_forgetting", level=6)
def trust_sheet(tables: Tables) -> Printed:
    """How good the decisions were and what they were worth, by method and kind of stream."""
    rows: list[dict[str, Any]] = []
    for (experiment, method), part in as_run(tables["trust_eval"]).groupby(["experiment", "method"], sort=False):
        stream = {"trust_eval": "harmful", "trust_clean": "clean"}.get(str(experiment), str(experiment))
        row: dict[str, Any] = {"experiment": experiment, "method": method, "stream": stream, "seeds": len(part)}
        for name, found in worth(part, tables["trust_forgetting"]).items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
        rows.append(row | {"n": int(part["n"].sum())})
    frame = pd.DataFrame(rows)
    batches, seeds = count(frame)
    text = (
        "Decisions of trust against their labels, and their worth against the same method without trust: share of right "
        "decisions, harmless batches rolled back (FPR), harmful ones kept (FNR), area under the ROC curve, relative gain of "
        "retention, share of the rise of perplexity avoided, share of trust in the editing time, with 95 % intervals over "
        f"batches (shares), cases and seeds (retention) or seeds (n = {counted(batches, 'batch', 'batches')}, "
        f"{counted(seeds, 'seed')})."
    )
    columns = [METHOD, Column("stream", "stream", "text"), Column("accuracy", "right")]
    columns += [Column("false_positive_rate", "FPR"), Column("false_negative_rate", "FNR"), Column("auc", "AUC")]
    columns += [Column("retention_gain", "retention %", "difference", 0, 100.0)]
    columns += [
        Column("ppl_rise_cut", "PPL %", "difference", 0, 100.0),
        Column("overhead", "time %", "level", 0, 100.0),
    ]
    return Printed(frame, columns, text, "trust_eval")


@sheet("combined", "Replay, LoRA and trust together", "combined", level=8)
def combined_sheet(tables: Tables) -> Printed:
    """Replay, low-rank storage and trust, alone and together."""
    first = "Replay, low-rank storage and trust, alone and together, on streams with harmful batches. "
    return every_setting(tables, "combined", first)


# ---- findings ----------------------------------------------------------------------------------------------------

CHANGED = {  # a relative change by trust: what changes, sign of the number's effect on it
    "retention_gain": ("the share of edits that hold", 1.0),
    "ppl_rise_cut": ("the rise of held-out perplexity", -1.0),
}

SHARES = {"overhead": "takes {} of the editing time", "accuracy": "decides rightly on {} of the batches"}

WORTH = (*CHANGED, *SHARES)


def findings(tables: Tables) -> list[Finding]:
    """How well trust tells harm, and what its decisions were worth, by method and kind of stream."""
    found = _detection(tables.get("trust_decisions", pd.DataFrame()))
    curves = tables.get("trust_forgetting", pd.DataFrame())
    runs = as_run(tables.get("trust_eval", pd.DataFrame()))
    if len(curves) and len(runs):
        for (experiment, method), part in runs.groupby(["experiment", "method"], sort=False):
            numbers = worth(part, curves)
            idle = 1 - float((part["harmful"] * part["n"]).sum() / part["n"].sum())
            place = {"experiment": experiment, "method": method}
            known = [name for name in WORTH if numbers[name][0] == numbers[name][0]]
            found += [_worth(place, len(part), name, numbers[name], idle) for name in known]
    return found + (_kept(curves) if len(curves) else [])


def _detection(table: pd.DataFrame) -> list[Finding]:
    """Areas under both curves, beside chance."""
    rows = judged(table)
    if rows.empty:
        return []
    kinds = (
        ("auc", "marks harmful batches with an area under the ROC curve of", classification.roc_area),
        ("precision", "marks harmful batches with an average precision of", classification.precision_area),
    )
    found = []
    for name, what, area in kinds:
        for method, part in rows.groupby("method", sort=False):
            value, low, high = area(part)
            chance = 0.5 if name == "auc" else float(rows["harmful"].mean())
            verdict, sure = against_chance(low, high, chance)
            number = level_with(value, low, high)
            sentence = f"Low trust of {label(str(method))} {what} {number}, {verdict} ({chance:.2f})."
            key = f"trust.{name}_{method}"
            found.append(Finding(key, sentence, value, low, high, len(part), sure, "trust_decisions"))
    return found


def _worth(place: Mapping[str, Any], seeds: int, name: str, numbers: Interval, idle: float) -> Finding:
    """One number of trust over the seeds of a kind of stream; ``idle``: the accuracy of never acting."""
    value, low, high = numbers
    if name in SHARES:
        known = low == low
        number = percent(value) + (f" ({percent(low)} to {percent(high)})" if known else "")
        claim, sure = SHARES[name].format(number), known
    else:
        claim, sure = _changed(name, value, low, high)
    if name == "accuracy":  # with few harmful batches, never acting is right most of the time
        sure = bool(low > idle)
        claim += f", where never acting would be right on {percent(idle)}"
        claim += "" if sure else ": not measurably better"
    stream = "with harmful batches" if place["experiment"] == "trust_eval" else "without harmful batches"
    sentence = f"On streams {stream}, trust ({label(place['method'])}) {claim} ({counted(seeds, 'seed')})."
    key = f"trust.{name}_{place['method']}_{place['experiment']}"
    return Finding(key, sentence, value, low, high, seeds, sure, "trust_eval")


def _changed(name: str, value: float, low: float, high: float) -> tuple[str, bool]:
    """What trust does to a quantity, relative to the same method without it, as far as the interval says."""
    what, sign = CHANGED[name]
    ends = sorted((sign * low, sign * high)) if low == low else [float("nan")] * 2
    verb = direction(ends[0], ends[1])
    if verb is None:
        spread = f" ({signed(100 * ends[0], 0)} to {signed(100 * ends[1], 0)} %)" if low == low else ""
        return f"makes no measurable difference to {what}: {signed(100 * sign * value, 0)} %{spread}", False
    return f"{verb} {what} by {size_percent(value, low, high)}, relative to no trust", True


def _kept(curves: pd.DataFrame) -> list[Finding]:
    """Who keeps the most at the end of the stream with harmful batches."""
    kept = _rollback(curves)
    if kept.empty:
        return []
    last = _at_the_end(kept)
    rows = named(last)
    where = PANELS.get(str(last["experiment"].iloc[0]), "stream")
    what = f"share of harmless edits that hold after {counted(int(last['edits_seen'].max()), 'edit')}"
    sure = len(rows) > 1 and rows[0][2] > max(r[3] for r in rows[1:])
    sentence = f"With {where}: {leading(rows, what)}"
    return [Finding("trust.kept", sentence, *rows[0][1:], int(last["n"].max()), sure, "trust_forgetting")]


EVENTS = ("events.jsonl",)
TOPIC = Topic(
    name="trust",
    title="Trust",
    about="trust and rollback",
    tables=(
        Collected("trust_eval", _by_experiment(trust_table), EXPERIMENTS, ("metrics.csv", "curve.csv", *EVENTS)),
        Collected("trust_curves", _by_experiment(trust_curves), EXPERIMENTS, EVENTS),
        Collected("trust_forgetting", _by_experiment(curves_table), EXPERIMENTS, ("curve.csv",)),
        Collected("trust_decisions", _by_experiment(trust_decisions), EXPERIMENTS, EVENTS),
        Collected("combined", cells_table, ("combined",), CELL_FILES, settings=FIXED),
    ),
    figures=(
        trust_roc,
        trust_pr,
        rollback_effect_curve,
    ),
    sheets=(
        trust_sheet,
        combined_sheet,
    ),
    reads=("trust_decisions", "trust_eval", "trust_forgetting"),
    findings=findings,
    sentences=4,
)
