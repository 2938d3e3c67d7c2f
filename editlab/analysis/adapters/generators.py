"""Adapters generated from descriptions, beside every rival, on combinations and operations that were held out."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.adapters.methods import HIDDEN, KINDS, methods_table, shown
from editlab.analysis.adapters.scores import COMBINATIONS, basis, difference, documents, joined, means, stands
from editlab.analysis.draw.plots import Drawing, panels, sides
from editlab.analysis.draw.style import COLORS, DARK
from editlab.analysis.paper.tabular import Printed, columns_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.text.findings import Finding, direction, size
from editlab.analysis.text.wording import counted, level_with, listed, signed_with

METHODS = {"weights": "weights only", "both": "weights and deltas", "deltas": "deltas only"}
DECODERS = {"coefficients": "coefficients", "hyperconvolution": "hyper-convolution"}
GROUPS = {"reference": DARK, "retrieval": COLORS[4], "generator": COLORS[0], "shuffled": COLORS[3]}
LINEAR = "coefficients, weights"
CHECKS = {
    "zero": "adapters of no size",
    "explosion": "adapters that explode",
    "collapse": "one adapter for every description",
    "delta_cheat": "deltas without the task",
    "probe_overfit": "deltas of the supervising probes alone",
}


def adapters_table(run: Run) -> pd.DataFrame:
    """Scores of every method on every held-out task of every seed."""
    table = joined(run, "adapter_scores")
    order = {name: place for place, name in enumerate(GROUPS)}
    return table.sort_values(
        ["split", "group"], key=lambda c: c.map(order).fillna(0) if c.name == "group" else c, kind="stable"
    )


def checks_table(run: Run) -> pd.DataFrame:
    """Degenerate answers of each generator."""
    return pd.DataFrame(documents(run, "checks"))


def margins_table(run: Run) -> pd.DataFrame:
    """Two supervisions of one decoder, paired on the same tasks: difference of exact match, and whether they count as equal.

    The expectation that was written down before: in the coefficient form, supervision by deltas and tuned supervision by
    weights are the same.
    """
    table, margin = adapters_table(run), float(run.settings["scores"]["margin"])
    made = table[(table["split"] == COMBINATIONS) & (table["group"] == "generator")]
    rows = []
    for decoder in DECODERS:
        own = made[made["decoder"] == decoder]
        for supervision in ("both", "deltas"):
            mine, weights = (own[own["supervision"] == s] for s in (supervision, "weights"))
            for column in ("exact", "letters"):
                found = difference(mine, weights, column)
                if found["n"]:
                    inside = -margin < found["ci_low"] and found["ci_high"] < margin
                    best = max(float(mine[column].mean()), float(weights[column].mean()))
                    rows.append({"decoder": decoder, "supervision": supervision, "metric": column, **found,
                                 "margin": margin, "equal": inside, "best": best})  # fmt: skip
    return pd.DataFrame(rows)


def choices_table(run: Run) -> pd.DataFrame:
    """What was tried in training, and the letters on validation tasks that decided."""
    return joined(run, "choices")


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Exact match of every method on held-out combinations, the better ones of a group first."""
    part = table[table["split"] == COMBINATIONS]
    part = part[~part["method"].str.contains(HIDDEN)]
    rows = means(part, ["group", "method"], ["exact"]).assign(tasks=basis(part))
    place = {name: i for i, name in enumerate(GROUPS)}
    return rows.sort_values(["group", "exact"], key=lambda c: c.map(place) if c.name == "group" else -c, kind="stable")


@figure(
    "Adapters for unseen tasks",
    "adapters",
    lambda rows: (
        "Exact match of greedy answers on tasks whose combination of operations was never trained, without a description in "
        f"the prompt unless a row says so ({rows['tasks'].iloc[0]})."
    ),
    rows=_shown,
    cites=("generators.linear", "generators.supervision_coefficients"),
    level=1,
)
def adapter_methods(rows: pd.DataFrame) -> Drawing:
    """A forest of methods by group."""
    figure, (axis,) = panels(0.5 + 0.15 * len(rows))
    for place, ((group, _), part) in enumerate(rows.groupby(["group", "method"], sort=False)):
        look: dict[str, Any] = {"fmt": "o", "color": GROUPS[str(group)], "elinewidth": 0.8, "capsize": 1.5}
        axis.errorbar(part["exact"], [place], xerr=sides(part, "exact"), **look)
    axis.set_yticks(range(len(rows)), [shown(row) for row in records(rows)], size=5.5)
    axis.invert_yaxis()
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("exact match")
    return figure


# ---- findings ----------------------------------------------------------------------------------------------------


@sheet("generators", "Adapters for unseen tasks", "adapter_methods", level=2)
def generators_sheet(tables: Tables) -> Printed:
    """The four methods in each form and what they must beat, on held-out combinations."""
    frame = tables["adapter_methods"]
    frame = frame[(frame["split"] == COMBINATIONS) & ~frame["method"].str.contains(HIDDEN)]
    frame = frame.assign(name=[shown(row) for row in records(frame)], kind=frame["group"].map(KINDS))
    heads = {"exact": "exact", "letters": "letters", "delta_ratio": "delta error", "delta_cosine": "cosine"}
    heads |= {"delta_r2": "R2", "gain": "gain", "won": "won", "likeness": "alike"}
    columns = columns_of({"kind": "kind", "name": "method"}, "text") + columns_of(heads)
    legend = (
        f"Tasks whose combination was held out ({stands(frame)}). Delta error: squared, as a share of the teachers' squared "
        "deltas; cosine and R2 are against the mean delta of training. Gain: (exact - base) / (teacher - base). Won: share of "
        "tasks with more letters than the best single adapter. Alike: mean cosine of the adapters of different tasks. "
        "Rows with a description see in the prompt what the others do not."
    )
    return Printed(frame, columns, legend)


def findings(tables: Tables) -> list[Finding]:
    """What generated adapters reach, whether descriptions matter, whether the supervision does, and degenerate answers."""
    found: list[Finding] = []
    if "adapters" in tables:
        part = tables["adapters"][tables["adapters"]["split"] == COMBINATIONS]
        found += [*_linear(part), *_rivals(part)]
    choices = tables.get("adapter_choices", pd.DataFrame())
    found += _supervision(tables.get("adapter_margins", pd.DataFrame()), choices)
    found += _degenerate(tables.get("adapter_checks", pd.DataFrame()))
    if "adapters" in tables:
        found += _operations(tables["adapters"])
    return found


def _of(part: pd.DataFrame, group: str, method: str) -> pd.DataFrame:
    return part[(part["group"] == group) & (part["method"] == method)]


def _linear(part: pd.DataFrame) -> list[Finding]:
    rows = {(row["group"], row["method"]): row for row in records(means(part, ["group", "method"], ["exact"]))}
    row, teacher = rows["generator", LINEAR], rows["reference", "teacher"]
    number = Interval.of(row, "exact")
    sentence = (
        f"The linear hyper-network answers {level_with(*number)} of the questions of unseen task combinations exactly, without a "
        f"description in the prompt; an adapter trained on the task itself answers {teacher['exact']:.2f}."
    )
    return [Finding("generators.linear", sentence, *number, int(row["n"]), True, "adapters")]


def _rivals(part: pd.DataFrame) -> list[Finding]:
    rivals = {
        "shuffled": ("shuffled", LINEAR, "the same network with shuffled descriptions"),
        "one_lora": (
            "reference",
            "one LoRA for all tasks, described",
            "one LoRA for all tasks, which sees the description",
        ),
        "described": ("reference", "base, described", "the base that is shown the description"),
        "best_single": ("reference", "best single (oracle)", "the best single training adapter, chosen by an oracle"),
        "mean": ("reference", "mean of all adapters", "the mean of all adapters"),
    }
    own, found = _of(part, "generator", LINEAR), []
    for key, (group, method, name) in rivals.items():
        row = difference(own, _of(part, group, method))
        if not row["n"]:
            continue
        numbers = Interval.of(row)
        told = f"is not separated from {name}: {signed_with(*numbers)} exact match"
        if verb := direction(numbers.low, numbers.high, "exceeds", "falls short of"):
            told = f"{verb} {name} by {size(*numbers)} exact match"
        sentence = f"On the same tasks the linear hyper-network {told}."
        found.append(Finding(f"generators.{key}", sentence, *numbers, int(row["n"]), numbers.clear, "adapters"))
    return found


def _still_rising(choices: pd.DataFrame, decoder: str) -> str:
    """Where training on deltas had its most validation letters at its last step, a longer one might do better: says so."""
    if not len(choices):
        return ""
    own = choices[(choices["decoder"] == decoder) & (choices["supervision"] == "deltas")]
    ends = [part["step"].iloc[int(part["letters"].argmax())] == part["step"].max() for _, part in own.groupby("seed")]
    if not any(ends):
        return ""
    last = f"after {int(own['step'].max())} steps of training on deltas"
    return f" Letters on validation tasks were still rising {last} in {sum(ends)} of {counted(len(ends), 'seed')}."


def _supervision(table: pd.DataFrame, choices: pd.DataFrame) -> list[Finding]:
    found = []
    exact = table[(table["metric"] == "exact") & (table["supervision"] == "deltas")] if len(table) else table
    for row in records(exact):
        numbers, decoder = Interval.of(row), DECODERS[row["decoder"]]
        floor = row["best"] < row["margin"]  # two that fail alike are no evidence that supervision does not matter
        if floor:
            told = f"and by weights fail alike (at most {row['best']:.2f}), so that they cannot be compared"
        elif row["equal"]:
            told = f"equals tuned supervision by weights within the margin of {row['margin']:g}"
        elif numbers.clear:
            told = f"is {'better' if numbers.low > 0 else 'worse'} than tuned supervision by weights"
        else:
            told = "is not separated from tuned supervision by weights, nor shown equal to it"
        sentence = (
            f"In the decoder of {decoder}, supervision by deltas alone {told}: {signed_with(*numbers)} exact match, paired over "
            f"tasks.{_still_rising(choices, row['decoder'])}"
        )
        sure = not floor and bool(row["equal"] or numbers.clear)
        key = f"generators.supervision_{row['decoder']}"
        found.append(Finding(key, sentence, *numbers, int(row["n"]), sure, "adapter_margins"))
    return found


def _degenerate(table: pd.DataFrame) -> list[Finding]:
    found = []
    for row in records(table):
        wrong = [name for key, name in CHECKS.items() if bool(row[key])]
        if wrong:
            found.append(
                f"{DECODERS[row['decoder']]} by {METHODS[row['supervision']]} (seed {row['seed']}): {listed(wrong)}"
            )
    if not len(table):
        return []
    told = f"{len(found)} of {len(table)} trained generators give degenerate answers"
    sentence = f"{told}: {'; '.join(found)}." if found else f"No generator of {len(table)} gives degenerate answers."
    share = Interval(len(found) / len(table))
    return [Finding("generators.degenerate", sentence, *share, len(table), True, "adapter_checks")]


def _operations(table: pd.DataFrame) -> list[Finding]:
    part = table[table["split"] != COMBINATIONS]
    own = _of(part, "generator", LINEAR)
    if not len(own):
        return []
    row = records(means(own, ["method"], ["exact"]))[0]
    number = Interval.of(row, "exact")
    sentence = (
        f"Where a whole operation was held out, the linear hyper-network reaches {level_with(*number)} exact match."
    )
    return [Finding("generators.operations", sentence, *number, int(row["n"]), True, "adapters")]


TOPIC = Topic(
    "Generated adapters",
    about="generated adapters",
    tables=(
        Collected("adapters", adapters_table, inputs=("adapter_scores",)),
        Collected("adapter_methods", methods_table, inputs=("adapter_scores", "checks")),
        Collected("adapter_margins", margins_table, inputs=("adapter_scores",), settings=("scores",)),
        Collected("adapter_checks", checks_table, inputs=("checks",)),
        Collected("adapter_choices", choices_table, inputs=("choices",)),
    ),
    reads=("adapters", "adapter_margins", "adapter_checks", "adapter_choices"),
    sentences=4,
)
