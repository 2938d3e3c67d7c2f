"""Runs of true and of middle size: what they would do, without doing it."""

from __future__ import annotations

import csv
import json

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("full size")]


@pytest.mark.parametrize("name", ["full_size_gpt2_xl", "full_size_gptj_6b", "full_size_llama3_8b"])
def test_a_run_of_true_size_downloads_nothing(separate, name):
    jobs = separate.jobs(f"results/{name}/ablation_matrix.csv", configfile=f"runs/{name}.yaml")
    assert jobs["edit_cell"] == 5
    assert jobs["make_random_model"] == jobs["collect_statistics"] == 1
    assert not {"fetch_model", "fetch_text", "find_known", "train_substrate"} & set(jobs)


SMALL = """
edit:
  models: {{gpt2_xl: {{shape: {shape}, dtype: bfloat16}}}}
  statistics: {{tokens_per_dimension: 4}}
  methods: {{memit: {{layers: [1, 2], steps: 3}}, alphaedit: {{layers: [1, 2], steps: 3}}}}
  experiments: {{edit: {{methods: [memit, alphaedit], batch: [10], seeds: [1], num_edits: 20, known_only: false}}}}
  evaluation: {{snapshot_every: 10, retention_cases: 5, perplexity_sentences: 5, generation_cases: 1, checkpoint_every: 10}}
"""


def test_the_same_run_of_a_small_shape_is_carried_out(separate):
    """Rules, scripts and files of a random model, in bfloat16."""
    shape = {"model_type": "gpt2", "n_layer": 4, "n_embd": 32, "n_head": 4, "vocab_size": 1500, "n_positions": 96}
    (separate.root / "shape.json").write_text(json.dumps(shape))
    (separate.root / "small.yaml").write_text(SMALL.format(shape="shape.json"))
    files = ("--configfile", "runs/full_size_gpt2_xl.yaml", "small.yaml")
    separate.run("results/full_size_gpt2_xl/ablation_matrix.csv", *files, configfile=None)
    base = separate.root / "results" / "full_size_gpt2_xl"
    assert {p.name for p in (base / "statistics" / "gpt2_xl").glob("*.safetensors")} == {
        f"layer-{k}.safetensors" for k in (1, 2)
    }
    assert not list((base / "models" / "gpt2_xl").glob("*.safetensors"))
    cells = sorted(base.glob("edit/edit/*/*/*/*/*/*/*/metrics.csv"))
    assert len(cells) == 2
    for cell in cells:
        rows = {row["metric"]: row["value"] for row in csv.DictReader(cell.open()) if row["when"] == "final"}
        assert 0 < float(rows["energy_lost"]) < 1
        record = base / ".provenance" / cell.parent.parent.relative_to(base) / f"{cell.parent.name}.json"
        found = json.loads(record.read_text())
        assert {"load", "targets", "keys", "solve", "evaluate", "write"} <= set(found["seconds"])
        assert found["peak_memory_mb"] > 0


@pytest.mark.parametrize("name", ["mid", "mid_cpu"])
def test_a_run_of_middle_size_is_planned(separate, name):
    jobs = separate.jobs(configfile=f"runs/{name}.yaml")
    assert jobs["train_substrate"] == 1
    assert jobs["edit_cell"] == 18


def test_a_published_run_reads_its_facts_and_the_contexts_of_rome(separate):
    data = separate.root / "facts.json"
    data.write_text("[" + ",".join(["{}"] * 3000) + "]")
    jobs = separate.jobs(
        "results/published_gpt2_xl/ablation_matrix.csv",
        "--config",
        "data_path=facts.json",
        configfile="runs/published_gpt2_xl.yaml",
    )
    assert jobs["edit_cell"] == 10
    assert jobs["make_contexts"] == jobs["make_rome_contexts"] == jobs["fetch_text"] == 1
    assert "find_known" not in jobs
