"""Target vectors: all facts of a batch together against the published one-by-one loop, on one thread.

Both get the same model, facts, three contexts, 25 evaluations and stop rule, and must return the same targets after the
same number of steps; only then are their times compared. A random model has no stop (threshold 0): every fact runs all
its steps, the case that costs most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.common import CONTEXTS, Subject, alternate, ratio, subject, threads, timed
from benchmarks.published import one_by_one
from editlab.config.targets import TargetOptions
from editlab.editing.targets import Targets, optimize_targets

LAYER = 1  # whose output the default study's MEMIT and AlphaEdit optimise; layer 0 (EMMET, ROME) is reported beside it
STEPS = 25
TOLERANCE = 1e-3


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time both at n facts, and the batched form alone at other batch sizes."""
    n, repetitions, steps = (4, 1, 3) if quick else (64, 3, STEPS)
    found = subject(n if quick else 256)
    options = TargetOptions(steps=steps, clamp=0.75, stop_loss=0.05 if found.trained else 0.0)
    with threads(1):
        result = _compare(found, n, options, repetitions, LAYER)
        result["layer_0"] = _compare(found, n, options, repetitions, 0)
        result["batched_by_n"] = [_alone(found, size, options) for size in ((1, 2) if quick else (1, 8, 32, 64, 256))]
    return {"model": found.description, "trained": found.trained, "contexts": 3, "layer": LAYER, **result}


def _compare(found: Subject, n: int, options: TargetOptions, repetitions: int, layer: int) -> dict[str, Any]:
    model, requests = found.model, found.requests[:n]
    batched: list[Targets] = []
    single: list[tuple[Tensor, Tensor]] = []
    times = alternate(
        {
            "one_by_one": lambda: single.append(one_by_one(model, requests, layer, CONTEXTS, options)),
            "batched": lambda: batched.append(optimize_targets(model, requests, layer, CONTEXTS, options)),
        },
        repetitions,
        warmup=0 if repetitions == 1 else 1,
    )
    return {
        "facts": n,
        "evaluations": options.steps,
        "stop_loss": options.stop_loss,
        "repetitions": repetitions,
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "cpu_ms_per_fact": {name: round(1000 * min(timing.cpu) / n, 3) for name, timing in times.items()},
        "speedup": ratio(times["one_by_one"], times["batched"]),
        "agreement": _agreement(single[-1], batched[-1]),
    }


def _agreement(single: tuple[Tensor, Tensor], batched: Targets) -> dict[str, Any]:
    """Largest relative difference of a target, and whether every fact made the same number of updates.

    Raises:
        AssertionError: the two are not the same computation, so that comparing their times would mean nothing.
    """
    z, steps = single
    error = float(((batched.z - z).norm(dim=0) / z.norm(dim=0)).max())
    same = bool(torch.equal(batched.steps, steps))
    if not error < TOLERANCE or not same:
        raise AssertionError(f"batched targets differ from one by one: relative {error:.1e}, same steps: {same}")
    return {"relative_error_max": error, "same_steps": same, "steps_mean": round(float(steps.double().mean()), 2)}


def _alone(found: Subject, n: int, options: TargetOptions) -> dict[str, float]:
    requests = found.requests[:n]
    cpu = min(timed(lambda: optimize_targets(found.model, requests, LAYER, CONTEXTS, options))[0] for _ in range(2))
    return {"facts": n, "cpu_ms_per_fact": round(1000 * cpu / n, 3)}
