"""Figures, printed tables and their captions through the workflow: whole, the same twice, and true to a changed cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_tables import write_benchmarks

from editlab.files.provenance import record_outputs

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("workflow")]
FIGURE, TABLE, TIMES = "results/figures/method_comparison", "results/tables/methods", "results/tables/costs"
CAPTIONS = [f"{n}.{s}".replace("results/", "results/captions/") for n in (FIGURE, TABLE) for s in ("rst", "tex")]
CELL = "results/edit/edit/substrate/facts/method~memit/batch~4/replay~0/rank~0/seed~1"


def made(workflow) -> dict[str, bytes]:
    """The files of a figure and a table, by name."""
    names = [f"{FIGURE}.pdf", f"{FIGURE}.png", f"{TABLE}.csv", f"{TABLE}.tex", *CAPTIONS]
    return {name: workflow.read(name) for name in names}


def test_a_cell_that_was_altered_and_accepted_changes_what_depends_on_it(copied):
    targets = (f"{FIGURE}.png", f"{TABLE}.csv", f"{TIMES}.csv")
    copied.run(*targets)
    assert copied.jobs(*targets) == {}
    first, times = made(copied), copied.read(f"{TIMES}.csv")
    for name in first:
        (copied.root / name).unlink()
    copied.run(*targets)
    assert made(copied) == first
    metrics = copied.root / CELL / "metrics.csv"
    lines = metrics.read_text().splitlines()
    changed = [
        f"{line.rsplit(',', 4)[0]},0.123,8,0.1,0.2" if line.startswith("final,ES,success") else line for line in lines
    ]
    assert changed != lines
    metrics.write_text("\n".join(changed) + "\n")
    accepted = copied.python("-m", "editlab.files.verify", CELL, "--accept")
    assert f"accepted as it is: {CELL}/metrics.csv" in accepted.stdout
    done = copied.run(*targets)
    jobs = copied.job_counts(done)
    assert jobs["collect_table"] >= 1
    assert "edit_cell" not in jobs
    second = made(copied)
    assert {name for name in first if first[name] == second[name]} <= set(CAPTIONS)
    assert b"0.123" in second[f"{TABLE}.csv"]
    assert copied.read(f"{TIMES}.csv") == times


def test_report_lists_what_the_study_has(copied):
    jobs = copied.jobs("all")
    drawn = {"method_comparison", "method_radar", "batch_size", "replay_batch_heatmap", "forgetting_curves"}
    drawn |= {"portability_by_method", "streams"}
    assert jobs["draw_figure"] == len(drawn | {"retention_by_age", "time_split", "replay_gain", "layer_importance"})
    assert jobs["make_findings"] == jobs["write_summary"] == 1
    assert jobs["write_page"] == 3
    assert jobs["make_table"] == len(
        (
            "methods",
            "ablation",
            "batch_effect",
            "replay_effect",
            "costs",
            "baselines",
            "quick_validation",
            "replay_ablation",
            "missed_facts",
            "portability",
            "streams",
            "streams_on_the_way",
        )
    )
    tables = {"ablation_matrix", "comparisons", "quick_validation", "baseline_comparison", "replay_ablation"}
    views = {"replay_gain", "curves", "costs", "indirect_effects", "missed_facts", "portability"}
    assert jobs["collect_table"] == len(tables | views) - sum(
        (copied.root / f"results/{t}.csv").exists() for t in tables
    )


def test_speed_is_measured_where_the_study_asks_for_it(copied):
    assert "measure_speed" not in copied.jobs("all")
    asked = copied.jobs("all", "--config", "edit={measure_speed: true}")
    assert asked["measure_speed"] == 1
    assert asked["collect_table"] == copied.jobs("all")["collect_table"] + 1
    assert asked["draw_figure"] == copied.jobs("all")["draw_figure"] + 1


def test_a_record_beside_what_was_measured_is_not_collected(copied, monkeypatch):
    """The workflow's own measurement has a provenance in the same folder."""
    monkeypatch.chdir(copied.root)
    write_benchmarks(Path("results/benchmarks"))
    record_outputs(["results/benchmarks/targets.json"], {})
    copied.run("results/speed.csv")
    assert b"one by one" in copied.read("results/speed.csv")
    assert copied.jobs("results/speed.csv") == {}
