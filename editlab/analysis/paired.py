"""Paired comparison of two methods on the same cases: what a difference is worth.

Two cells that edited the same facts (same seed, same stream) differ in the method alone; comparing case by case removes
the spread between facts. The interval is a percentile bootstrap that draws cases anew within each seed; S is formed
from the drawn means, so its interval honours the correlation of its parts. The p-value is the two-sided share of draws
on the other side of zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.errors import DataError
from editlab.evaluation.summary import METRICS, harmonic_mean
from editlab.randomness import derive_seed

NAMES = (*METRICS, "S")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One metric of method A minus method B: mean over seeds, 95 % interval, p-value, pairs of cases."""

    metric: str
    value: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int

    def verdict(self, better: str = "helps", worse: str = "hurts") -> str:
        """What may be said: ``helps``, ``hurts``, or that no difference was found."""
        if self.ci_low > 0:
            return better
        return worse if self.ci_high < 0 else "makes no measurable difference"


def paired_differences(
    pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    *,
    value: str = "success",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Difference]:
    """ES, PS, NS and S of A minus B.

    Args:
        pairs: one a seed: the tables of A and B with columns case_id, probe and ``value`` (rows of ``cases.csv`` of one
            ``when``).

    Raises:
        DataError: the cases of a pair differ.
    """
    tables = [(wide_cases(a, value), wide_cases(b, value)) for a, b in pairs]
    for a, b in tables:
        if not a.index.equals(b.index):
            raise DataError("paired comparison: the two cells did not edit the same cases")
    if not tables:
        raise DataError("paired comparison: no pair of cells was given")
    left, right = resampled([[a for a, _ in tables], [b for _, b in tables]], resamples=resamples, seed=seed)
    return differences(left, right, confidence)


@dataclasses.dataclass(frozen=True)
class Resampled:
    """A method's ES, PS, NS and S over seeds, and what they are on cases drawn anew.

    Attributes:
        point: ``(4,)`` means over seeds.
        draws: ``(resamples, 4)`` the same of each draw; draw k is of the same cases in every method drawn together.
        n: cases of all seeds.
    """

    point: NDArray[np.float64]
    draws: NDArray[np.float64]
    n: int


def resampled(methods: Sequence[Sequence[pd.DataFrame]], *, resamples: int = 2000, seed: int = 0) -> list[Resampled]:
    """Draw the cases of several methods together.

    Args:
        methods: for each method its tables (:func:`wide_cases`), one a seed, over the same cases in all methods.
    """
    rng = np.random.default_rng(derive_seed("paired", seed))
    seeds = len(methods[0])
    points = np.zeros((len(methods), len(NAMES)))
    draws = np.zeros((len(methods), resamples, len(NAMES)))
    for number in range(seeds):
        values = np.stack([tables[number].to_numpy() for tables in methods])
        weights = _drawn(rng, resamples, values.shape[1])
        points += _means(np.ones((1, values.shape[1])), values)[:, 0] / seeds
        draws += _means(weights, values) / seeds
    counts = [sum(map(len, tables)) for tables in methods]
    return [Resampled(p, d, n) for p, d, n in zip(points, draws, counts, strict=True)]


def differences(a: Resampled, b: Resampled, confidence: float = 0.95) -> list[Difference]:
    """A minus B, metric by metric, of two methods drawn together."""
    draws = a.draws - b.draws
    draws[np.abs(draws) < 1e-12] = 0.0  # sums in another order are no difference
    edge = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [edge, 1 - edge], axis=0)
    below, above = (draws <= 0).mean(0), (draws >= 0).mean(0)
    p = np.minimum(1.0, 2 * np.minimum(below, above))
    point = a.point - b.point
    return [
        Difference(name, float(point[i]), float(low[i]), float(high[i]), float(p[i]), a.n)
        for i, name in enumerate(NAMES)
    ]


def wide_cases(table: pd.DataFrame, value: str = "success") -> pd.DataFrame:
    """Cases (sorted) x probes of ES, PS, NS."""
    wide = table.pivot_table(index="case_id", columns="probe", values=value, aggfunc="mean")
    return wide.reindex(columns=list(METRICS.values())).sort_index()


def _drawn(rng: np.random.Generator, resamples: int, cases: int) -> NDArray[np.float64]:
    """How often each case is drawn, ``(resamples, cases)``."""
    drawn = rng.integers(cases, size=(resamples, cases)) + np.arange(resamples)[:, None] * cases
    return np.bincount(drawn.ravel(), minlength=resamples * cases).reshape(resamples, cases).astype(float)


def _means(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """ES, PS, NS and S of weighted cases: ``(draws, cases) x (methods, cases, 3) -> (methods, draws, 4)``.

    NaN where a probe set is empty. ``einsum`` and not ``@``: its sums do not depend on the number of threads.
    """
    present = ~np.isnan(values)
    sums = np.einsum("bn,mnk->mbk", weights, np.where(present, values, 0.0))
    counts = np.einsum("bn,mnk->mbk", weights, present.astype(float))
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return np.concatenate([means, harmonic_mean(means)[..., None]], axis=-1)
