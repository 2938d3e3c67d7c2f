"""The small runs of the unlearning and the adapters study, from end to end: every rule, table, figure and sentence."""

from __future__ import annotations

import json

import pandas as pd
import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("smoke")]

TABLES = {
    "unlearning": {"unlearn", "rtt", "summary"},
    "adapters": {"adapters", "adapter_margins", "merge", "retrieval"},
}


@pytest.mark.parametrize("study", TABLES)
def test_a_small_run_from_end_to_end(separate, study):
    name = f"{study}_smoke"
    configfile = f"runs/{name}.yaml"
    separate.run(configfile=configfile)
    out = separate.root / "results" / name
    made = {path.stem for path in out.glob("*.csv")}
    assert TABLES[study] <= made, made
    assert all(len(pd.read_csv(out / f"{table}.csv")) for table in TABLES[study])
    findings = json.loads((out / "findings.json").read_text())
    assert {finding["study"] for finding in findings} == {study}
    assert list((out / "figures").glob("*.png"))
    assert separate.jobs(configfile=configfile) == {}
