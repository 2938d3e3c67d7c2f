"""Exact match and letters of adapters on their tasks, greedy, and how near their deltas are to the teachers'."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from editlab.adapters.deltas import Changes, Probes, cosine, deltas_of
from editlab.config.adapters import AdapterScores
from editlab.data.tasks import TaskSet
from editlab.networks.answers import Batch, Pair, correct, encode, greedy
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.lora import adapted
from editlab.randomness import python_rng

Setting = TypeVar("Setting")


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """Scores adapters on fixed examples of each task.

    Attributes:
        seed: draws the examples.
        count: examples a task.
        purpose: part of the coordinates of the draw: examples of ``test`` are never those that anything was chosen on.
    """

    model: nn.Module
    tasks: TaskSet
    options: AdapterScores
    seed: int
    count: int
    purpose: str = "test"
    _batches: dict[tuple[object, ...], Batch] = dataclasses.field(default_factory=dict, repr=False)

    def examples(self, name: str, described: bool = False) -> list[Pair]:
        """The examples of a task; described: each after one of its held-out wordings."""
        task = self.tasks[name]
        rng = python_rng("adapters", "examples", self.purpose, self.seed, name)
        pairs = task.draw(self.count, rng, "test")
        return [task.asked([p], rng.choice(task.held_out))[0] for p in pairs] if described else pairs

    @torch.no_grad()
    def score(self, names: Sequence[str], changes: Changes | None, *, described: bool = False) -> pd.DataFrame:
        """Rows of task, exact, letters: shares of exact answers and of right tokens.

        Args:
            changes: the adapter of each task; None: the base itself.
            described: the prompt holds the description.
        """
        together = max(1, self.options.rows // self.count)
        rows = []
        with frozen(self.model):
            for first in range(0, len(names), together):
                part = list(names[first : first + together])
                batch = self._encoded(part, described)
                with adapted(self.model, changes(part)) if changes else contextlib.nullcontext():
                    exact, letters = correct(greedy(self.model, batch), batch.answers)
                means = [values.double().reshape(len(part), -1).mean(dim=1).tolist() for values in (exact, letters)]
                rows += [{"task": task, "exact": e, "letters": p} for task, e, p in zip(part, *means, strict=True)]
        return pd.DataFrame(rows)

    def _encoded(self, names: Sequence[str], described: bool) -> Batch:
        """The examples of these tasks as one batch, made once: many adapters are scored on the same tasks."""
        key = (*names, described)
        if key not in self._batches:
            pairs = [pair for name in names for pair in self.examples(name, described)]
            self._batches[key] = encode(tokenizer_of(self.model), pairs, end=self.tasks.ends)
        return self._batches[key]

    def letters(self, names: Sequence[str], changes: Changes) -> float:
        """Mean letters over tasks: what everything is chosen by."""
        return float(self.score(names, changes)["letters"].mean())


def best_by_letters(
    settings: Sequence[Setting], scorer: Scorer, names: Sequence[str], changes: Callable[[Setting], Changes]
) -> tuple[Setting, list[float]]:
    """The setting with the most letters on these (validation) tasks, the first of equals, and the letters of each."""
    letters = [scorer.letters(names, changes(setting)) for setting in settings]
    return settings[letters.index(max(letters))], letters


def delta_columns(
    model: nn.Module, probes: Probes, names: Sequence[str], changes: Changes, teachers: Tensor, centre: Tensor
) -> pd.DataFrame:
    """How near deltas are to the teachers' (n, d): rows of task, delta_cosine (centred), delta_error,
    delta_spread and delta_size.

    R2 of a set of tasks is 1 - sum(delta_error) / sum(delta_spread), the errors against the teachers and against the mean
    delta of training.
    """
    found = deltas_of(model, probes, names, changes)
    return pd.DataFrame(
        {
            "task": list(names),
            "delta_cosine": cosine(found - centre, teachers - centre).tolist(),
            "delta_error": (found - teachers).square().sum(dim=1).tolist(),
            "delta_spread": (teachers - centre).square().sum(dim=1).tolist(),
            "delta_size": teachers.square().sum(dim=1).tolist(),
        }
    )
