"""Many tiny cells on two cores: forked from one warm process, against a process of its own for each.

Both run the same study through the workflow, in a folder of their own: the model is trained and the first cell made
before the clock starts. Seconds a cell count everything from ``snakemake`` to its exit, planning included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.workflow import copy_workflow

STUDY = """
run: default
edit:
  datasets:
    facts: {{kind: facts, size: 66, seed: 3}}
  models:
    substrate:
      {{source: substrate, dataset: facts, layers: 2, width: 32, vocabulary: 500, steps: 30, batch: 32,
        neutral_sentences: 100, recall_gate: 0}}
  statistics: {{tokens_per_dimension: 4}}
  contexts: {{per_length: 1, lengths: [3]}}
  evaluation: {{snapshot_every: 4, perplexity_sentences: 10, generation_cases: 0, resamples: 50}}
  experiments:
    edit: {{methods: [memit], batch: [4], replay: [0], rank: [0], seeds: [{seeds}], num_edits: 4, known_only: false}}
"""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Seconds a cell both ways, and their ratio."""
    warm, alone = (4, 2) if quick else (500, 100)
    with tempfile.TemporaryDirectory() as folder:
        root = copy_workflow(Path(folder))
        _snakemake(root, 1)
        seconds = {
            "own_process": _time(root, alone, {"EDITLAB_WORKER": "off"}),
            "warm_worker": _time(root, warm, {}),
        }
    return {
        "cells": {"warm_worker": warm, "own_process": alone},
        "cores": 2,
        "seconds_a_cell": {name: round(value, 3) for name, value in seconds.items()},
        "share": round(seconds["warm_worker"] / seconds["own_process"], 3),
    }


def _time(root: Path, cells: int, environment: dict[str, str]) -> float:
    shutil.rmtree(root / "results" / "edit")
    (root / "results" / "ablation_matrix.csv").unlink()
    started = time.perf_counter()
    _snakemake(root, cells, environment)
    return (time.perf_counter() - started) / cells


def _snakemake(root: Path, cells: int, environment: dict[str, str] | None = None) -> None:
    study = root / "many.yaml"
    values = yaml.safe_load(STUDY.format(seeds=", ".join(map(str, range(1, cells + 1)))))
    study.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "results/ablation_matrix.csv", "--cores", "2", "--quiet", "all"]
    done = subprocess.run(
        [*command, "--configfile", study.name],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
