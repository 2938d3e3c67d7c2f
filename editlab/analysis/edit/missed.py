"""Which facts the methods miss, with their text: what an average over facts does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from editlab.analysis.edit.cells import read_cases
from editlab.analysis.edit.scores import without_effect
from editlab.analysis.paper.tabular import Printed, columns_of
from editlab.analysis.report.run import Cells, Run
from editlab.analysis.report.topic import FIRST, Collected, Tables, Topic, sheet
from editlab.analysis.statistics.intervals import Interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, label
from editlab.data import load_requests
from editlab.data.requests import EditRequest
from editlab.errors import DataError

COLUMNS = ["case_id", "relation", "prompt", "target_true", "target_new", "streams", "ES", "PS", "NS", "missed_by"]
NONE_MISSED = "No edited fact failed on its rewrite prompt or its paraphrases."
MOST = 50
PROBES = {"ES": "rewrite", "PS": "paraphrase", "NS": "neighborhood"}


def missed_facts(cells: Cells, requests: Mapping[str, EditRequest], controls: Sequence[str] = ()) -> pd.DataFrame:
    """The edited facts with the worst scores, over all streams that edited them.

    Args:
        requests: by case id.
        controls: methods that are left out.

    Returns:
        :data:`COLUMNS`, worst first, :data:`MOST` at most: only facts whose rewrite or paraphrases failed somewhere.
        ``missed_by``: the methods whose final model still prefers the old object on the rewrite prompt in some stream.

    Raises:
        DataError: a cell has a fact that ``requests`` lacks.
    """
    tables = [read_cases(d).assign(method=cell["method"]) for d, cell in cells if cell["method"] not in controls]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    cases = pd.concat(tables, ignore_index=True)
    scores = cases.pivot_table(index="case_id", columns="probe", values="success", aggfunc="mean")
    rewrite = cases[cases["probe"] == "rewrite"]
    streams = rewrite.groupby("case_id").size()
    lost = rewrite[rewrite["success"] < 0.5].groupby("case_id")["method"]
    failed = lost.agg(lambda m: ", ".join(map(label, sorted(set(m)))))
    rows = []
    for case, found in scores.iterrows():
        if str(case) not in requests:
            raise DataError(f"{case}: in a cell, but not in the data set; the cells were made from other requests")
        request = requests[str(case)]
        values = {name: float(found.get(probe, float("nan"))) for name, probe in PROBES.items()}
        if min(values["ES"], values["PS"]) < 1:
            fact = [case, request.relation_id, request.rewrite_prompt, request.target_true, request.target_new]
            rows.append([*fact, int(streams.get(case, 0)), *values.values(), failed.get(case, "")])
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.sort_values(["ES", "PS", "NS", "case_id"], kind="stable").head(MOST).reset_index(drop=True)


def _collect(run: Run) -> pd.DataFrame:
    requests = {r.case_id: r for path in run.inputs["requests"] for r in load_requests(path)}
    return missed_facts(next(iter(run.cells.values())), requests, without_effect(run.settings))


def findings(tables: Tables) -> Iterator[Finding]:
    """How many facts are missed in most of their streams, and how bad the worst is."""
    missed = tables["missed_facts"]
    if missed.empty:
        yield Finding("missed.facts", NONE_MISSED, *Interval(0.0), 0, True, "missed_facts")
        return
    lost, worst = missed[missed["ES"] < 0.5], missed.iloc[0]
    sentence = (
        f"Averages hide that misses are not spread evenly: {counted(len(lost), 'fact')} kept the old object in more than half "
        f"of the streams that edited {'it' if len(lost) == 1 else 'them'}, the worst with an efficacy of {worst['ES']:.2f} over "
        f"{counted(int(worst['streams']), 'stream')}."
    )
    yield Finding("missed.facts", sentence, *Interval(float(len(lost))), len(missed), True, "missed_facts")


@sheet("missed_facts", "Missed facts", "missed_facts")
def missed_sheet(tables: Tables) -> Printed:
    """The list for people: what a spreadsheet could run as a formula is defused in this copy."""
    missed = tables["missed_facts"]
    names = ("prompt", "target_true", "target_new")
    columns = columns_of({name: name.replace("_", " ") for name in names}, "text") + columns_of({s: s for s in PROBES})
    return Printed(missed, columns, f"The {counted(len(missed), 'edited fact')} with the worst scores.")


TOPIC = Topic(
    "Missed facts",
    tables=(Collected("missed_facts", _collect, (FIRST,), ("cases.csv",), ("requests",), settings=("methods",)),),
    reads=("missed_facts",),
)
