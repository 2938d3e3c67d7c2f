"""The rivals that a generated adapter must be held against: each a map from tasks to adapters that needs no learning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.adapters.deltas import Changes
from editlab.adapters.pool import Pool
from editlab.adapters.scoring import Scorer
from editlab.adapters.training_set import TrainingSet
from editlab.data.tasks import TaskSet
from editlab.networks.lora import Dense
from editlab.randomness import python_rng, torch_rng


def mean_adapter(data: TrainingSet) -> Changes:
    """The mean of all training teachers, whatever the task."""
    count = len(data.train)
    return lambda names: data.weighted(torch.full((len(names), count), 1 / count))


def random_adapter(data: TrainingSet, seed: int) -> Changes:
    """A training teacher drawn for each task."""
    return lambda names: data.pool.at(
        [python_rng("adapters", "random adapter", seed, name).choice(data.train) for name in names]
    )


def random_equal_norm(pool: Pool, seed: int) -> Changes:
    """A random direction in every map, of the teacher's norm there."""

    def changes(names: Sequence[str]) -> Dense:
        found = {}
        for key, (left, right) in pool.at(names).items():
            size = (left @ right).flatten(1).norm(dim=1)
            noise = torch.stack(
                [
                    torch.randn(
                        left.shape[1], right.shape[2], generator=torch_rng("adapters", "random direction", seed, n, key)
                    )
                    for n in names
                ]
            )
            found[key] = noise * (size / noise.flatten(1).norm(dim=1))[:, None, None]
        return found

    return changes


def fixed(pool: Pool, name: str) -> Changes:
    """One adapter, whatever the task: one for all rows."""
    return lambda _names: pool.at([name])


def shuffled(names: Sequence[str], seed: int) -> dict[str, str]:
    """Each task with another one's description: a cyclic shift of a random order, so none keeps its own."""
    order = list(names)
    python_rng("adapters", "shuffled descriptions", seed).shuffle(order)
    return dict(zip(order, order[1:] + order[:1], strict=True))


def best_single(data: TrainingSet, names: Sequence[str], scorer: Scorer) -> dict[str, str]:
    """An oracle: for each task the training teacher with the most letters on examples of the scorer (not of the test)."""
    letters = torch.zeros(len(data.train), len(names), dtype=torch.float64)
    for row, teacher in enumerate(data.train):
        scores = scorer.score(names, fixed(data.pool, teacher))
        letters[row] = torch.tensor(scores["letters"].to_numpy())
    chosen: Tensor = letters.argmax(dim=0)
    return {name: data.train[int(i)] for name, i in zip(names, chosen, strict=True)}


def part_table(tasks: TaskSet) -> dict[str, tuple[str, ...]]:
    """The parts of every task."""
    return {task.name: task.parts for task in tasks.tasks}
