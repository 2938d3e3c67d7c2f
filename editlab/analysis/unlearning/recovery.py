"""What comes back: conditions A, B, C and N of every method, and recovery over the rank at a matched forget level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, doublings, error_bars, legend, panels, share_axis
from editlab.analysis.draw.style import DARK, marks
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, mean_interval, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, level, level_with, listed, signed_with
from editlab.analysis.unlearning.numbers import (
    INTERVALS,
    above_control,
    against,
    basis,
    chosen,
    over_seeds,
    recovered,
    shown,
)
from editlab.analysis.unlearning.tables import rtt_table, summary_table, unlearn_table

SETTINGS = ("methods", "selection", "matched", "budgeted", "other_attacks", "seeds", "data", "model", "learn")
BY = ("method", "rank")
ATTACKS = {"full": "retraining", "lora": "retraining a LoRA", "prompt": "prompting", "probe": "linear probe"}
CONDITIONS = (
    "A: accuracy on held-out facts after unlearning; B: after retraining on the other facts as well; C: the model that was "
    "not unlearned, retrained; N: the model that never knew the facts, retrained. Rate and epoch of the attack are chosen on "
    "one half of the held-out questions and scored on the other, both ways"
)


def collect_unlearn(run: Run) -> pd.DataFrame:
    """Every score of every run."""
    return unlearn_table(run.inputs["runs"], run.settings)


def collect_rtt(run: Run) -> pd.DataFrame:
    """Every score of every attack."""
    return rtt_table(run.inputs["attacks"], run.settings)


def collect_summary(run: Run) -> pd.DataFrame:
    """Conditions and rates of every kept point."""
    return summary_table(collect_rtt(run), run.inputs["chosen"], run.settings)


def _ranks(summary: pd.DataFrame) -> pd.DataFrame:
    """Corrected recovery by method and rank at the matched forget level: value, low, high."""
    rows = chosen(summary, "matched")
    if not len(rows):
        return pd.DataFrame()
    columns = {f"recovery_two_fold{end}": name for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))}
    found = over_seeds(rows).rename(columns=columns)
    return found[found["value"].notna()]


@figure(
    "Recovery over the rank",
    "summary",
    lambda rows: (
        f"Recovery rate B / C of retraining at a matched forget accuracy, over the rank of the LoRA; the line is full "
        f"fine-tuning. Mean over seeds with Student's interval ({basis(rows)})."
    ),
    rows=_ranks,
    empty="No rank reaches the matched forget level.",
    cites=("recovery.ranks_*",),
    level=2,
)
def recovery_vs_rank(rows: pd.DataFrame) -> Drawing:
    """Recovery over the rank, full fine-tuning as a line."""
    drawing, (axis,) = panels(2.2)
    looks = marks(rows["method"])
    for method, part in rows.groupby("method", sort=False):
        mark, ranked = looks[str(method)], part[part["rank"] > 0].sort_values("rank")
        if len(ranked):
            error_bars(axis, ranked["rank"], ranked, mark, shown(str(method)))
        for row in records(part[part["rank"] == 0]):
            axis.axhline(row["value"], color=mark.color, linestyle=mark.line, linewidth=1.0, label=shown(str(method)))
    if ranks := sorted(rows.loc[rows["rank"] > 0, "rank"].unique()):
        doublings(axis, ranks)
    axis.axhline(1, color=DARK, linewidth=0.6)
    axis.set(xlabel="rank", ylabel="recovery rate B / C")
    share_axis(axis, 0.0, 1.1)
    legend(drawing, axis)
    return drawing


LETTERS = columns_of(
    {"A": "A", "B_two_fold": "B", "C_two_fold": "C", "N_two_fold": "N", "recovery_two_fold": "B / C"}
    | {"recovery_corrected_two_fold": "(B - N) / (C - N)"}
)
NAME, SEEDS = Column("name", "method", "text"), Column("seeds", "seeds", "count")
COST = Column("retain_drop", "retain lost", "difference")
LEFT_OUT = "A rate is left out where less than a quarter was unlearned: nothing can come back"


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    names = [shown(m, r) for m, r in zip(frame["method"], frame["rank"], strict=True)] if len(frame) else []
    return frame.assign(name=names)


def _printed(rows: pd.DataFrame, columns: Sequence[Column], about: str, by: Sequence[str] = BY) -> Printed:
    frame = _named(over_seeds(rows, by)) if len(rows) else pd.DataFrame(columns=[c.name for c in columns])
    said = f" ({INTERVALS}; {basis(frame)})" if len(frame) else ""
    return Printed(frame, columns, f"{about}{said}. {LEFT_OUT}.")


@sheet("unlearning", "What comes back after unlearning", "summary", level=1)
def unlearning_sheet(tables: Tables) -> Printed:
    """A, B, C, N and recovery of every method at its selected point."""
    return _printed(chosen(tables["summary"]), [NAME, *LETTERS, COST, SEEDS], CONDITIONS)


@sheet("unlearning_budget", "At one disruption", "summary", level=6)
def budget_sheet(tables: Tables) -> Printed:
    """The same where every method was stopped at one divergence on neutral text."""
    rows = chosen(tables["summary"], "budget")
    about = (
        "A, B, C and N of the epoch with the lowest forget accuracy within one KL budget on neutral text, whatever it costs on "
        "retained facts"
    )
    return _printed(rows, [NAME, *LETTERS, Column("kl", "KL"), COST, SEEDS], about)


@sheet("unlearning_matched", "At one level of forgetting", "summary", level=7)
def matched_sheet(tables: Tables) -> Printed:
    """The same at the epoch nearest to one forget accuracy."""
    about = (
        "A, B, C and N of the admissible epoch nearest to one forget accuracy, for ranks of LoRA and full fine-tuning"
    )
    return _printed(chosen(tables["summary"], "matched"), [NAME, *LETTERS, COST, SEEDS], about)


@sheet("unlearning_attacks", "Four attacks", "summary", level=6)
def attacks_sheet(tables: Tables) -> Printed:
    """Retraining of all weights, of a LoRA, facts shown in the prompt, and a linear probe."""
    rows = tables["summary"]
    several = rows.groupby(["method", "rank"])["attack"].transform("nunique") > 1
    rows = rows[several & (rows["point"] == "selected") & (rows["found"] == 1)]
    rows = rows.assign(attack=rows["attack"].map(ATTACKS)).sort_values(["method", "rank"], kind="stable")
    about = (
        "The selected points under four attacks: retraining of all weights, of a LoRA alone, facts in the prompt, and a linear "
        "map from hidden states to answers that is fitted to the facts that the attacker knows"
    )
    return _printed(rows, [NAME, Column("attack", "attack", "text"), *LETTERS, SEEDS], about, [*BY, "attack"])


def findings(tables: Tables) -> list[Finding]:
    """By method, whether held-out facts come back beyond the control that never knew."""
    summary = tables["summary"]
    if not len(summary):
        return []
    rows = chosen(summary)
    means = records(over_seeds(rows)) if len(rows) else []
    found = [_came_back(row) for row in means]
    return (
        _overall([row for row in means if not pd.isna(row["recovery"])])
        + sorted(found, key=lambda f: not f.supported)
        + _other_attacks(summary)
        + _over_ranks(summary)
        + _nothing_chosen(summary)
    )


def _overall(rows: list[dict[str, Any]]) -> list[Finding]:
    """How many methods only hid what they were to remove; ``rows``: those that unlearned enough for an attack."""
    if not rows:
        return []
    names = {
        sure: listed([shown(r["method"], r["rank"]) for r in rows if recovered(r) == sure]) for sure in (True, False)
    }
    hidden = sum(recovered(row) for row in rows)
    among = f"{counted(len(rows), 'method')} that forgot enough to be attacked"
    sentence = f"After none of {among} does retraining on other facts bring back, beyond doubt, what was not told."
    if hidden:
        rest = f"; nothing comes back beyond doubt after {names[False]}." if names[False] else "."
        sentence = (
            f"After {hidden} of {among}, retraining on other facts brings back what was not told, beyond the control: it had "
            f"been hidden, not removed ({names[True]}){rest}"
        )
    share = Interval(hidden / len(rows))
    return [Finding("recovery.hidden", sentence, *share, len(rows), hidden > 0, "summary")]


def _came_back(row: dict[str, Any]) -> Finding:
    name, key = shown(row["method"], row["rank"]), f"recovery.{row['method']}_{row['rank']}"
    questions = int(row["questions"])
    b, a = (Interval.of(row, name) for name in ("B_two_fold", "A"))
    if pd.isna(row["recovery"]):
        sentence = f"{name} unlearns nothing worth an attack: held-out facts are at {level_with(*a)} after it."
        return Finding(key, sentence, *a, questions, False, "summary")
    sure = recovered(row)
    said = (
        "brings back facts that it was not told"
        if sure
        else "may bring back facts, which these seeds do not settle"
        if above_control(row, "B_two_fold") and row["B_two_fold"] > row["A"]
        else "brings back nothing beyond the control"
    )
    sentence = (
        f"After {name}, retraining on other facts {said}: held-out accuracy goes from {level_with(*a)} to {level_with(*b)}, "
        f"against {against(row)}."
    )
    return Finding(key, sentence, *b, questions, sure, "summary")


SAID = {
    "lora": "Retraining a LoRA on other facts takes held-out accuracy after {name} from {a} to {b}",
    "prompt": "Other facts in the prompt take held-out accuracy after {name} from {a} to {b}",
    "probe": "A linear probe of the hidden states reads {b} of the held-out facts after {name}, which itself answers {a} of them",
}


def _other_attacks(summary: pd.DataFrame) -> list[Finding]:
    """What the attacks beside retraining of all weights find of a method, against both controls."""
    found = []
    for attack, said in SAID.items():
        rows = chosen(summary, "selected", attack)
        for row in records(over_seeds(rows)) if len(rows) else []:
            b, c = (Interval.of(row, name) for name in ("B_two_fold", "C_two_fold"))
            name = shown(row["method"], row["rank"])
            sentence = said.format(name=name, a=level(row["A"]), b=level_with(*b))
            sentence += f", against {against(row)} and {level_with(*c)} before unlearning."
            key = f"recovery.{attack}_{row['method']}_{row['rank']}"
            sure = above_control(row) if attack == "probe" else recovered(row)
            found.append(Finding(key, sentence, *b, int(row["questions"]), sure, "summary"))
    return found


def _over_ranks(summary: pd.DataFrame) -> list[Finding]:
    """Whether a low rank hides more or less than a high one, at one level of forgetting, paired within seeds."""
    rows = chosen(summary, "matched")
    found = []
    for method, part in rows[rows["rank"] > 0].groupby("method", sort=False):
        table = part.pivot_table(index="seed", columns="rank", values="recovery_two_fold").dropna(
            axis="columns", how="all"
        )
        low, high = (int(rank) for rank in (table.columns.min(), table.columns.max())) if table.shape[1] > 1 else (0, 0)
        if low == high:
            continue
        numbers = mean_interval(table[low] - table[high])
        said = "differs from" if numbers.clear else "is not distinguishable from"
        sentence = (
            f"At one level of forgetting the recovery rate after {shown(str(method), low)} {said} that after rank {high}: "
            f"{level(float(table[low].mean()))} and {level(float(table[high].mean()))}, difference {signed_with(*numbers, 2)}."
        )
        found.append(Finding(f"recovery.ranks_{method}", sentence, *numbers, len(table), numbers.clear, "summary"))
    return found


def _nothing_chosen(summary: pd.DataFrame) -> list[Finding]:
    """Methods for which no run kept what had to be kept, in all seeds or in some: their numbers are of the others."""
    rows = summary[(summary["point"] == "selected") & (summary["attack"] == "full")]
    found = []
    for (method, rank), part in rows.groupby(["method", "rank"], sort=False):
        missing = int((part["found"] == 0).sum())
        if missing:
            name, seeds = shown(str(method), int(str(rank))), counted(len(part), "seed")
            where = f"in {missing} of {seeds}; its numbers are of the others" if missing < len(part) else f"({seeds})"
            sentence = f"No run of {name} kept what had to be retained {where}."
            key = f"recovery.{method}_{rank}_none"
            found.append(Finding(key, sentence, *UNKNOWN, len(part), False, "summary"))
    return found


TOPIC = Topic(
    "Recovery",
    about="what comes back after unlearning",
    tables=(
        Collected("unlearn", collect_unlearn, inputs=("runs",), settings=SETTINGS),
        Collected("rtt", collect_rtt, inputs=("attacks",), settings=SETTINGS),
        Collected("summary", collect_summary, inputs=("attacks", "chosen", "kept"), settings=SETTINGS),
    ),
    reads=("summary",),
)
