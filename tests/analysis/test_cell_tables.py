"""The tables on LoRA, trust, greedy steps and long streams, over real cells of a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from report_tables import write_cells
from tiny import tiny_model, tiny_requests

from editlab.analysis.edit import REPORT
from editlab.analysis.edit import cells as cells_module
from editlab.analysis.edit import decisions as decisions_module
from editlab.analysis.edit.cells import cell_costs, curves_table, final_scores, read_events, stored
from editlab.analysis.edit.comparisons import NAMES, compare, paired_differences
from editlab.analysis.edit.decisions import trust_curves, trust_decisions, trust_table
from editlab.analysis.edit.forgetting import turning_points
from editlab.analysis.edit.greedy import greedy_step_events, greedy_step_table, greedy_table
from editlab.analysis.edit.lora import lora_table
from editlab.analysis.report.making import read_table
from editlab.analysis.report.topic import Tables
from editlab.data.requests import write_requests
from editlab.editing.cell import run_cell
from editlab.errors import ArtifactError, DamagedError, DataError
from editlab.files.artifacts import read_provenance, write_csv, write_provenance
from editlab.moments.stored import save_statistics

COMMON = {"layers": [0], "clamp": 2.0, "steps": 4, "second_moment_weight": 1.0}
LORA = {"solver": "emmet", "backend": "lora", **COMMON}
GREEDY = {"steps": 3, "min_improvement": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "none": {"solver": "none", "layers": [0]},
    "emmet": {"solver": "emmet", **COMMON},
    "emmet_trust": {"solver": "emmet", **COMMON, "trust": {"heldout_samples": 12}},
    "emmet_lora": LORA,
    "emmet_greedy": {**LORA, "trust": {"distance_only": True, "threshold": 0.0, "low": 0.0, "heldout_samples": 8}},
}
METHODS["emmet_greedy"]["greedy"] = GREEDY


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list[tuple[str, dict[str, str]]]:
    home = tmp_path_factory.mktemp("cells")
    inputs = make_inputs(home)
    found = []
    for method in METHODS:
        for seed in (1, 2):
            cell = {
                "method": method,
                "batch": "1" if method == "none" else "4",
                "replay": "0",
                "rank": "3" if "backend" in METHODS[method] else "0",
                "seed": str(seed),
            }
            directory = home / "/".join(f"{k}~{v}" for k, v in cell.items())
            run(inputs, directory, cell)
            found.append((str(directory), cell))
    return found


def make_inputs(home: Path) -> dict[str, Any]:
    model = tiny_model()
    model.save_pretrained(home / "model")
    model.tokenizer.save_pretrained(home / "model")
    write_requests(tiny_requests(120), home / "requests.json")
    (home / "contexts.json").write_text(json.dumps([["{}"], ["Yes. {}"]]))
    keys = torch.randn(256, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    from editlab.algebra.second_moment import SecondMoment

    statistics = home / "layer-0.safetensors"
    save_statistics(statistics, 0, SecondMoment(keys.T @ keys / 256, 256))
    names = {"model": "model", "requests": "requests.json", "contexts": "contexts.json"}
    return {k: str(home / v) for k, v in names.items()} | {"known": None, "statistics": [str(statistics)]}


def plan_of(cell: dict[str, str], **values: Any) -> dict[str, Any]:
    evaluation = {"snapshot_every": 4, "perplexity_sentences": 4, "generation_cases": 0, "resamples": 10}
    return dict(
        recipe=METHODS[cell["method"]],
        batch=int(cell["batch"]),
        replay=float(cell["replay"]),
        rank=int(cell["rank"]),
        seed=int(cell["seed"]),
        num_edits=24,
        known_only=False,
        evaluation=evaluation | values.pop("evaluation", {}),
        loading={},
        stress_fraction=0.0 if cell["method"] == "none" else 0.34,
        label_cases=4 if cell["method"] != "none" else 0,
        **values,
    )


def run(inputs: dict[str, Any], directory: Path, cell: dict[str, str], **values: Any) -> None:
    names = {"metrics": "csv", "cases": "csv", "curve": "csv", "events": "jsonl", "edit": "safetensors"}
    outputs = {k: str(directory / f"{k}.{v}") for k, v in names.items()}
    run_cell(
        plan_of(cell, **values),
        threads=1,
        **inputs,
        layers=None,
        outputs=outputs | {"provenance": str(directory / "provenance.json")},
    )


def test_lora_table_has_scores_size_and_what_the_cuts_kept(cells):
    table = lora_table(cells).set_index(["method", "seed"])
    raw, lora = table.loc["emmet", "1"], table.loc["emmet_lora", "1"]
    assert lora["parameters"] == 3 * (32 + 64)
    assert raw["parameters"] == 32 * 64
    assert raw["bytes"] == 4 * raw["parameters"]
    assert 0 < lora["energy"] <= 1
    assert np.isnan(raw["energy"])
    assert lora["edit_residual"] > raw["edit_residual"]
    assert lora["seconds"] > 0
    assert {"ES", "ES_low", "ES_high", "S", "retention", "perplexity", "guarded"} <= set(table.columns)


def test_paired_comparison_matches_collapsed_ranks_and_seeds(cells):
    table = compare(cells, [("emmet_lora", "emmet"), ("emmet", "emmet_lora")])
    assert table["metric"].tolist() == list(NAMES)  # emmet has no partner of rank 3 the other way round
    assert set(table["seeds"]) == {2}
    assert (table["ci_low"] <= table["value"]).all()
    assert (table["value"] <= table["ci_high"]).all()


def test_a_comparison_tells_how_much_more_is_stored(cells):
    table = compare(cells, [("emmet_greedy", "emmet_lora"), ("emmet_lora", "emmet")])
    size = dict.fromkeys(METHODS, 0)
    for directory, cell in cells:
        size[cell["method"]] += stored(directory)["parameters"]
    assert size["emmet_lora"] < size["emmet"]
    for (a, b), part in table.groupby(["a", "b"]):
        assert part["stored_ratio"].nunique() == 1
        assert part["stored_ratio"].iloc[0] == pytest.approx(size[a] / size[b])


def test_trust_table_holds_decisions_against_the_unguarded_stream(cells):
    table = trust_table(cells)
    assert set(table["method"]) == {"emmet_trust", "emmet_greedy"}
    run_rows = table[table["rule"] == "as run"]
    assert len(run_rows) == 4
    assert len(table) == 4 * (1 + len(decisions_module.THRESHOLDS))
    assert (run_rows["overhead"] > 0).all()
    assert run_rows["accuracy"].between(0, 1).all()
    base = final_scores(next(d for d, c in cells if c["method"] == "emmet" and c["seed"] == "1"))
    assert run_rows.iloc[0]["retention_unguarded"] == base["retention"]
    low, high = (table[table["rule"] == f"re-scored at {t}"]["rollback_rate"].mean() for t in (0.2, 0.6))
    assert low <= high


def test_trust_table_without_the_cells_to_compare_with(cells):
    guarded_cells = [(d, c) for d, c in cells if c["method"] == "emmet_trust"]
    table = trust_table(guarded_cells)
    assert table["accuracy"].between(0, 1).all()
    assert table[["retention_gain", "ppl_rise_cut"]].isna().all().all()


def test_decisions_and_steps_one_row_each(cells):
    decided = trust_decisions(cells)
    assert set(decided["method"]) == {"emmet_trust", "emmet_greedy"}
    assert len(decided) == 4 * 6  # batches of four cells
    assert {"number", "batch", "trust", "harmful", "seed"} <= set(decided.columns)
    assert decided["batch"].eq("4").all()
    assert trust_decisions([c for c in cells if c[1]["method"] == "none"]).empty
    steps = greedy_step_events(cells)
    assert len(steps) == greedy_step_table(cells)["tried"].sum()
    assert greedy_step_events([c for c in cells if c[1]["method"] == "none"]).empty


def test_trust_curves_pool_the_seeds(cells, monkeypatch):
    assert trust_curves(cells).empty, "nothing was harmful by exact answers"
    decided = trust_decisions(cells)
    decided["harmful"] = decided["number"] % 2 == 0
    monkeypatch.setattr(decisions_module, "trust_decisions", lambda _: decided)
    curves = trust_curves(cells)
    assert len(curves)
    assert set(curves.columns) >= {"method", "curve", "threshold", "x", "y", "n"}
    for _, part in curves[curves["curve"] == "roc"].groupby("method"):
        assert part["x"].is_monotonic_increasing


def test_greedy_tables(cells):
    table = greedy_table(cells).set_index("method")
    assert table.loc["emmet_greedy", "acceptance"].between(0, 1).all()
    assert table.loc["emmet_lora"]["acceptance"].isna().all()
    steps = greedy_step_table(cells)
    assert steps["method"].unique().tolist() == ["emmet_greedy"]
    assert steps["step"].tolist() == [1, 2, 3]
    assert steps["tried"].is_monotonic_decreasing
    assert greedy_step_table([c for c in cells if c[1]["method"] == "emmet"]).empty


def test_forgetting_table_and_turning_points(cells):
    table = curves_table(cells)
    assert {"method", "seed", "edits_seen", "metric", "value", "n"} <= set(table.columns)
    points = turning_points(table)
    assert set(points["method"]) == set(METHODS)
    assert ((points["ci_low"] <= points["ci_high"]) | (points["kind"] == "none")).all()
    assert set(points["kind"]) <= {"none", "collapse", "levels_off"}


def test_streams_too_short_for_a_turning_point_make_a_table_that_can_be_read(cells, tmp_path):
    table = curves_table(cells)
    points = sorted(table["edits_seen"].unique())[:4]
    short = table[table["edits_seen"].isin(points)]
    write_csv(tmp_path / "turning_points.csv", turning_points(short))
    found = read_table(tmp_path / "turning_points.csv")
    assert found.empty
    assert list(found.columns) == list(turning_points(table).columns)
    tables = Tables({"large_scale_forgetting": short, "turning_points": found})
    printed = REPORT.sheets["forgetting"][1].make(tables)
    assert len(printed.frame)
    assert "turning point" not in printed.legend


def test_altered_cells_are_refused(cells, tmp_path):
    import shutil

    directory = tmp_path / "cell"
    shutil.copytree(cells[2][0], directory)
    with (directory / "events.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ArtifactError, match=r"events\.jsonl"):
        read_events(directory)


def test_paired_differences_by_hand():
    rng = np.random.default_rng(0)
    cases = [str(i) for i in range(40)]
    table = pd.DataFrame(
        [(c, p, rng.random()) for c in cases for p in ("rewrite", "paraphrase", "neighborhood")],
        columns=["case_id", "probe", "success"],
    )
    better = table.assign(success=table["success"] + 0.1 * (table["probe"] == "rewrite"))
    found = {d["metric"]: d for d in paired_differences([(better, table)] * 2)}
    assert found["ES"]["value"] == pytest.approx(0.1)
    assert (found["ES"]["ci_low"], found["ES"]["ci_high"]) == pytest.approx((0.1, 0.1))
    assert found["PS"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["PS"]["ci_low"] <= 0 <= found["PS"]["ci_high"]
    assert found["S"]["value"] > 0
    assert found["ES"]["n"] == 80
    swapped = {d["metric"]: d for d in paired_differences([(table, better)])}
    assert swapped["ES"]["ci_high"] < 0
    assert swapped["ES"]["p_value"] == 0.0
    with pytest.raises(DataError, match="same cases"):
        paired_differences([(table, table[table["case_id"] != "3"])])


def test_a_killed_cell_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    from editlab.editing import cell as cell_module
    from editlab.editing import stream as stream_module

    inputs, cell = (
        make_inputs(tmp_path),
        {"method": "emmet_lora", "batch": "4", "replay": "0.5", "rank": "3", "seed": "1"},
    )
    every = {"evaluation": {"checkpoint_every": 8}}
    run(inputs, tmp_path / "whole", cell, **every)
    steps = []
    original = stream_module._Run.step

    def dies(self, batch):
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(1)
        original(self, batch)

    monkeypatch.setattr(stream_module._Run, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "killed", cell, **every)
    assert len(list((tmp_path / "killed").glob(".checkpoint-*"))) == 1
    monkeypatch.setattr(stream_module._Run, "step", lambda self, batch: steps.append(1) or original(self, batch))
    run(inputs, tmp_path / "killed", cell, **every)
    assert len(steps) == 3 + 4  # two batches were saved, one was lost with the kill
    for name in ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "killed").glob(".checkpoint-*"))
    short = cell_module.CellPlan.model_validate(plan_of(cell))
    assert cell_module._checkpoint(short, {}, tmp_path) is None


def test_the_cases_of_a_row_are_not_its_probes(tmp_path, monkeypatch):
    """Of RippleEdits a case has several probes of a kind, and how many were executed counts these."""
    rows = [("final", m, "accuracy", 0.5, 8) for m in ("ES", "PS")]
    rows += [("final", "Relation_Specificity_executed", "accuracy", 0.5, 40)]
    rows += [("immediate", "multi_hop", "accuracy", 0.5, 4)]
    frame = pd.DataFrame(rows, columns=["when", "metric", "protocol", "value", "n"]).assign(ci_low=0.4, ci_high=0.6)
    frame.to_csv(tmp_path / "metrics.csv", index=False)
    pd.DataFrame({"edits_seen": [8], "metric": ["perplexity"], "value": [4.0]}).to_csv(tmp_path / "curve.csv")
    monkeypatch.setattr(cells_module, "read_verified", lambda path: path)
    (row,) = cells_module.cell_rows(tmp_path)
    assert (row["when"], row["n"], row["ES"]) == ("final", 8, 0.5)


def test_what_a_cell_keeps_and_what_reading_it_costs(tmp_path):
    cells = write_cells(tmp_path, ("memit", "none"), seeds=(1,))
    costs = {cell["method"]: directory for directory, cell in cells}
    assert stored(costs["memit"]) == {"parameters": 96, "bytes": 384}
    assert stored(costs["none"]) == {"parameters": 0, "bytes": 0}
    assert math.isnan(cell_costs(costs["memit"])["inference"])
    facts = {**read_provenance(costs["memit"]), "inference": {"unedited": 0.2, "edited": 0.25}}
    write_provenance(Path(costs["memit"]), facts, ["metrics.csv", "curve.csv"])
    assert cell_costs(costs["memit"])["inference"] == pytest.approx(1.25)


def test_a_record_that_does_not_say_what_is_kept_is_no_zero(tmp_path):
    ((directory, _),) = write_cells(tmp_path, ("none",), seeds=(1,))
    facts = {k: v for k, v in read_provenance(directory).items() if k != "parameters"}
    write_provenance(Path(directory), facts, ["metrics.csv", "curve.csv"])
    with pytest.raises(DamagedError, match="does not say what the edit keeps; rebuild with"):
        stored(directory)
