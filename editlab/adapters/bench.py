"""One seed of the study as its stages share it: base, tasks, pool, probes, and rows of scores for a set of tasks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from editlab.adapters.deltas import Changes, DeltaCache, Probes, deltas_of, make_probes
from editlab.adapters.pool import Pool, weights_digest
from editlab.adapters.preparation import load_base, task_set
from editlab.adapters.scoring import Scorer, delta_columns
from editlab.adapters.training_set import TrainingSet
from editlab.config.adapters import AdaptersStudy, FileTasks
from editlab.data.letter_tasks import latin_split, operation_split, task_grid
from editlab.data.tasks import TaskSet
from editlab.errors import ModelError
from editlab.randomness import set_threads


@dataclasses.dataclass(frozen=True)
class Split:
    """Tasks by use under one way of holding out."""

    name: str
    train: list[str]
    validation: list[str]
    test: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What the stages of a seed work on.

    Attributes:
        model: the base; never changed.
        deltas: file of the pool's deltas, where an earlier stage has measured them.
    """

    study: AdaptersStudy
    seed: int
    model: nn.Module
    tasks: TaskSet
    pool: Pool
    deltas: str | Path | None = None

    @classmethod
    def open(
        cls, study: AdaptersStudy, seed: int, base: str | Path, pool: str | Path, deltas: str | Path | None = None
    ) -> Bench:
        """From the files of earlier stages.

        Raises:
            ModelError: the pool was trained on another base.
        """
        model = load_base(study, base)
        adapters = Pool.load(pool)
        if adapters.base != weights_digest(model):
            raise ModelError(f"{pool}: its adapters belong to another base than {base}")
        return cls(study, seed, model, task_set(study, seed), adapters, deltas)

    @functools.cached_property
    def probes(self) -> Probes:
        return make_probes(self.model, self.tasks, self.study.deltas, self.seed)

    def splits(self) -> list[Split]:
        """Held-out combinations, and on letters whole held-out operations: a harder split, which the base is not new to."""
        found = [Split("combinations", *(self.tasks.names(s) for s in ("train", "validation", "test")))]
        if not isinstance(self.study.tasks, FileTasks):
            grid = task_grid(self.study.tasks.size)
            harder = operation_split(latin_split(grid, self.seed))
            parts = [[t.name for t in part] for part in (harder.train, harder.validation, harder.test)]
            if len(parts[0]) >= 4 and parts[1] and parts[2]:
                found.append(Split("operations", *parts))
        return found

    def data(self, split: Split) -> TrainingSet:
        measured = None if self.deltas is None else self.teacher_deltas
        return TrainingSet(self.model, self.tasks, split.train, self.pool, self.probes, self.study.features, measured)

    @functools.cached_property
    def validation(self) -> Scorer:
        """Scores on which everything is chosen."""
        return Scorer(self.model, self.tasks, self.study.scores, self.seed, self.study.scores.validation, "validation")

    @functools.cached_property
    def scorer(self) -> Scorer:
        """Scores that are reported."""
        return Scorer(self.model, self.tasks, self.study.scores, self.seed, self.study.scores.strings)

    def row(
        self,
        data: TrainingSet,
        names: Sequence[str],
        changes: Changes | None,
        *,
        teachers: Tensor | None = None,
        described: bool = False,
        **columns: Any,
    ) -> pd.DataFrame:
        """Scores of one method on tasks, a row a task.

        Args:
            changes: the adapter of each task; None: the base.
            teachers: deltas of the tasks' own teachers; None leaves the columns of deltas empty.
            columns: what names the method.
        """
        scores = self.scorer.score(names, changes, described=described)
        if changes is not None and teachers is not None:
            near = delta_columns(self.model, self.probes, names, changes, teachers, data.centre)
            scores = scores.merge(near, on="task")
        for place, (name, value) in enumerate({"seed": self.seed, **columns}.items()):
            scores.insert(place, name, value)
        return scores

    def teacher_deltas(self, names: Sequence[str]) -> Tensor:
        """Deltas (len(names), d) of adapters of the pool.

        Raises:
            ArtifactError: the file of deltas belongs to another base or to other probes.
        """
        if self.deltas is None:
            return deltas_of(self.model, self.probes, names, self.pool.at)
        return DeltaCache(self.deltas, self.probes).deltas(self.model, self.pool, names)


def open_bench(
    *,
    study: Mapping[str, Any],
    seed: int,
    threads: int,
    base: str,
    pool: str,
    known_deltas: str | None = None,
) -> Bench:
    """A bench from what a job is given: the sections of the study as JSON, and the files of earlier stages."""
    set_threads(threads)
    return Bench.open(AdaptersStudy.model_validate(study), seed, base, pool, known_deltas)
