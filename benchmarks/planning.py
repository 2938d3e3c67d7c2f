"""Seconds until Snakemake knows what to do: a dry run of a study of 2,000 cells, from the command to its exit.

Nothing is run and no file is there yet. Quiet (``-q``), which is the planning, and with the list of all jobs printed; in turn,
and the least of several rounds counts, as other work on the machine can only add.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.workflow import copy_workflow

STUDY = """
run: default
edit:
  experiments:
    edit:
      methods: [memit, emmet]
      batch: [1, 2, 4, 8, 16]
      replay: [0, 0.1, 0.2, 0.3, 0.4]
      rank: [0]
      seeds: [{seeds}]
      num_edits: 16
"""
CELLS_A_SEED = 2 * 5 * 5
MODES = {"planned": ("--quiet", "rules", "progress"), "listed": ()}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Seconds and memory of the dry run."""
    cells, rounds = (100, 1) if quick else (2000, 3)
    with tempfile.TemporaryDirectory() as folder:
        root = copy_workflow(Path(folder))
        write_study(root, cells)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in MODES}
        for _ in range(rounds):
            for name, options in MODES.items():
                found[name].append(_plan(root, options))
    return {
        "cells": cells,
        "rounds": rounds,
        "wall_seconds": {name: [round(wall, 2) for wall, _, _ in rows] for name, rows in found.items()},
        "cpu_seconds": {name: [round(cpu, 2) for _, cpu, _ in rows] for name, rows in found.items()},
        "peak_mib": max(round(peak) for rows in found.values() for _, _, peak in rows),
    }


def write_study(root: Path, cells: int) -> None:
    """A study ``planning.yaml`` of that many cells (a multiple of 50)."""
    seeds = ", ".join(map(str, range(1, cells // CELLS_A_SEED + 1)))
    (root / "planning.yaml").write_text(STUDY.format(seeds=seeds), encoding="utf-8")


def command(root: Path, *python: str) -> tuple[list[str], dict[str, Any]]:
    """The dry run, and how it is to be started; ``python`` are options of the interpreter."""
    line = [sys.executable, *python, "-m", "snakemake", "results/ablation_matrix.csv", "--dry-run", "--cores", "2"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return [*line, "--configfile", "planning.yaml"], {"cwd": root, "env": environment}


def _plan(root: Path, more: tuple[str, ...]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, MiB at the peak) of one dry run."""
    line, options = command(root)
    line += more
    with (root / "plan.log").open("w") as log:
        started = time.perf_counter()
        process = subprocess.Popen(line, stdout=log, stderr=log, **options)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{' '.join(line)} failed:\n{(root / 'plan.log').read_text()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
