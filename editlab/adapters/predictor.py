"""B2: predict the delta of a task from its description, and make an adapter out of what the index knows.

``B2a`` retrieves the one adapter whose delta is nearest to the predicted one, from an index that holds adapters nobody
described (those of the test tasks among them). ``B2b`` has no such luck: it merges the k nearest training teachers.
``B2w`` writes the predicted delta as a weighted sum of the training deltas (ridge) and takes the same sum of the
teachers. Retrieval by text alone, with the same k, is the control of each: descriptions of combinations share words with
their neighbours.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from editlab.adapters.retrieval import DeltaIndex, ranks, softmax_weights
from editlab.adapters.ridge import weights_to
from editlab.adapters.scoring import Scorer, best_by_letters
from editlab.adapters.training_set import TrainingSet

Found = list[tuple[str, float]]
SOLVE_PENALTIES = (0.001, 0.1)  # of B2w's second ridge


@dataclasses.dataclass(frozen=True, eq=False)
class DeltaPredictor:
    """Ridge regression of centred deltas on text features.

    Attributes:
        penalty: of the regression.
        solve_penalty: of B2w's weights.
    """

    data: TrainingSet
    penalty: float
    solve_penalty: float

    def predict(self, names: Sequence[str]) -> Tensor:
        """Predicted deltas (len(names), d), float64."""
        return self.data.kernel.coefficients(self.data.text(names), self.penalty) @ self.data.deltas.double()

    def coefficients(self, names: Sequence[str]) -> Tensor:
        """B2w: weights of the training teachers (len(names), n), each row summing to 1."""
        centre = self.data.centre.double()
        found = weights_to(self.predict(names) - centre, self.data.deltas.double() - centre, self.solve_penalty)
        return found + (1 - found.sum(dim=1, keepdim=True)) / len(self.data.train)


def fit_predictor(
    data: TrainingSet, penalties: Sequence[float], scorer: Scorer, validation: Sequence[str]
) -> DeltaPredictor:
    """The predictor whose B2w has the most letters on the validation tasks."""
    chosen, _ = best_by_letters(
        list(itertools.product(penalties, SOLVE_PENALTIES)),
        scorer,
        validation,
        lambda s: data.changes(validation, DeltaPredictor(data, *s).coefficients(validation)),
    )
    return DeltaPredictor(data, *chosen)


def uniform(found: Found) -> list[float]:
    """Equal weights."""
    return [1 / len(found)] * len(found)


def retrieved(data: TrainingSet, results: Sequence[Found], temperature: float | None = None) -> Tensor:
    """Coefficients (len(results), n) of the training teachers from what was retrieved for each task.

    Args:
        temperature: of a softmax over the cosines; None weighs all alike.
    """
    rows = torch.zeros(len(results), len(data.train), dtype=torch.float64)
    for row, found in zip(rows, results, strict=True):
        weights = uniform(found) if temperature is None else softmax_weights([c for _, c in found], temperature)
        for (name, _), weight in zip(found, weights, strict=True):
            row[data.train.index(name)] = weight
    return rows


def delta_index(data: TrainingSet, names: Sequence[str], deltas: Tensor, backend: str) -> DeltaIndex:
    """An index of these adapters' deltas, centred by the training mean."""
    return DeltaIndex(deltas.double().numpy(), names, data.centre.double().numpy(), backend)


def text_index(data: TrainingSet, backend: str) -> DeltaIndex:
    """An index of the training tasks' text features, centred as deltas are."""
    features = data.text(data.train)
    return DeltaIndex(features.numpy(), data.train, features.mean(dim=0).numpy(), backend)


def searched(index: DeltaIndex, queries: Tensor, k: int) -> list[Found]:
    """The k nearest for each query (m, d)."""
    return [index.search(np.asarray(query), k) for query in queries.double()]


def hits(found: Found, task: str, parts: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """How well a ranked list answers a task.

    Returns:
        ``cosine`` of the nearest; ``reciprocal_rank``, ``hit_1`` and ``hit_3`` of the task's own adapter (0 where it is not
        among them); ``hit_part_i``: 1 where the nearest adapter shares the task's i-th part.
    """
    place, nearest = ranks(found, [task]), found[0][0]
    row = {
        "cosine": found[0][1],
        "reciprocal_rank": 1 / place if place else 0.0,
        "hit_1": float(place == 1),
        "hit_3": float(place is not None and place <= 3),
    }
    for i, part in enumerate(parts[task]):
        row[f"hit_part_{i + 1}"] = float(len(parts[nearest]) > i and parts[nearest][i] == part)
    return row
