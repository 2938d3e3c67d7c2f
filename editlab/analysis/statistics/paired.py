"""Paired comparison of two methods on the same cases: what a difference is worth.

Two cells that looked at the same cases (same seed, same stream) differ in the method alone; comparing case by case removes
the spread between cases. All cases of a seed share one edited model, though, so that the interval is Student's over seeds
(:mod:`.streams`). With one or two seeds it is a percentile bootstrap that draws cases anew within each: about these streams
alone. Scores that are composed of several means are formed from the drawn means, so that their interval honours the correlation
of their parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editlab.analysis.statistics.resampling import RESAMPLES, drawn_counts, generator
from editlab.analysis.statistics.streams import over_streams

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Resampled:
    """A method's metrics over seeds, and what they are on cases drawn anew.

    Attributes:
        points: ``(seeds, metrics)``.
        draws: ``(resamples, metrics)`` their mean over seeds; draw k is of the same cases in every method drawn together.
        n: cases of all seeds.
    """

    points: Array
    draws: Array
    n: int

    @property
    def point(self) -> Array:
        """``(metrics,)`` means over seeds."""
        return np.asarray(self.points.mean(axis=0))


def resampled(
    methods: Sequence[Sequence[Array]], compose: Callable[[Array], Array], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Resampled]:
    """Draw the cases of several methods together.

    Args:
        methods: for each method its values ``(cases, parts)``, NaN where a case has none, one array a seed, over the same
            cases in all methods.
        compose: from means ``(..., parts)`` to metrics ``(..., metrics)``.
    """
    rng = generator("paired", seed)
    seeds = len(methods[0])
    points: list[Array] = []
    draws: list[Array] = []
    for number in range(seeds):
        values = np.stack([arrays[number] for arrays in methods])
        weights = drawn_counts(rng, resamples, values.shape[1])
        points.append(compose(_means(np.ones((1, values.shape[1])), values))[:, 0])
        draws.append(compose(_means(weights, values)) / seeds)
    counts = [sum(map(len, arrays)) for arrays in methods]
    found = zip(np.stack(points, axis=1), sum(draws[1:], draws[0]), counts, strict=True)
    return [Resampled(point, draw, n) for point, draw, n in found]


def difference(a: Resampled, b: Resampled, column: int) -> dict[str, Any]:
    """A minus B of two methods drawn together, in one metric: mean over seeds, 95 % interval, p-value, pairs of cases.

    ``general`` says whether the interval is about streams in general, or about these alone.
    """
    found = over_streams((a.points - b.points)[:, column], (a.draws - b.draws)[:, column])
    ends = {"ci_low": found.low, "ci_high": found.high}
    return {"value": found.value, **ends, "p_value": found.p_value, "n": a.n, "general": found.general}


def _means(weights: Array, values: Array) -> Array:
    """Means of weighted cases: ``(draws, cases) x (methods, cases, parts) -> (methods, draws, parts)``.

    NaN where a part is empty. ``einsum`` and not ``@``: its sums do not depend on the number of threads.
    """
    present = ~np.isnan(values)
    sums = np.einsum("bn,mnk->mbk", weights, np.where(present, values, 0.0))
    counts = np.einsum("bn,mnk->mbk", weights, present.astype(float))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
