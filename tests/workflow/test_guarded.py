"""LoRA, trust, greedy steps, long streams and retraining, through the workflow, on the tiny study."""

from __future__ import annotations

import io

import pandas as pd
import pytest
import yaml

from editlab.analysis.edit import REPORT
from editlab.analysis.paper.tabular import tabular
from editlab.analysis.report.making import all_findings, caption_of, read_tables

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("guarded")]

LORA = {"solver": "emmet", "layers": [0], "steps": 4, "backend": "lora", "max_rank": 8}
EMMET = {"solver": "emmet", "layers": [0], "steps": 4}
STEPS = {"steps": 2, "recompute": True, "min_improvement": 0.0, "use_distance_only": True}
COMMON = {"batch": [4], "replay": [0], "seeds": [1], "num_edits": 8, "known_only": False}
METHODS = {
    "emmet": EMMET,
    "emmet_lora": LORA,
    "emmet_lora_frobenius": {**LORA, "lora_metric": "frobenius"},
    "emmet_posthoc": {**EMMET, "backend": "posthoc", "posthoc": {"steps": 2, "anchor_texts": 4}},
    "emmet_trust": {**EMMET, "trust": {"heldout_samples": 4}},
    "emmet_greedy": {
        **LORA,
        "accumulate": "append",
        "trust": {"distance_only": True, "heldout_samples": 4},
        "greedy": STEPS,
    },
}
EXPERIMENTS = {
    "lora_ablation": {
        "methods": ["emmet", "emmet_lora", "emmet_lora_frobenius", "emmet_posthoc"],
        "rank": [2],
        **COMMON,
    },
    "trust_eval": {
        "methods": ["none", "emmet", "emmet_trust"],
        "stress_fraction": 0.5,
        "label_cases": 4,
        **COMMON,
    },
    "greedy_eval": {"methods": ["emmet", "emmet_lora", "emmet_greedy"], "rank": [2], **COMMON},
    "large_scale": {"methods": ["emmet_lora"], "rank": [2], "snapshot_every": 4, **COMMON, "num_edits": 24},
    "retraining": {"methods": ["emmet"], **COMMON},
}
TABLES = {
    "lora_ablation": {"parameters", "bytes", "retention", "energy", "seconds"},
    "lora_gain": {"a", "b", "metric", "value", "ci_low", "ci_high"},
    "trust_eval": {"accuracy", "false_positive_rate", "retention_gain", "ppl_rise_cut", "overhead"},
    "greedy_eval": {"acceptance", "gain_by_step", "trust_gain_correlation"},
    "greedy_steps": {"layer", "step", "tried", "acceptance"},
    "large_scale_forgetting": {"edits_seen", "metric", "value"},
    "turning_points": {"kind", "edits", "ci_low", "ci_high"},
    "rtt_edits": {"model", "facts", "when", "accuracy", "restored"},
    "trust_forgetting": {"edits_seen", "metric", "value"},
    "trust_decisions": {"number", "trust", "harmful", "experiment"},
    "greedy_step_events": {"layer", "step", "gain", "trust", "accepted"},
    "replay_gain": {"replay", "capacity", "strategy", "metric", "p_holm", "repeats"},
}


@pytest.fixture(scope="module")
def guarded(separate):
    """The tiny study with the guarded experiments declared, and all their tables made."""
    study = yaml.safe_load((separate.root / "tiny.yaml").read_text())
    study["edit"]["methods"] |= METHODS
    study["edit"]["experiments"] |= EXPERIMENTS
    (separate.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    separate.run(*(f"results/{name}.csv" for name in TABLES))
    return separate


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_made_with_its_columns(guarded, name):
    table = pd.read_csv(io.BytesIO(guarded.read(f"results/{name}.csv")))
    assert len(table)
    assert TABLES[name] <= set(table.columns)


def test_ranks_collapse_for_raw_recipes(guarded):
    table = pd.read_csv(io.BytesIO(guarded.read("results/lora_ablation.csv")))
    assert table.set_index("method")["rank"].to_dict() == {
        "emmet": 0,
        "emmet_lora": 2,
        "emmet_lora_frobenius": 2,
        "emmet_posthoc": 2,
    }


@pytest.fixture(scope="module")
def tables(guarded):
    names = {name: guarded.root / "results" / f"{name}.csv" for name in REPORT.tables}
    return read_tables({name: path for name, path in names.items() if path.is_file()})


def test_figures_and_printed_tables_know_the_columns(tables):
    figures = [(topic, f) for topic, f in REPORT.figures.values() if f.table in tables]
    sheets = [s for _, s in REPORT.sheets.values() if set(s.tables) <= set(tables)]
    assert len(figures) > 8
    assert len(sheets) > 4
    for topic, figure in figures:
        assert figure.drawn(tables[figure.table]).axes
        assert caption_of(topic, figure, tables).endswith(".")
    for sheet in sheets:
        printed = sheet.make(tables)
        assert "toprule" in tabular(printed.frame, printed.columns, f"{sheet.name}.csv")


def test_sentences_know_the_columns(tables):
    assert {"lora", "trust", "greedy"} <= {finding["topic"] for finding in all_findings("edit", tables)}


def test_a_second_run_does_nothing(guarded):
    assert guarded.jobs(*(f"results/{name}.csv" for name in TABLES)) == {}


def test_the_same_cell_gives_the_same_bytes(guarded):
    cell = "results/edit/trust_eval/substrate/facts/method~emmet_trust/batch~4/replay~0/rank~0/seed~1"
    before = {n: guarded.read(f"{cell}/{n}") for n in ("metrics.csv", "curve.csv", "events.jsonl", "edit.safetensors")}
    (guarded.root / cell / "metrics.csv").unlink()
    guarded.run(f"{cell}/metrics.csv")
    assert before == {n: guarded.read(f"{cell}/{n}") for n in before}
