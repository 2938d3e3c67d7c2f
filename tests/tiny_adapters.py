"""A tiny base that was never trained, random adapters of it, and a bench of the smallest universe: made in a second."""

from __future__ import annotations

import torch
from second_device import placed

from editlab.adapters.bench import Bench
from editlab.adapters.pool import Pool, weights_digest
from editlab.config.adapters import AdaptersStudy
from editlab.data.tasks import letter_task_set
from editlab.networks.lora import map_shapes
from editlab.training.instructed import new_base

STUDY = AdaptersStudy.model_validate(
    {
        "seeds": [0],
        "tasks": {"kind": "letters", "size": "smoke"},
        "base": {
            "source": "trained",
            "layers": 2,
            "width": 16,
            "inner": 24,
            "heads": 2,
            "steps": 4,
            "batch": 4,
            "bare": 2,
        },
        "teachers": {"rank": 2, "steps": 3, "batch": 2, "together": 4, "own": 3, "again": 2, "joint_steps": 2},
        "coefficients": {"penalties": [0.1, 1.0], "steps": 2, "every": 1, "batch": 2},
        "hyperconvolution": {"steps": 2, "every": 1, "batch": 2, "descriptions": 2, "chunk": 8},
        "retrieval": {"k": [1, 2]},
        "merging": {"k": 2, "draws": 2},
        "deltas": {"probes": 8, "step": 2},
        "scores": {"strings": 6, "validation": 4},
    }
)


def base(seed: int = 0):
    """An untrained base in evaluation mode."""
    return placed(new_base(STUDY.base, seed).eval())


def random_factors(model, count: int, seed: int = 0, rank: int = 2, size: float = 0.3):
    """``count`` random adapters, stacked, by module name."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: (size * torch.randn(count, out, rank, generator=g), size * torch.randn(count, rank, d_in, generator=g))
        for name, (out, d_in) in map_shapes(model).items()
    }


def bench(seed: int = 0) -> Bench:
    """A bench whose teachers are random adapters."""
    model, tasks = base(), letter_task_set("smoke", seed)
    names = [task.name for task in tasks.tasks] + [f"{name}#2" for name in tasks.names("train")[:2]]
    return Bench(STUDY, seed, model, tasks, Pool(names, random_factors(model, len(names)), weights_digest(model)))
