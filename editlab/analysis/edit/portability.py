"""What follows from an edit: aliases, other wordings, inverse relations, two hops; and the edited facts written freely.

Every method stands beside two controls: the unedited model, and a model that was trained on the new facts
(:mod:`editlab.editing.control`). Where the trained one fails too, the probe measures the model and not the edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, forest
from editlab.analysis.draw.style import DARK
from editlab.analysis.edit.printing import BATCH, METHOD
from editlab.analysis.edit.scores import CONTROLS, SETTING, TRAINED, at, headline, over, with_batch
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics import intervals
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, beside, grouped, largest, pooled, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, label, level_with, listed
from editlab.files.artifacts import read_verified

UNEDITED = "none"
LAST = ("random", "shuffled", UNEDITED, TRAINED)  # controls in the order in which they follow the methods
OUTSIDE = {*CONTROLS, TRAINED}
SAID = {  # what follows from an edit, in words
    "Subject_Aliasing": "questions by an alias of the subject",
    "Question_Form": "questions in another form",
    "Logical_Generalization": "inverse questions",
    "multi_hop": "questions over two hops",
}
KINDS = dict(zip(SAID, ("alias", "question", "inverse", "two hops"), strict=True))  # in print

LOOKS = (("#0072B2", "o"), ("#009E73", "^"), ("#D55E00", "s"), ("#000000", "D"))
KEPT, WRITTEN = "Relation_Specificity", "generation"
GUESS = "{}_guess"  # the trained control's answers against those of another case of the relation
NAMES = {**KINDS, KEPT: "same subject", WRITTEN: "written"}
MEASURES = ("accuracy", "exact", "contained", "gap")
MEASURE = "exact"
# Cases over all seeds below which a share is not told: even of none or all right, Wilson's interval is wider than .16.
FEW = 20
COLUMNS = [*SETTING, "seed", "metric", "protocol", "value", "n", "ci_low", "ci_high"]


def portability_table(run: Run) -> pd.DataFrame:
    """Scores of all probes, long: one row a (cell, metric, measure); the trained control has the method ``trained``."""
    parts = [pd.read_csv(read_verified(Path(d) / "metrics.csv")).assign(**cell) for d, cell in run.cells["edit"]]
    place: dict[str, Any] = {"method": TRAINED, "batch": "1", "replay": "0", "rank": "0"}
    parts += [pd.read_csv(file).assign(**place) for file in run.inputs.get("trained_control", ())]
    table = pd.concat(parts, ignore_index=True)
    final = table["when"].eq("final") | table["when"].isna() if "when" in table else np.ones(len(table), dtype=bool)
    kept = table[final & table["protocol"].isin(MEASURES) & ~table["metric"].isin(("ES", "PS", "NS", "S"))]
    return kept.reindex(columns=COLUMNS).reset_index(drop=True)


def by_probe(table: pd.DataFrame) -> pd.DataFrame:
    """One row a (setting, kind of probe) at the headline settings, seeds together, the controls last.

    Returns:
        columns of the setting, metric, value, low, high, seeds, n (probed cases of all seeds). Intervals are over cases and
        seeds, and at least as wide as Wilson's: none of few cases right is not surely none. Fewer than :data:`FEW` cases
        have NaN for a value.
    """

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found, n = pooled(part["value"], part["ci_low"], part["ci_high"]), int(part["n"].sum())
        number = found.covering(intervals.share_interval(found.value, n)) if n >= FEW else UNKNOWN
        return {**number._asdict(), "seeds": part["seed"].nunique(), "n": n}

    wanted = [*NAMES, *map(GUESS.format, KINDS)]
    chosen = headline(table[table["metric"].isin(wanted) & (table["protocol"] == MEASURE) & (table["n"] > 0)])
    keys = [*SETTING, "metric"]
    rows = grouped(chosen, keys, told, columns=[*keys, *Interval._fields, "seeds", "n"])
    last = rows["method"].map({name: place for place, name in enumerate(LAST)}).fillna(-1)
    return rows.iloc[last.argsort(kind="stable")].reset_index(drop=True)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """One row a method, the controls last: a column a kind of probe with its interval, and the gap."""
    gaps = table[(table["metric"] == WRITTEN) & (table["protocol"] == "gap")]

    def told(part: pd.DataFrame) -> dict[str, Any]:
        gap = at(gaps, part)
        bounds = pooled(gap["value"], gap["ci_low"], gap["ci_high"], bounds=(-1.0, 1.0))
        found: dict[str, Any] = {}
        for row in records(part):
            found |= beside({row["metric"]: Interval.of(row)}) | {f"{row['metric']}_n": row["n"]}
        return {**found, **beside({"gap": bounds}), "seeds": int(part["seeds"].max()), "n": int(part["n"].max())}

    return grouped(by_probe(table), SETTING, told)


@figure(
    "What follows from an edit",
    "portability",
    lambda rows: (
        f"Share of probes answered by exact match of the written answer, with {over(rows)}, at least as "
        f"wide as Wilson's; a probe counts where the unedited model knows what it stands on."
    ),
    rows=lambda table: by_probe(table).dropna(subset="value"),  # without what too few cases stand for
    empty="No probe was scored.",
    cites=("portability.control_*", "portability.best_*"),
    level=5,
)
def portability_by_method(rows: pd.DataFrame) -> Drawing:
    """One row a method, one mark a kind of probe; the controls are the last rows."""
    methods = {str(row["method"]): row for row in records(rows)}
    order = list(methods)
    shown = ["trained on it" if method == TRAINED else with_batch(row) for method, row in methods.items()]
    kinds = [kind for kind in KINDS if kind in set(rows["metric"])]
    series = []
    for place, (kind, (color, marker)) in enumerate(zip(kinds, LOOKS, strict=False)):
        part, look = rows[rows["metric"] == kind], {"color": color, "marker": marker}
        y = part["method"].map(order.index) + 0.2 * (place - (len(kinds) - 1) / 2)
        series.append((NAMES[kind], part, y, look))
    height, what = 0.7 + 0.23 * len(order), "share of probes answered rightly"
    figure, axis = forest(shown, series, height, what, columns=4)
    axis.axhline(sum(method not in LAST for method in order) - 0.5, color=DARK, linewidth=0.7)
    return figure


@sheet("portability", "What follows from an edit", "portability", level=3)
def portability_sheet(tables: Tables) -> Printed:
    """All methods, the unedited model and the trained one: a column a kind of probe."""
    frame = side_by_side(tables["portability"])
    counts = {title: int(frame[f"{name}_n"].max()) for name, title in NAMES.items() if f"{name}_n" in frame}
    told = [f"{title} {count:,}{'' if count >= FEW else ' (too few to tell)'}" for title, count in counts.items()]
    columns = [METHOD, BATCH, *(Column(name, title) for name, title in NAMES.items()), Column("gap", "gap")]
    legend = (
        f"Share of probes answered after the stream, by exact match of what the model writes, with {over(frame)}, "
        f"at least as wide as Wilson's. Alias, question, inverse and two hops ask for what follows "
        "from the new fact; same subject: its other facts, which must stay; written: the new fact itself; gap: accuracy under "
        "teacher forcing less exact match. A probe counts where the unedited model knows what it stands on. Controls stand "
        "last: noise, dealt-out targets, the unedited model, and one trained from scratch on the new facts, without what "
        f"follows from them. Cases that a row stands on, at most: {', '.join(told)}; no number where there are fewer than {FEW}."
    )
    return Printed(frame, columns, legend)


def findings(tables: Tables) -> Iterator[Finding]:
    """What the controls answer, which method carries over best, what happens to the subject's other facts, and the gap."""
    table = tables["portability"]
    every = by_probe(table)
    rows = every.dropna(subset="value")
    for kind in KINDS:
        yield from _control(rows, kind)
        yield from _best(rows, kind)
    for kind in KINDS:
        yield from _few(table, every, kind)
    yield from _kept(rows)
    yield from _gap(side_by_side(table))


def _one(rows: pd.DataFrame, method: str, metric: str) -> Interval | None:
    """What a control scores on a kind of probe, if it was asked."""
    found = rows[(rows["method"] == method) & (rows["metric"] == metric)]
    return Interval.of(found.iloc[0]) if len(found) else None


def _ranked(rows: pd.DataFrame, metric: str) -> list[tuple[str, Interval, int]]:
    """Name, number and n of the contestants, the best first."""
    inside = rows[(rows["metric"] == metric) & ~rows["method"].isin(OUTSIDE)]
    ordered = records(inside.sort_values("value", ascending=False, kind="stable"))
    return [(label(row["method"]), Interval.of(row), int(row["n"])) for row in ordered]


def _control(rows: pd.DataFrame, kind: str) -> Iterator[Finding]:
    """What a model that was trained on the new facts answers: the most that can be asked of an edit."""
    number = _one(rows, TRAINED, kind)
    if number is None:
        return
    named = {
        "the unedited model": _one(rows, UNEDITED, kind),
        "answers of other cases in place of the right ones": _one(rows, TRAINED, GUESS.format(kind)),
    }
    rivals = {name: rival for name, rival in named.items() if rival is not None}
    base = f" ({'; '.join(f'{name}: {level_with(*rival)}' for name, rival in rivals.items())})" if rivals else ""
    answers = all(number.low > rival.high for rival in rivals.values())
    verdict = (
        "a model of this kind can carry a new fact over to them"
        if answers
        else "not measurably more than these, so that they tell nothing against an edit of a model of this kind"
    )
    sentence = f"Of {SAID[kind]}, a model trained on the new facts answers {level_with(*number)}{base}: {verdict}."
    n = int(rows.loc[(rows["method"] == TRAINED) & (rows["metric"] == kind), "n"].iloc[0])
    yield Finding(f"portability.control_{kind}", sentence, *number, n, answers, "portability")


def _few(table: pd.DataFrame, rows: pd.DataFrame, kind: str) -> Iterator[Finding]:
    """Of how many probes the unedited model knows what they stand on, where these are too few to tell anything."""
    chosen = rows[(rows["metric"] == kind) & ~rows["method"].isin(OUTSIDE)]
    if chosen.empty or chosen["value"].notna().any():
        return
    count = int(chosen["n"].max())
    place = headline(table[(table["metric"] == f"{kind}_executed") & (table["protocol"] == MEASURE)])
    asked = int(place.loc[place["method"] == chosen["method"].iloc[0], "n"].sum())
    known = f"{count} of {asked}" if asked else f"{count}"
    sentence = (
        f"Of {SAID[kind]}, the unedited model knows what {known} stand on: too few for a share "
        f"(at least {FEW} are needed), so that nothing is said of them."
    )
    yield Finding(f"portability.few_{kind}", sentence, *Interval(float(count)), count, False, "portability")


def _best(rows: pd.DataFrame, kind: str) -> Iterator[Finding]:
    """The method that answers the most of a kind, beside the trained control."""
    ranked = _ranked(rows, kind)
    if not ranked:
        return
    (name, top, n), *others = ranked
    alike = [other for other, number, _ in others if not top.low > number.high]
    told = f"; its interval overlaps with {listed([f'that of {n}' for n in alike[:3]])}" if alike else ""
    more = f" and {counted(len(alike) - 3, 'other')}" if len(alike) > 3 else ""
    sentence = f"{name} answers the most {SAID[kind]}, {level_with(*top)}{told}{more}."
    sure = top.value > 0 and bool(others) and not alike
    if top.value == 0:
        sentence = f"No method answers any of the {SAID[kind]} ({name}: {level_with(*top)})."
    yield Finding(f"portability.best_{kind}", sentence, *top, n, sure, "portability")


def _kept(rows: pd.DataFrame) -> Iterator[Finding]:
    """How many of the unedited facts of an edited subject are left."""
    ranked = _ranked(rows, KEPT)
    if not ranked:
        return
    (first, best, n), (last, worst, _) = ranked[0], ranked[-1]
    trained = _one(rows, TRAINED, KEPT)
    beside = f"; the model trained on the new facts keeps {level_with(*trained)}" if trained else ""
    sentence = (
        f"Of the other facts of an edited subject, {first} leaves {level_with(*best)} as they were, the most of "
        f"{counted(len(ranked), 'method')}, and {last} the fewest, {level_with(*worst)}{beside}."
    )
    yield Finding("portability.same_subject", sentence, *best, n, best.low > worst.high, "portability")


def _gap(frame: pd.DataFrame) -> Iterator[Finding]:
    """How far teacher forcing flatters the edited fact itself."""
    inside = frame[~frame["method"].isin(OUTSIDE)] if len(frame) else frame
    if inside.empty or inside["gap"].isna().all():
        return
    row = largest(inside, "gap")
    number = Interval.of(row, "gap")
    opening = "flatters {} the most" if number.low > 0 else "flatters no method measurably ({} the most)"
    sentence = (
        f"Teacher forcing {opening.format(label(row['method']))}: its accuracy on the new facts is {level_with(*number)} above "
        "the exact match of what the model writes."
    )
    yield Finding("portability.gap", sentence, *number, int(row["n"]), number.low > 0, "portability")


TOPIC = Topic(
    "What follows from an edit",
    about="what follows from an edit",
    tables=(Collected("portability", portability_table, ("edit",), optional=("trained_control",)),),
    reads=("portability",),
    sentences=4,
)
