"""Greedy steps: what each step gains, which layers accept it, whether trust knows what a step is worth, and one step instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import beside_each_other, legend, panels, share_axis
from editlab.analysis.draw.style import DARK, Mark, marks
from editlab.analysis.edit.cells import final_scores, read_events, stored_rank
from editlab.analysis.edit.comparisons import compare, in_place_of, pair_key, replayed
from editlab.analysis.edit.printing import DIFFERENCE_OF_S, METHOD, RANK, REPLAY, SCORE_COLUMNS, add_difference
from editlab.analysis.edit.scores import INTERVALS, basis, pooled_cells
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells, Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Z, rank_correlation, wilson
from editlab.analysis.text.findings import Finding, difference_finding, direction
from editlab.analysis.text.rows import largest, records, smallest
from editlab.analysis.text.wording import counted, label, level_with, signed_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

EXPERIMENTS = ("greedy_eval", "greedy_rank")  # greedy steps; and one step of a higher rank to hold them against
BASES = ("emmet_lora", "emmet_lora_append", "emmet")
NO_STEPS = "No greedy step was judged."


def _all_cells(run: Run) -> list[tuple[str, Mapping[str, str]]]:
    return [cell for cells in run.cells.values() for cell in cells]


def gain_table(cells: Cells) -> pd.DataFrame:
    """Paired differences of every method to one step, and to the raw edit."""
    methods = list(dict.fromkeys(cell["method"] for _, cell in cells))
    return compare(cells, [(method, base) for base in BASES for method in methods if method not in (base, "emmet")])


def greedy_step_events(cells: Cells) -> pd.DataFrame:
    """Every judged greedy step of the cells: their coordinates and the columns of ``greedy_steps``."""
    parts = [greedy_steps(read_events(directory)).assign(**cell) for directory, cell in cells]
    found = [part for part in parts if len(part)]
    names = ["layer", "step", "scale", "accepted", "reason", "gain", "trust"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*names, *cells[0][1]])


def greedy_table(cells: Cells) -> pd.DataFrame:
    """Scores of every cell with the rank that it stores, and for greedy ones: steps and acceptance, mean gain, trust
    against gain."""
    rows = []
    for directory, cell in cells:
        events = read_events(directory)
        steps = greedy_steps(events)
        found: dict[str, float] = {}
        if len(steps):
            varied = steps["trust"].nunique() > 1 and steps["gain"].nunique() > 1
            found = {
                "steps": len(steps),
                "acceptance": float(steps["accepted"].mean()),
                "gain_by_step": float(steps["gain"].mean()),
                "trust_gain_correlation": float(steps["trust"].corr(steps["gain"])) if varied else np.nan,
            }
        rows.append({**cell, **final_scores(directory), "stored_rank": stored_rank(events), **found})
    return pd.DataFrame(rows)


def greedy_step_table(cells: Cells) -> pd.DataFrame:
    """By method, layer and step: how often it was tried and accepted, and its gain and trust."""
    steps = greedy_step_events(cells)
    if steps.empty:
        return pd.DataFrame(
            columns=["method", "replay", "rank", "layer", "step", "tried", "acceptance", "gain", "trust"]
        )
    grouped = steps.groupby(["method", "replay", "rank", "layer", "step"], sort=True)
    means = grouped.agg(
        tried=("gain", "size"), acceptance=("accepted", "mean"), gain=("gain", "mean"), trust=("trust", "mean")
    )
    return means.reset_index()


def greedy_steps(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a judged step: layer, step, scale, accepted, reason, gain, trust."""
    rows = [
        {
            "layer": int(layer),
            "step": step["greedy_step"],
            "scale": step["greedy_scale"],
            "accepted": step["greedy_accept"],
            "reason": step["greedy_reason"],
            "gain": step["gain"],
            "trust": step["trust"],
        }
        for event in events
        for layer, found in event.get("layers", {}).items()
        for step in found.get("greedy", [])
        if "gain" in step
    ]
    return pd.DataFrame(rows)


# ---- figures -----------------------------------------------------------------------------------------------------


def _gains(steps: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean gain of each group with its normal interval: value, low, high, n."""
    rows = []
    for key, part in steps.groupby(by, sort=True):
        mean, n = float(part["gain"].mean()), len(part)
        half = Z * float(part["gain"].std(ddof=1)) / n**0.5 if n > 1 else float("nan")
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        rows.append(row | {"value": mean, "low": mean - half, "high": mean + half, "n": n})
    return pd.DataFrame(rows)


def _acceptance(steps: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Share of steps accepted in each group with Wilson's interval: value, low, high, n."""
    rows = []
    for key, part in steps.groupby(by, sort=True):
        share, n = float(part["accepted"].mean()), len(part)
        low, high = wilson(share, n)
        rows.append(dict(zip(by, key, strict=True)) | {"value": share, "low": float(low), "high": float(high), "n": n})
    return pd.DataFrame(rows)


def _looks(table: pd.DataFrame) -> dict[str, Mark]:
    """The same in the three figures, whatever the order of their rows."""
    return marks(sorted(table["method"].unique()))


def _n(steps: pd.DataFrame) -> str:
    return f"n = {counted(len(steps), 'step')}, {counted(steps['seed'].nunique(), 'seed')}"


def _drawn(table: pd.DataFrame, x: str, names: tuple[str, str], zero: bool) -> Drawing:
    figure, (axis,) = panels(1, 1, 2.3)
    beside_each_other(axis, table, x, _looks(table), 0.07)
    axis.set_xticks(sorted(table[x].unique()))
    axis.set_xlim(table[x].min() - 0.4, table[x].max() + 0.4)
    axis.grid(axis="x", visible=False)
    axis.set(xlabel=names[0], ylabel=names[1])
    if zero:
        axis.axhline(0, color=DARK, linewidth=0.7)
    else:
        share_axis(axis, float(table["low"].min()))
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
    return _drawn(_gains(steps, ["method", "step"]), "step", ("greedy step", "gain of the step"), True)


@figure(
    "Acceptance by layer",
    "greedy_step_events",
    lambda steps: f"Share of greedy steps accepted, with 95 % intervals ({_n(steps)}).",
    empty=NO_STEPS,
    cites=("greedy.acceptance",),
)
def greedy_acceptance_by_layer(steps: pd.DataFrame) -> Drawing:
    """Share of steps accepted, by layer and method."""
    return _drawn(_acceptance(steps, ["method", "layer"]), "layer", ("layer", "steps accepted"), False)


@figure(
    "Trust against gain",
    "greedy_step_events",
    lambda steps: f"95 % intervals by Fisher's transformation. Filled: accepted, hollow: taken back ({_n(steps)}).",
    empty=NO_STEPS,
    cites=("greedy.trust_gain_*",),
)
def greedy_trust_gain(steps: pd.DataFrame) -> Drawing:
    """Each step's gain over its trust: filled where it was accepted."""
    figure, (axis,) = panels(1, 1, 2.5)
    looks = _looks(steps)
    for method, rows in steps.groupby("method", sort=True):
        mark = looks[str(method)]
        accepted = rows["accepted"].astype(bool)
        for part, face, name in ((rows[accepted], mark.color, label(str(method))), (rows[~accepted], "none", None)):
            look: dict[str, Any] = {"facecolors": face, "edgecolors": mark.color, "linewidths": 0.6, "alpha": 0.7}
            axis.scatter(part["trust"], part["gain"], s=9, marker=mark.marker, label=name, **look)
    axis.axhline(0, color=DARK, linewidth=0.7)
    axis.set(xlabel="trust", ylabel="gain of the step")
    legend(figure, axis, columns=2)
    return figure


# ---- printed table -----------------------------------------------------------------------------------------------


@sheet("greedy", "Greedy against one step", "greedy_eval", "greedy_gain", level=8)
def greedy_sheet(tables: Tables) -> Printed:
    """Greedy steps beside the one-step and the raw edit."""
    means = ["steps", "acceptance", "gain_by_step", "trust_gain_correlation", "retention"]
    frame, gain = pooled_cells(tables["greedy_eval"], means), tables["greedy_gain"]
    base = next((b for b in ("emmet_lora_append", "emmet_lora") if (gain["b"] == b).any()), "")
    if base:
        frame = add_difference(gain, frame, {base})
    text = (
        f"{INTERVALS} ({basis(frame)}). Accepted: share of greedy steps that stayed; ΔS: paired difference to "
        f"{label(base) or 'one step'} of the same rank in one step, on the same cases, bold where it excludes zero. Steps that "
        "append add their rank."
    )
    columns = [METHOD, REPLAY, RANK, *SCORE_COLUMNS, Column("acceptance", "accepted"), DIFFERENCE_OF_S]
    return Printed(frame, columns, text, "greedy_eval")


# ---- findings ----------------------------------------------------------------------------------------------------


def findings(tables: Tables) -> list[Finding]:
    """Greedy steps against one step on the same cases; acceptance; whether trust knows what a step is worth."""
    found: list[Finding] = []
    seen: set[tuple[Any, ...]] = set()
    for row in records(tables.get("greedy_gain", pd.DataFrame())):
        pair = (row["b"], row["a"], row["rank"], row["replay"])
        if row["metric"] == "S" and pair not in seen:
            seen.add((row["a"], row["b"], row["rank"], row["replay"]))
            key = pair_key("greedy", row)
            found.append(difference_finding(key, row, in_place_of(row), "S", "greedy_gain", replayed(row)))
    steps = tables.get("greedy_step_events", pd.DataFrame())
    if steps.empty:
        return found
    for method, part in steps.groupby("method", sort=True):
        value, low, high = rank_correlation(part["trust"], part["gain"])
        if value == value:
            told = direction(low, high, "rises with", "falls with") or "does not measurably go with"
            number = signed_with(value, low, high, 2)
            sentence = f"The gain of a step of {label(str(method))} {told} its trust: rank correlation {number}."
            sure = direction(low, high) is not None
            key = f"greedy.trust_gain_{method}"
            found.append(Finding(key, sentence, value, low, high, len(part), sure, "greedy_step_events"))
    return found + _by_step(steps) + _accepted(steps)


def _by_step(steps: pd.DataFrame) -> list[Finding]:
    """The gain of the first and of the last step, by method."""
    found = []
    for method, rows in _gains(steps, ["method", "step"]).groupby("method", sort=True):
        first, last = rows.iloc[0], rows.iloc[-1]
        ends = [f"{signed_with(r['value'], r['low'], r['high'], 2)} in step {r['step']:g}" for r in (first, last)]
        sentence = f"The mean gain of {label(str(method))} is {' and '.join(dict.fromkeys(ends))}."
        sure = bool(last["high"] < first["low"] or last["low"] > first["high"])
        numbers = (float(last["value"]), float(last["low"]), float(last["high"]))
        key = f"greedy.gain_{method}"
        found.append(Finding(key, sentence, *numbers, int(rows["n"].sum()), sure, "greedy_step_events"))
    return found


def _accepted(steps: pd.DataFrame) -> list[Finding]:
    """The range of acceptance over methods and layers, and why steps are refused."""
    table = _acceptance(steps, ["method", "layer"])
    high, low = largest(table, "value"), smallest(table, "value")
    ends = [
        f"{level_with(r['value'], r['low'], r['high'])} ({label(r['method'])}, layer {r['layer']})" for r in (low, high)
    ]
    share = f"from {' to '.join(ends)}" if len(table) > 1 else ends[0]
    reasons = steps.loc[~steps["accepted"].astype(bool), "reason"].value_counts()
    why = f"; the most frequent reason to refuse was {str(reasons.index[0]).replace('_', ' ')}" if len(reasons) else ""
    sure = bool(low["high"] < high["low"])
    numbers = (float(steps["accepted"].mean()), float("nan"), float("nan"))
    sentence = f"The share of greedy steps that are accepted is {share}{why}."
    return [Finding("greedy.acceptance", sentence, *numbers, len(steps), sure, "greedy_step_events")]


CELL_FILES = ("metrics.csv", "curve.csv", "events.jsonl")
TOPIC = Topic(
    name="greedy",
    title="Greedy steps",
    about="greedy steps",
    tables=(
        Collected("greedy_eval", lambda run: greedy_table(_all_cells(run)), EXPERIMENTS, CELL_FILES),
        Collected("greedy_steps", lambda run: greedy_step_table(_all_cells(run)), EXPERIMENTS, CELL_FILES[2:]),
        Collected(
            "greedy_gain", lambda run: gain_table(_all_cells(run)), EXPERIMENTS, ("cases.csv", "edit.safetensors")
        ),
        Collected("greedy_step_events", lambda run: greedy_step_events(_all_cells(run)), EXPERIMENTS, CELL_FILES[2:]),
    ),
    figures=(
        greedy_gain_by_step,
        greedy_acceptance_by_layer,
        greedy_trust_gain,
    ),
    sheets=(greedy_sheet,),
    reads=("greedy_gain", "greedy_step_events"),
    findings=findings,
)
