"""Where the seconds of a cell go: load, targets, keys, solve, commit, evaluation, generation, write.

Every cell of the workflow records them in its record; they are added up by method. Before any cell has
been made, one default cell (MEMIT, batches of 32, 96 edits) runs here.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from editlab.errors import ArtifactError
from editlab.files.artifacts import load_provenance
from editlab.files.provenance import records

CELLS = Path("results/edit")


def run(*, quick: bool = False) -> dict[str, Any]:
    """CPU and wall seconds by stage, of recorded cells or of one that runs now."""
    recorded = [] if quick else _recorded(CELLS)
    if recorded:
        return {"source": "recorded cells", "methods": _by_method(recorded)}
    return {"source": "a cell that ran here", "methods": {"memit": _measure(quick)}}


def _recorded(root: Path) -> list[dict[str, Any]]:
    """Provenance of every cell that has stage times; unreadable files are passed over."""
    found = []
    for _, path in records(root):
        with contextlib.suppress(ArtifactError):
            record = load_provenance(path)
            if record.get("seconds") and "plan" in record:
                found.append(record)
    return found


def _by_method(cells: list[dict[str, Any]]) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[str(cell["plan"]["recipe"]["solver"])].append(cell)
    return {method: _total(group) for method, group in sorted(groups.items())}


def _total(cells: list[dict[str, Any]]) -> dict[str, Any]:
    cpu: dict[str, float] = defaultdict(float)
    wall: dict[str, float] = defaultdict(float)
    for cell in cells:
        for stage, seconds in cell["seconds"].items():
            cpu[stage] += seconds["cpu"]
            wall[stage] += seconds["wall"]
    return _split(dict(cpu), dict(wall), len(cells), sum(int(cell["edits"]) for cell in cells))


def _split(cpu: dict[str, float], wall: dict[str, float], cells: int, edits: int) -> dict[str, Any]:
    whole = sum(cpu.values()) or 1.0
    return {
        "cells": cells,
        "edits": edits,
        "cpu_seconds": {stage: round(value, 3) for stage, value in cpu.items()},
        "wall_seconds": {stage: round(value, 3) for stage, value in wall.items()},
        "cpu_share": {stage: round(value / whole, 4) for stage, value in cpu.items()},
    }


def _measure(quick: bool) -> dict[str, Any]:
    from benchmarks.common import CONTEXTS, second_moment, subject, threads
    from editlab.config.base import validated
    from editlab.config.evaluation import Evaluation
    from editlab.config.recipe import Recipe
    from editlab.data.corpus import held_out_sentences
    from editlab.editing.session import EditSession
    from editlab.editing.stream import StreamPlan, run_stream
    from editlab.files.timing import Stopwatch

    edits, batch, steps = (4, 2, 2) if quick else (96, 32, 25)
    watch = Stopwatch()
    with threads(1):
        with watch.stage("load"):
            found = subject(edits)
        moment = second_moment(found.model, 0, 500 if quick else 5000)
        values = {"solver": "memit", "layers": [0], "clamp": 2.0, "second_moment_weight": 20, "steps": steps}
        recipe = validated(Recipe, values, "recipe")
        few = {"generation_cases": 1, "generation_tokens": 4, "resamples": 20}
        measured = Evaluation(**(few if quick else {"generation_cases": 10}))
        plan = StreamPlan(batch=batch, snapshot_every=batch, evaluation=measured)
        texts = held_out_sentences(10 if quick else 200)
        with EditSession(found.model, recipe, statistics={0: moment}, contexts=CONTEXTS, stopwatch=watch) as session:
            run_stream(session, found.requests, plan, texts)
    return {"model": found.description, **_split(watch.cpu, watch.wall, 1, edits)}
