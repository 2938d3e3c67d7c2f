"""Runs of the adapters study as they are declared: the full size is planned from a file of tasks, a mistake is one line."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("smoke")]
QWEN = "runs/adapters_qwen.yaml"


def task(name: str, split: str) -> dict:
    pairs = [{"prompt": f"{i} and {name}:", "answer": f" {i}"} for i in range(4)]
    return {"name": name, "split": split, "parts": [name], "descriptions": [f"do {name}"],
            "held_out_descriptions": [f"please do {name}"], "train": pairs[:2], "test": pairs[2:]}  # fmt: skip


def test_the_full_size_is_planned_from_a_file_of_tasks(separate):
    refused = separate.run("-n", configfile=QWEN, check=False)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert "adapters.tasks.path: 'data/adapter_tasks.json' is not a file" in said
    assert "Traceback" not in said
    (separate.root / "data").mkdir(exist_ok=True)
    tasks = [task("sums", "train"), task("words", "validation"), task("both", "test")]
    (separate.root / "data" / "adapter_tasks.json").write_text(json.dumps(tasks))
    jobs = separate.jobs(configfile=QWEN)
    assert jobs["fetch_adapters_base"] == 3
    assert jobs["train_generator"] == 3 * 3 + 3
    assert jobs["compare_merges"] == jobs["measure_deltas"] == 3
    assert "train_adapters_base" not in jobs


def test_one_generated_adapter_is_asked_for_by_its_folder(separate):
    folder = "results/adapters_smoke/adapters/seed~0/generators/coefficients-weights/peft/keep.same"
    jobs = separate.jobs(folder, configfile="runs/adapters_smoke.yaml")
    assert jobs["export_adapter"] == jobs["train_generator"] == 1
    assert "train_adapters" in jobs
