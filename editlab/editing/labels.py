"""Was a decision right? Labels from evaluation probes, which trust never sees.

For a batch, the model is scored without it and with its whole candidate, by *exact answers*: on the new facts (rewrite and
paraphrase prompts), on facts edited earlier (rewrite prompts), on the untouched neighbours of both and on unedited facts
of their subjects. The composite is the mean of the four shares; a harmonic mean would be near 0 whenever a batch is left
out, and so call every batch good. A batch *should be rolled back* when applying it lowers the composite.

Answers count and not success, which rewards noise: a random target lifts success on its new facts from .04 to .58, chance.
New facts are what the data set asks for, also where a batch was made to ask for something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editlab.data.requests import EditRequest
from editlab.evaluation.prompts import Surroundings
from editlab.evaluation.scoring import score_requests
from editlab.randomness import python_rng


class CompositeObserver:
    """Scores the model as it is on new facts, earlier facts, neighbours and other facts of the subjects.

    Args:
        cases: facts a probe set, at most (a seeded sample when there are more).
        around: tells which facts are edited, those of the batch included.
    """

    def __init__(self, model: Any, cases: int, seed: int, around: Surroundings) -> None:
        self.model, self.cases, self.seed, self.around = model, cases, seed, around

    def __call__(self, requests: Sequence[EditRequest], earlier: Sequence[EditRequest]) -> dict[str, float]:
        """``new``, ``earlier``, ``neighbors``, ``same_subject`` (absent where there are none), their mean ``composite``."""
        new = score_requests(self.model, self._sample(requests, "new"), around=self.around)
        sides = [new]
        parts = {"new": new.loc[new["probe"].isin(("rewrite", "paraphrase")), "accuracy"].mean()}
        if earlier:
            sample = self._sample(earlier, "earlier")
            old = score_requests(self.model, sample, ("rewrite", "neighborhood"), around=self.around)
            parts["earlier"] = old.loc[old["probe"] == "rewrite", "accuracy"].mean()
            sides.append(old)
        for name, probe in (("neighbors", "neighborhood"), ("same_subject", "same_subject")):
            shares = [side.loc[side["probe"] == probe, "accuracy"].mean() for side in sides]
            known = [share for share in shares if share == share]
            parts[name] = sum(known) / len(known) if known else float("nan")
        found = {k: float(v) for k, v in parts.items() if v == v}
        return {**found, "composite": sum(found.values()) / len(found)}

    def _sample(self, requests: Sequence[EditRequest], what: str) -> list[EditRequest]:
        if len(requests) <= self.cases:
            return list(requests)
        return python_rng("label", what, self.seed, len(requests)).sample(list(requests), self.cases)
