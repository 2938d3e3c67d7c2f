"""Which facts the methods miss, with their text: what an average over facts does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from editlab.analysis.guarded import read_cases
from editlab.analysis.wording import label
from editlab.data.requests import EditRequest
from editlab.errors import DataError

COLUMNS = ["case_id", "relation", "prompt", "target_true", "target_new", "streams", "ES", "PS", "NS", "missed_by"]
PROBES = {"ES": "rewrite", "PS": "paraphrase", "NS": "neighborhood"}


def missed_facts(
    cells: Sequence[tuple[str | Path, Mapping[str, str]]],
    requests: Mapping[str, EditRequest],
    controls: Sequence[str] = (),
    limit: int = 50,
) -> pd.DataFrame:
    """The edited facts that came out worst, over all streams that edited them.

    Args:
        cells: (directory, coordinates) of finished cells.
        requests: by case id.
        controls: methods that are left out.
        limit: rows at most.

    Returns:
        :data:`COLUMNS`, worst first: only facts whose rewrite or paraphrases failed somewhere. ``missed_by``: the methods
        whose final model still prefers the old object on the rewrite prompt in at least one stream.

    Raises:
        DataError: a cell has a fact that ``requests`` lacks.
    """
    tables = [
        read_cases(directory).assign(method=cell["method"])
        for directory, cell in cells
        if cell["method"] not in controls
    ]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    cases = pd.concat(tables, ignore_index=True)
    scores = cases.pivot_table(index="case_id", columns="probe", values="success", aggfunc="mean")
    rewrite = cases[cases["probe"] == "rewrite"]
    streams = rewrite.groupby("case_id").size()
    failed = (
        rewrite[rewrite["success"] < 0.5]
        .groupby("case_id")["method"]
        .agg(lambda m: ", ".join(map(label, sorted(set(m)))))
    )
    rows = []
    for case, found in scores.iterrows():
        if str(case) not in requests:
            raise DataError(f"{case}: in a cell, but not in the data set; the cells were made from other requests")
        request = requests[str(case)]
        values = {name: float(found.get(probe, float("nan"))) for name, probe in PROBES.items()}
        if not min(values["ES"], values["PS"]) < 1:
            continue
        fact = [case, request.relation_id, request.rewrite_prompt, request.target_true, request.target_new]
        rows.append([*fact, int(streams.get(case, 0)), *values.values(), failed.get(case, "")])
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.sort_values(["ES", "PS", "NS", "case_id"], kind="stable").head(limit).reset_index(drop=True)
