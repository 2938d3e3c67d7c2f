"""Greedy steps: what each step gains, which layers accept it, whether trust knows what a step is worth, and one step instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, beside_each_other, legend, of_methods, panels, share_axis
from editlab.analysis.draw.style import DARK
from editlab.analysis.edit import printing
from editlab.analysis.edit.cells import final_scores, read_events, stored_rank
from editlab.analysis.edit.comparisons import compare, gain_finding
from editlab.analysis.edit.printing import EXCLUDES, METHOD, RANK, REPLAY, SCORE_COLUMNS
from editlab.analysis.edit.scores import over, pooled_cells
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells, of_cells
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics import intervals
from editlab.analysis.statistics.intervals import Interval, ends, grouped, largest, records, smallest
from editlab.analysis.text.findings import Finding, direction
from editlab.analysis.text.wording import counted, label, level_with, signed_with

EXPERIMENTS = ("greedy_eval", "greedy_rank")  # greedy steps; and one step of a higher rank to hold them against
STEP = ["layer", "step", "scale", "accepted", "reason", "gain", "trust"]
BASES = ("emmet_lora", "emmet_lora_append", "emmet")
NO_STEPS = "No greedy step was judged."


def gain_table(cells: Cells) -> pd.DataFrame:
    """Paired differences of every method to one step, and to the raw edit."""
    methods = list(dict.fromkeys(cell["method"] for _, cell in cells))
    return compare(cells, [(method, base) for base in BASES for method in methods if method not in (base, "emmet")])


def greedy_step_events(cells: Cells) -> pd.DataFrame:
    """Every judged greedy step of the cells: their coordinates and the columns of ``greedy_steps``."""
    return intervals.stacked([greedy_steps(read_events(directory)).assign(**cell) for directory, cell in cells])


def greedy_table(cells: Cells) -> pd.DataFrame:
    """Scores of every cell with the rank that it stores, and for greedy ones: steps and acceptance, mean gain, trust
    against gain."""
    rows = []
    for directory, cell in cells:
        events = read_events(directory)
        rows.append({**cell, **final_scores(directory), "stored_rank": stored_rank(events)})
        if len(steps := greedy_steps(events)):
            varied = steps["trust"].nunique() > 1 and steps["gain"].nunique() > 1
            rows[-1] |= {
                "steps": len(steps),
                "acceptance": float(steps["accepted"].mean()),
                "gain_by_step": float(steps["gain"].mean()),
                "trust_gain_correlation": float(steps["trust"].corr(steps["gain"])) if varied else np.nan,
            }
    return pd.DataFrame(rows)


def greedy_step_table(cells: Cells) -> pd.DataFrame:
    """By method, layer and step: how often it was tried and accepted, and its gain and trust."""
    groups = greedy_step_events(cells).groupby(["method", "replay", "rank", "layer", "step"], sort=True)
    means = {"acceptance": ("accepted", "mean"), "gain": ("gain", "mean"), "trust": ("trust", "mean")}
    return groups.agg(tried=("gain", "size"), **means).reset_index()


def greedy_steps(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a judged step: :data:`STEP`."""
    names = {"step": "greedy_step", "scale": "greedy_scale", "accepted": "greedy_accept", "reason": "greedy_reason"}
    rows = [
        {"layer": int(layer)} | {name: step[names.get(name, name)] for name in STEP[1:]}
        for event in events
        for layer, found in event.get("layers", {}).items()
        for step in found.get("greedy", [])
        if "gain" in step
    ]
    return pd.DataFrame(rows, columns=STEP)


def _gain(steps: pd.DataFrame) -> dict[str, Any]:
    """Mean gain with its normal interval: value, low, high, n."""
    mean, n = float(steps["gain"].mean()), len(steps)
    half = intervals.Z * float(steps["gain"].std(ddof=1)) / n**0.5
    return {"value": mean, "low": mean - half, "high": mean + half, "n": n}


def _acceptance(steps: pd.DataFrame) -> dict[str, Any]:
    """Share of steps accepted with Wilson's interval: value, low, high, n."""
    return {**intervals.share_interval(float(steps["accepted"].mean()), len(steps))._asdict(), "n": len(steps)}


def _n(steps: pd.DataFrame) -> str:
    return f"n = {counted(len(steps), 'step')}, {counted(steps['seed'].nunique(), 'seed')}"


def _drawn(table: pd.DataFrame, x: str, names: tuple[str, str]) -> Drawing:
    figure, axis = beside_each_other(table, x, names, 0.07)
    axis.set_xlim(table[x].min() - 0.4, table[x].max() + 0.4)
    legend(figure, axis, columns=2)
    return figure


@figure(
    "Gain by step",
    "greedy_step_events",
    lambda steps: (
        "Gain: share of the batch's residual that a step removes; 95 % intervals over batches; later steps are tried only where "
        f"patience was left ({_n(steps)})."
    ),
    empty=NO_STEPS,
    cites=("greedy.gain_*",),
    level=4,
)
def greedy_gain_by_step(steps: pd.DataFrame) -> Drawing:
    """Mean gain of each step (share of the batch's residual that it removes), by method."""
    rows = grouped(steps, ["method", "step"], _gain, sort=True)
    figure = _drawn(rows, "step", ("greedy step", "gain of the step"))
    figure.axes[0].axhline(0, color=DARK, linewidth=0.7)
    return figure


@figure(
    "Acceptance by layer",
    "greedy_step_events",
    lambda steps: f"Share of greedy steps accepted, with 95 % intervals ({_n(steps)}).",
    empty=NO_STEPS,
    cites=("greedy.acceptance",),
)
def greedy_acceptance_by_layer(steps: pd.DataFrame) -> Drawing:
    """Share of steps accepted, by layer and method."""
    rows = grouped(steps, ["method", "layer"], _acceptance, sort=True)
    figure = _drawn(rows, "layer", ("layer", "steps accepted"))
    share_axis(figure.axes[0], float(rows["low"].min()))
    return figure


@figure(
    "Trust against gain",
    "greedy_step_events",
    lambda steps: f"95 % intervals by Fisher's transformation. Filled: accepted, hollow: taken back ({_n(steps)}).",
    empty=NO_STEPS,
    cites=("greedy.trust_gain_*",),
)
def greedy_trust_gain(steps: pd.DataFrame) -> Drawing:
    """Each step's gain over its trust: filled where it was accepted."""
    figure, (axis,) = panels(2.5, xlabel="trust", ylabel="gain of the step")
    for rows, mark, name in of_methods(steps.sort_values("method", kind="stable")):
        accepted = rows["accepted"].astype(bool)
        for part, face, shown in ((rows[accepted], mark.color, name), (rows[~accepted], "none", None)):
            look: dict[str, Any] = {"facecolors": face, "edgecolors": mark.color, "linewidths": 0.6, "alpha": 0.7}
            axis.scatter(part["trust"], part["gain"], s=9, marker=mark.marker, label=shown, **look)
    axis.axhline(0, color=DARK, linewidth=0.7)
    legend(figure, axis, columns=2)
    return figure


@sheet("greedy", "Greedy against one step", "greedy_eval", "greedy_gain", level=8)
def greedy_sheet(tables: Tables) -> Printed:
    """Greedy steps beside the one-step and the raw edit."""
    means = ["steps", "acceptance", "gain_by_step", "trust_gain_correlation", "retention"]
    frame, gain = pooled_cells(tables["greedy_eval"], means), tables["greedy_gain"]
    base = next((b for b in ("emmet_lora_append", "emmet_lora") if (gain["b"] == b).any()), "")
    frame = printing.add_difference(gain, frame, base)
    text = (
        f"Success at the end of the stream with {over(frame)}. Accepted: share of greedy steps that stayed; ΔS: paired "
        f"difference to {label(base) or 'one step'} of the same rank in one step, on the same cases, {EXCLUDES}. Steps that "
        "append add their rank."
    )
    columns = [METHOD, REPLAY, RANK, *SCORE_COLUMNS, Column("acceptance", "accepted"), printing.DIFFERENCE_OF_S]
    return Printed(frame, columns, text)


def findings(tables: Tables) -> Iterator[Finding]:
    """Greedy steps against one step on the same cases; acceptance; whether trust knows what a step is worth."""
    seen: set[tuple[Any, ...]] = set()
    for row in records(tables["greedy_gain"]):
        a, b, *place = (row[name] for name in ("a", "b", "rank", "replay"))
        if row["metric"] == "S" and (b, a, *place) not in seen:
            seen.add((a, b, *place))
            yield gain_finding("greedy", row)
    steps = tables["greedy_step_events"]
    if len(steps):
        yield from _by_trust(steps)
        yield from _by_step(steps)
        yield _accepted(steps)


def _by_trust(steps: pd.DataFrame) -> Iterator[Finding]:
    """Whether trusted steps gain more, by method."""
    for method, part in steps.groupby("method", sort=True):
        numbers = intervals.rank_correlation(part["trust"], part["gain"])
        if numbers.known:
            verb = direction(numbers.low, numbers.high, "rises with", "falls with")
            told = f"{verb or 'does not measurably go with'} its trust: rank correlation {signed_with(*numbers, 2)}"
            sentence = f"The gain of a step of {label(str(method))} {told}."
            key = f"greedy.trust_gain_{method}"
            yield Finding(key, sentence, *numbers, len(part), verb is not None, "greedy_step_events")


def _by_step(steps: pd.DataFrame) -> Iterator[Finding]:
    """The gain of the first and of the last step, by method."""
    for method, rows in grouped(steps, ["method", "step"], _gain, sort=True).groupby("method", sort=True):
        both = ends(rows, "step")
        first, last = map(Interval.of, both)
        told = [f"{signed_with(*Interval.of(row), 2)} in step {row['step']:g}" for row in both]
        sentence = f"The mean gain of {label(str(method))} is {' and '.join(dict.fromkeys(told))}."
        n = int(rows["n"].sum())
        yield Finding(f"greedy.gain_{method}", sentence, *last, n, last.apart(first), "greedy_step_events")


def _accepted(steps: pd.DataFrame) -> Finding:
    """The range of acceptance over methods and layers, and why steps are refused."""
    table = grouped(steps, ["method", "layer"], _acceptance, sort=True)
    least, most = smallest(table, "value"), largest(table, "value")
    told = [f"{level_with(*Interval.of(r))} ({label(r['method'])}, layer {r['layer']})" for r in (least, most)]
    share = f"from {' to '.join(told)}" if len(table) > 1 else told[0]
    reasons = steps.loc[~steps["accepted"].astype(bool), "reason"].value_counts()
    why = f"; the most frequent reason to refuse was {str(reasons.index[0]).replace('_', ' ')}" if len(reasons) else ""
    sentence = f"The share of greedy steps that are accepted is {share}{why}."
    numbers, sure = Interval(float(steps["accepted"].mean())), bool(least["high"] < most["low"])
    return Finding("greedy.acceptance", sentence, *numbers, len(steps), sure, "greedy_step_events")


SCORED, EVENTS = ("metrics.csv", "curve.csv", "events.jsonl"), ("events.jsonl",)
PAIRED = ("cases.csv", "record")
TOPIC = Topic(
    "Greedy steps",
    about="greedy steps",
    tables=(
        Collected("greedy_eval", of_cells(greedy_table), EXPERIMENTS, SCORED),
        Collected("greedy_steps", of_cells(greedy_step_table), EXPERIMENTS, EVENTS),
        Collected("greedy_gain", of_cells(gain_table), EXPERIMENTS, PAIRED),
        Collected("greedy_step_events", of_cells(greedy_step_events), EXPERIMENTS, EVENTS),
    ),
    reads=("greedy_gain", "greedy_step_events"),
)
