"""Was a decision right? Labels from evaluation probes, which trust never sees.

For a batch, the model is scored without it and with its whole candidate: success on the new facts (rewrite and
paraphrase prompts), on facts edited earlier (rewrite prompts) and on the neighbours of both. The composite is the mean
of the three shares; a harmonic mean would be near 0 whenever a batch is left out, and so call every batch good. A batch
*should be rolled back* when applying it lowers the composite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editlab.data.requests import EditRequest
from editlab.evaluation.scoring import score_requests
from editlab.randomness import python_rng


class CompositeObserver:
    """Scores the model as it is on new facts, earlier facts and neighbours.

    Args:
        cases: facts a probe set, at most (a seeded sample when there are more).
    """

    def __init__(self, model: Any, cases: int, seed: int) -> None:
        self.model, self.cases, self.seed = model, cases, seed

    def __call__(self, requests: Sequence[EditRequest], earlier: Sequence[EditRequest]) -> dict[str, float]:
        """``new``, ``earlier``, ``neighbors`` (absent where there are none) and their mean ``composite``."""
        new = score_requests(self.model, self._sample(requests, "new"))
        parts = {
            "new": new.loc[new["probe"] != "neighborhood", "success"].mean(),
            "neighbors": new.loc[new["probe"] == "neighborhood", "success"].mean(),
        }
        if earlier:
            old = score_requests(self.model, self._sample(earlier, "earlier"), ("rewrite", "neighborhood"))
            parts["earlier"] = old.loc[old["probe"] == "rewrite", "success"].mean()
            neighbors = old.loc[old["probe"] == "neighborhood", "success"].mean()
            parts["neighbors"] = (parts["neighbors"] + neighbors) / 2
        found = {k: float(v) for k, v in parts.items() if v == v}
        return {**found, "composite": sum(found.values()) / len(found)}

    def _sample(self, requests: Sequence[EditRequest], what: str) -> list[EditRequest]:
        if len(requests) <= self.cases:
            return list(requests)
        return python_rng("label", what, self.seed, len(requests)).sample(list(requests), self.cases)
