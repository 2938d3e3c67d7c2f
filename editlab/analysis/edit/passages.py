"""Paraphrases behind other text: whether an edit answers where its question stands in a passage.

CounterFact puts text from elsewhere before some of its paraphrases: ``A summer day. Ann lives in``. These ask for other facts
than the paraphrases that stand alone, so that methods are compared within a kind; what a method loses from one kind to the other
is also the facts' doing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.edit.cells import read_cases
from editlab.analysis.edit.printing import METHOD
from editlab.analysis.edit.scores import CONTROLS, SETTING, headline, named, over
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Cells, Run
from editlab.analysis.report.topic import FIRST, Collected, Tables, Topic, sheet
from editlab.analysis.statistics.intervals import Interval, beside, grouped, pooled, wilson
from editlab.analysis.statistics.streams import over_streams
from editlab.analysis.text.findings import Finding, leader_finding
from editlab.data import load_requests
from editlab.data.requests import EditRequest
from editlab.errors import DataError

SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s")
COLUMNS = [*SETTING, "seed", "place", "success", "accuracy", "n"]
ALONE, BEHIND = "alone", "behind"
SAID = {ALONE: "paraphrases that stand alone", BEHIND: "paraphrases behind other text"}


def places(requests: Sequence[EditRequest]) -> dict[str, str]:
    """By case id where its paraphrases stand: :data:`BEHIND` a sentence that ended before the subject is named, or :data:`ALONE`.

    Facts with both kinds, or with a paraphrase that does not name the subject, are left out.
    """
    found = {}
    for request in requests:
        before = [prompt.partition(request.subject) for prompt in request.paraphrase_prompts]
        kinds = {bool(SENTENCE_END.search(text)) if named else None for text, named, _ in before}
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
    """Success at the headline settings, seeds together: one row a (setting, place) with value, low, high, seeds, n."""
    low, high = wilson(table["success"], table["n"])

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = pooled(part["success"], part["low"], part["high"])
        return {**found._asdict(), "seeds": len(part), "n": int(part["n"].sum())}

    keys = [*SETTING, "place"]
    return grouped(
        headline(table.assign(low=low, high=high)), keys, told, columns=[*keys, "value", "low", "high", "seeds", "n"]
    )


def _both(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells that have paraphrases of both kinds."""
    return table[table.groupby([*SETTING, "seed"])["place"].transform("nunique") == 2]


@sheet("passages", "Paraphrases behind other text", "passages", level=7)
def passages_sheet(tables: Tables) -> Printed:
    """Success on paraphrases alone and behind other text, and the difference stream by stream; one row a method."""
    table = _both(tables["passages"])
    rows = by_place(table)
    frame = rows[list(SETTING)].drop_duplicates()
    for kind in SAID:
        renamed = {"value": kind, "low": f"{kind}_low", "high": f"{kind}_high"}
        part = rows.loc[rows["place"] == kind, [*SETTING, *renamed]].rename(columns=renamed)
        frame = frame.merge(part, on=list(SETTING), how="left")

    def told(part: pd.DataFrame) -> dict[str, Any]:
        wide = part.pivot(index="seed", columns="place", values=["success", "accuracy"])
        found = over_streams(wide["success", BEHIND] - wide["success", ALONE])
        means: Mapping[str, float] = {f"{kind}_exact": float(wide["accuracy", kind].mean()) for kind in SAID}
        return {**means, **beside({"difference": Interval(found.value, found.low, found.high)}), "seeds": len(wide)}

    if len(table):
        frame = frame.merge(grouped(headline(table), SETTING, told), on=list(SETTING), how="left")
    frame = frame.sort_values(BEHIND, ascending=False, kind="stable")
    last = frame["method"].isin(CONTROLS)
    columns = [Column(ALONE, "PS alone"), Column(BEHIND, "PS behind"), Column("difference", "difference", "difference")]
    exact = [Column(f"{kind}_exact", f"{kind}, exact") for kind in SAID]
    legend = (
        "Success on paraphrases that stand alone and on those behind text from elsewhere, after the stream, with "
        f"{over(rows)}; exact: the answer itself. The two kinds ask for other facts, so that a difference is the doing "
        "of both, the passage and the facts; methods can be compared within a kind."
    )
    if table.empty:
        legend = "No method was asked for facts of both kinds: none of the paraphrases, or every one, stands behind other text."
    return Printed(frame.iloc[last.argsort(kind="stable")], [METHOD, *columns, *exact], legend)


def findings(tables: Tables) -> Iterator[Finding]:
    """Who is ahead in each kind."""
    if tables["passages"].empty:
        return
    rows = by_place(_both(tables["passages"]))
    rows = rows[~rows["method"].isin(CONTROLS)]
    for kind, what in SAID.items():
        ordered = rows[rows["place"] == kind].sort_values("value", ascending=False, kind="stable")
        if len(ordered):
            yield leader_finding(
                f"passages.{kind}", named(ordered), f"success on {what}", int(ordered["n"].max()), "passages"
            )


TOPIC = Topic(
    "Behind other text",
    tables=(Collected("passages", _collect, (FIRST,), ("cases.csv",), inputs=("records",)),),
    reads=("passages",),
    sentences=2,
)
