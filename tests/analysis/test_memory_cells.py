"""A cell of backend memory, from files to the rows of the tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from tiny import tiny_model, tiny_requests

from editlab.analysis.edit.cells import MEMORY, cell_rows, stored
from editlab.analysis.edit.scores import controls
from editlab.data.requests import SWEEP, write_requests
from editlab.editing.cell import run_cell
from editlab.editing.events import read_events

FACTS, LAYER = 12, 1


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("memory")
    model, requests = tiny_model(), tiny_requests(30)
    model.save_pretrained(home / "model")
    model.tokenizer.save_pretrained(home / "model")
    write_requests(
        [dataclasses.replace(r, reserved_for=SWEEP) if i >= 20 else r for i, r in enumerate(requests)], home / "r.json"
    )
    (home / "contexts.json").write_text(json.dumps([["{}"], ["Yes. {}"]]))
    names = {"metrics": "csv", "cases": "csv", "curve": "csv", "events": "jsonl", "edit": "safetensors"}
    recipe = {"solver": "memit", "backend": "memory", "layers": [LAYER], "clamp": 4.0, "steps": 4, "gate_texts": 8}
    evaluation = {
        "snapshot_every": 6,
        "perplexity_sentences": 4,
        "generation_cases": 0,
        "resamples": 10,
        "probe_cases": 0,
    }
    run_cell(
        {"recipe": recipe, "batch": 4, "seed": 1, "num_edits": FACTS, "known_only": False, "evaluation": evaluation},
        threads=1,
        model=str(home / "model"),
        requests=str(home / "r.json"),
        known=None,
        contexts=str(home / "contexts.json"),
        statistics=[],
        layers=None,
        outputs={k: str(home / "cell" / f"{k}.{v}") for k, v in names.items()},
    )
    return home / "cell"


def test_its_numbers_are_in_the_tables(cell):
    metrics = pd.read_csv(cell / "metrics.csv").query("when == 'final'").set_index("metric")["value"]
    assert metrics["memory_facts"] == FACTS
    assert stored(cell) == {"parameters": FACTS * (64 + 32 + 1), "bytes": 4 * FACTS * 97}
    events = read_events((cell / "events.jsonl").read_text().splitlines())
    last = events[-1].layers[str(LAYER)]
    assert (last.entries, last.replaced, last.gate) == (FACTS, 0, pytest.approx(metrics["memory_gate"]))
    rows = cell_rows(cell)
    assert all(row[name] == pytest.approx(metrics[name]) for row in rows for name in MEMORY)


def test_it_is_not_taken_for_the_unedited_model(cell):
    rows = [{**row, "method": "memory"} for row in cell_rows(cell)]
    assert all(row["delta_norm"] > 0 for row in rows)
    assert controls(pd.DataFrame([*rows, {"method": "none", "delta_norm": 0.0}])) == ["none"]
    rivals = [{"method": name, "delta_norm": 0.0} for name in ("text_lookup", "in_context_5", "unedited")]
    assert controls(pd.DataFrame([*rows, *rivals])) == ["unedited"]  # those that answer are to be beaten
    curve = pd.read_csv(cell / "curve.csv").set_index("metric")["value"]
    assert (curve[f"delta_norm_layer{LAYER}"].diff().dropna() > 0).all()
