"""Retention over edits a dimension: curves that fall on one another are told from curves that do not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from report_tables import capacity_tables

from editlab.analysis.edit import REPORT, capacity
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Tables
from editlab.files.artifacts import write_csv, write_provenance


def verdicts(table: pd.DataFrame) -> dict[str, bool]:
    found = {f.key.removeprefix("capacity."): f.supported for f in capacity.findings({"capacity": table})}
    return {key: sure for key, sure in found.items() if not key.startswith("between")}


def test_widths_agree_at_equal_load_and_differ_at_equal_edits_where_capacity_is_the_cause():
    found = verdicts(capacity_tables(np.random.default_rng(0))["capacity"])
    assert set(found) == {
        f"{c}_{m}_{f}" for c in ("load", "edits_seen") for m in ("memit", "alphaedit") for f in (1, 5)
    }
    assert not any(sure for key, sure in found.items() if key.startswith("load"))
    assert all(sure for key, sure in found.items() if key.startswith("edits_seen"))


def test_and_the_other_way_round_where_it_is_not():
    table = capacity_tables(np.random.default_rng(0))["capacity"]
    noise = np.random.default_rng(1).normal(0, 0.01, len(table))
    found = verdicts(table.assign(value=1 - 0.5 * table["edits_seen"] / 768 + noise))
    assert all(sure for key, sure in found.items() if key.startswith("load"))
    assert not any(sure for key, sure in found.items() if key.startswith("edits_seen"))


def test_the_table_knows_the_width_and_the_world_of_each_experiment(tmp_path):
    settings = {
        "experiments": {f"capacity_{w}_1": {"model": f"w{w}", "dataset": "single"} for w in (256, 512)},
        "models": {"w256": {"inner": 256, "width": 128}, "w512": {"inner": None, "width": 128}},
        "datasets": {"single": {"facts_a_subject": 1}},
    }
    cells = {}
    for name in settings["experiments"]:
        cell = {"method": "memit", "batch": "32", "replay": "0", "rank": "0", "seed": "1"}
        directory = tmp_path / name / "model" / "facts" / "cell"
        directory.mkdir(parents=True)
        curve = [(32, "retention_accuracy", 0.5, 32), (32, "perplexity", 4.0, 1)]
        write_csv(directory / "curve.csv", pd.DataFrame(curve, columns=["edits_seen", "metric", "value", "n"]))
        write_provenance(directory, {}, ["curve.csv"])
        cells[name] = [(str(directory), cell)]
    table = capacity.capacity_table(Run("capacity", settings, cells))
    assert table[["inner", "facts_a_subject"]].to_numpy().tolist() == [[256, 1], [512, 1]]
    assert set(table["metric"]) == {"retention_accuracy"}


def test_the_ticks_of_the_figure_are_plain_numbers():
    table = capacity_tables(np.random.default_rng(0))["capacity"]
    drawn = REPORT.figures["capacity_curves"][1].drawn(table)
    drawn.canvas.draw()
    shown = {tick.get_text() for axis in drawn.axes for tick in axis.get_xticklabels()}
    assert shown
    assert all(text == "" or float(text) > 0 for text in shown)


def test_two_methods_are_compared_on_the_same_streams():
    table = capacity_tables(np.random.default_rng(0))["capacity"]
    table = table.assign(
        value=0.1 + 0.1 * (table["method"] == "alphaedit") + 0.2 * table["seed"]
    )  # seeds differ far more
    found = {f.key: f for f in REPORT.topic("capacity").findings(Tables({"capacity": table}))}
    one, other = found["capacity.between_1_retention_accuracy"], found["capacity.between_5_retention_accuracy"]
    assert one.supported
    assert other.supported
    assert "differs from MEMIT's on the same streams by +0.10 (+0.10 to +0.10) at 256 dimensions" in one.sentence
