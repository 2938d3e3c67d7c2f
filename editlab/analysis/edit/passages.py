"""Paraphrases behind other text: which method answers where its question stands in a passage.

CounterFact puts text from elsewhere before most of its paraphrases: ``A summer day. Ann lives in``. These ask for other facts
and in other words than the paraphrases of a file that stand alone: methods are compared within a kind, no kind with the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.edit.cells import read_cases
from editlab.analysis.edit.portability import FEW
from editlab.analysis.edit.printing import METHOD
from editlab.analysis.edit.scores import CONTROLS, SETTING, headline, named, over
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells, Run
from editlab.analysis.report.topic import FIRST, Collected, Tables, Topic, sheet
from editlab.analysis.statistics.intervals import UNKNOWN, beside, grouped, pooled, wilson
from editlab.analysis.text.findings import Finding, leader_finding
from editlab.data import load_requests
from editlab.data.requests import EditRequest
from editlab.errors import DataError

TEXT_END = re.compile(r"[.!?][\"')\]]*\s|\n")
COLUMNS = [*SETTING, "seed", "place", "success", "accuracy", "n"]
ALONE, BEHIND = "alone", "behind"
SAID = {ALONE: "paraphrases that stand alone", BEHIND: "paraphrases behind other text"}
ASKED = {"success": ("PS", "success"), "accuracy": ("exact", "exact answers")}


def places(requests: Sequence[EditRequest]) -> dict[str, str]:
    """By case id where its paraphrases stand: :data:`BEHIND` a sentence or a line that ended before the subject is named, or
    :data:`ALONE`.

    Facts with both kinds, or with a paraphrase that does not name the subject, are left out.
    """
    found = {}
    for request in requests:
        before = [prompt.partition(request.subject) for prompt in request.paraphrase_prompts]
        kinds = {bool(TEXT_END.search(text)) if named else None for text, named, _ in before}
        if len(kinds) == 1 and None not in kinds:
            found[request.case_id] = BEHIND if kinds.pop() else ALONE
    return found


def passages(cells: Cells, requests: Sequence[EditRequest]) -> pd.DataFrame:
    """Success and exact answers on paraphrases of both kinds after the last edit, one row a (cell, kind): :data:`COLUMNS`.

    Raises:
        DataError: a cell has a fact that ``requests`` lacks.
    """
    known, place = {request.case_id for request in requests}, places(requests)
    rows = []
    for directory, cell in cells:
        cases = read_cases(directory)
        if unknown := set(cases["case_id"]) - known:
            raise DataError(
                f"{min(unknown)}: in a cell, but not in the data set; the cells were made from other requests"
            )
        asked = cases[cases["probe"] == "paraphrase"]
        for kind, part in asked.groupby(asked["case_id"].map(place)):
            means = part[["success", "accuracy"]].mean()
            rows.append({**cell, "place": kind, **means, "n": len(part)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _collect(run: Run) -> pd.DataFrame:
    requests = [request for path in run.inputs["records"] for request in load_requests(path)]
    return passages(next(iter(run.cells.values())), requests)


def by_place(table: pd.DataFrame) -> pd.DataFrame:
    """Both scores at the headline settings, seeds together: one row a (setting, place) that :data:`FEW` cases or more stand for,
    with success, success_low, success_high, accuracy, ..., seeds, n."""
    ends = {
        name: dict(zip((f"{name}_low", f"{name}_high"), wilson(table[name], table["n"]), strict=True)) for name in ASKED
    }
    table = table.assign(**{end: values for pair in ends.values() for end, values in pair.items()})

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = {name: pooled(part[name], part[f"{name}_low"], part[f"{name}_high"]) for name in ASKED}
        return {**beside(found), "seeds": len(part), "n": int(part["n"].sum())}

    keys = [*SETTING, "place"]
    rows = grouped(table, keys, told, columns=[*keys, *beside(dict.fromkeys(ASKED, UNKNOWN)), "seeds", "n"])
    return headline(rows[rows["n"] >= FEW])


@sheet("passages", "Paraphrases behind other text", "passages", level=7)
def passages_sheet(tables: Tables) -> Printed:
    """Success and exact answers on paraphrases alone and behind other text; one row a method, controls last."""
    rows = by_place(tables["passages"])
    frame, columns, legend = rows[list(SETTING)].drop_duplicates(), [], []
    for kind, what in SAID.items():
        part = rows[rows["place"] == kind]
        if part.empty:
            continue
        names = {f"{name}{end}": f"{kind}_{name}{end}" for name in ASKED for end in ("", "_low", "_high")}
        frame = frame.merge(part[[*SETTING, *names]].rename(columns=names), on=list(SETTING), how="left")
        columns += [Column(f"{kind}_{name}", f"{title} {kind}") for name, (title, _) in ASKED.items()]
        legend.append(f"on {what}, with {over(part)}")
    if columns:
        frame = frame.sort_values(columns[-2].name, ascending=False, kind="stable")
        frame = frame.iloc[frame["method"].isin(CONTROLS).argsort(kind="stable")]
    told = (
        f"Success (PS) and exact answers after the stream {' and '.join(legend)}."
        if legend
        else "Too few paraphrases to tell."
    )
    other = (
        " The two kinds ask for other facts in other words: methods can be compared within a kind."
        if len(legend) > 1
        else ""
    )
    return Printed(frame, [METHOD, *columns], told + other)


def findings(tables: Tables) -> Iterator[Finding]:
    """Who is ahead behind other text, by both scores, where a run has both kinds."""
    if tables["passages"].empty:
        return
    rows = by_place(tables["passages"])
    if set(rows["place"]) != set(SAID):
        return
    rows = rows[(rows["place"] == BEHIND) & ~rows["method"].isin(CONTROLS)]
    for name, (_, what) in ASKED.items():
        ordered = rows.sort_values(name, ascending=False, kind="stable")
        said, n = f"share of {what} on {SAID[BEHIND]}", int(ordered["n"].max())
        yield leader_finding(f"passages.{name}", named(ordered, name), said, n, "passages")


TOPIC = Topic(
    "Behind other text",
    tables=(Collected("passages", _collect, (FIRST,), ("cases.csv",), inputs=("records",)),),
    reads=("passages",),
    sentences=2,
)
