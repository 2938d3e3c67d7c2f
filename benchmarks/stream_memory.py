"""Memory along a stream: 2,000 edits in batches of 32, EMMET with replay, and the resident size after every batch.

The history of a stream is one matrix (or its thin factors) a layer and a bounded replay buffer, so memory must not grow
with the number of edits. The slope is fitted over the second half, after the buffer is full and the allocator has seen
every shape. Targets take few steps here: their number does not change what is kept.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from benchmarks.common import CONTEXTS, second_moment, subject, threads
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.data import batches
from editlab.editing.session import EditSession
from editlab.files.timing import peak_memory_mb

LAYER = 0
REPLAY = 0.3


def run(*, quick: bool = False) -> dict[str, Any]:
    """Edit the stream and record (edits seen, resident MiB)."""
    facts, batch, steps = (16, 4, 2) if quick else (2000, 32, 4)
    found = subject(facts)
    recipe = validated(Recipe, {"solver": "emmet", "layers": [LAYER], "clamp": 2.0, "steps": steps}, "recipe")
    with threads(1):
        statistics = {LAYER: second_moment(found.model, LAYER, 500 if quick else 5000)}
        samples = _stream(found.model, found.requests, batch, recipe, statistics)
    half = [s for s in samples if s[0] >= facts / 2]
    return {
        "model": found.description,
        "edits": facts,
        "batch": batch,
        "solver": "emmet",
        "replay": REPLAY,
        "resident_mib": [[edits, round(size, 2)] for edits, size in samples],
        "mib_per_1000_edits": round(1000 * line_slope(half), 3),
        "mib_per_1000_edits_whole": round(1000 * line_slope(samples), 3),
        "peak_mib": round(peak_memory_mb(), 1),
    }


def _stream(
    model: Any, requests: list[Any], batch: int, recipe: Recipe, statistics: dict[int, Any]
) -> list[tuple[int, float]]:
    samples: list[tuple[int, float]] = []
    with EditSession(model, recipe, statistics=statistics, contexts=CONTEXTS, replay=REPLAY) as session:
        seen = 0
        for chunk in batches(requests, batch):
            event = session.step(chunk)
            if event.decision == "rejected":
                raise AssertionError(f"batch {event.batch} was rejected: {event.reason}")
            seen += len(chunk)
            samples.append((seen, resident_mib()))
    return samples


def resident_mib() -> float:
    """Resident size of this process now, in MiB; where /proc is missing, the largest so far."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return peak_memory_mb()
    pages = int(statm.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def line_slope(points: list[tuple[int, float]]) -> float:
    """Least-squares slope of y over x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
