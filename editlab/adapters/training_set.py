"""What every generator learns from: features of descriptions, teachers, their products and deltas, by task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from editlab.adapters.deltas import Changes, Probes, deltas_of
from editlab.adapters.pool import Pool, combined, inner_products
from editlab.adapters.ridge import Kernel
from editlab.adapters.text import TfIdf, hidden_features
from editlab.data.tasks import TaskSet
from editlab.networks.lora import Dense, Factored


@dataclasses.dataclass(eq=False)
class TrainingSet:
    """The teachers of the training tasks and the text features of every task.

    Training tasks are described by the mean of their training wordings, all others by the mean of wordings that are
    held out. The vocabulary and its frequencies come from training alone.

    Attributes:
        train: names of the training tasks.
        probes: all probes; the first half is what supervision may see (:attr:`seen`).
        measured: from names of adapters of the pool to their deltas on all probes, where an earlier stage has measured them.
    """

    model: nn.Module
    tasks: TaskSet
    train: list[str]
    pool: Pool
    probes: Probes
    features: str = "tfidf"
    measured: Callable[[Sequence[str]], Tensor] | None = None

    @functools.cached_property
    def teachers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Factors of the training teachers, stacked."""
        return self.pool.at(self.train)

    @functools.cached_property
    def products(self) -> dict[str, Tensor]:
        """Of the training teachers (n, d_out, d_in) by module name."""
        return {k: left @ right for k, (left, right) in self.teachers.items()}

    @functools.cached_property
    def grams(self) -> Tensor:
        """``<D_i, D_j>_F`` of the products in each map (maps, n, n)."""
        return inner_products(self.teachers, self.teachers)

    @functools.cached_property
    def kernel(self) -> Kernel:
        return Kernel.of(self.text(self.train))

    @functools.cached_property
    def seen(self) -> Probes:
        """The half of the probes whose deltas supervise."""
        return self.probes.part(slice(0, len(self.probes.batch) // 2))

    @functools.cached_property
    def unseen(self) -> Probes:
        half = len(self.probes.batch) // 2
        return self.probes.part(slice(half, 2 * half))

    @functools.cached_property
    def lessons(self) -> list[tuple[Probes, Tensor]]:
        """The supervising probes some at a time, each with what the teachers do on them (n, numbers)."""
        size, count = self.probes.options.step, len(self.seen.batch)
        parts = [self.seen.part(slice(first, min(first + size, count))) for first in range(0, count, size)]
        return [(part, deltas_of(self.model, part, self.train, self.pool.at, supervise=True)) for part in parts]

    @functools.cached_property
    def deltas(self) -> Tensor:
        """Of the training teachers (n, d), on all probes."""
        if self.measured is not None:
            return self.measured(self.train)
        return deltas_of(self.model, self.probes, self.train, self.pool.at)

    @functools.cached_property
    def centre(self) -> Tensor:
        return self.deltas.mean(dim=0)

    @functools.cached_property
    def _tfidf(self) -> TfIdf:
        return TfIdf([text for name in self.train for text in self.tasks[name].descriptions])

    def wordings(self, name: str) -> Sequence[str]:
        """The descriptions by which a task is known here."""
        task = self.tasks[name]
        return task.descriptions if name in self.train else task.held_out

    def text(self, names: Sequence[str]) -> Tensor:
        """Features (len(names), F)."""
        if self.features == "hidden":
            return torch.stack([hidden_features(self.model, self.wordings(n)).mean(dim=0) for n in names])
        return torch.stack([self._tfidf(self.wordings(n)).mean(dim=0) for n in names])

    def weighted(self, coefficients: Tensor) -> Factored | Dense:
        """Weighted sums of the training teachers' products, coefficients (C, n).

        Where the ranks add up to more than a map has, the sums are dense; else, in large models, they stay in factors.
        """
        coefficients = coefficients.float()
        smallest = min(min(left.shape[1], right.shape[2]) for left, right in self.teachers.values())
        if len(self.train) * next(iter(self.teachers.values()))[1].shape[1] < smallest:
            return combined(self.teachers, coefficients)
        return {k: (coefficients @ p.flatten(1)).reshape(-1, *p.shape[1:]) for k, p in self.products.items()}

    def changes(self, names: Sequence[str], coefficients: Tensor) -> Changes:
        """The adapters of tasks given one row of coefficients (len(names), n) each."""
        row = {name: i for i, name in enumerate(names)}
        return lambda part: self.weighted(coefficients[[row[n] for n in part]])
