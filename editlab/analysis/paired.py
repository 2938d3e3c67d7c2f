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
    tables = [(_wide(a, value), _wide(b, value)) for a, b in pairs]
    for a, b in tables:
        if not a.index.equals(b.index):
            raise DataError("paired comparison: the two cells did not edit the same cases")
    if not tables:
        raise DataError("paired comparison: no pair of cells was given")
    point = np.mean([_means(a.to_numpy()) - _means(b.to_numpy()) for a, b in tables], axis=0)
    rng = np.random.default_rng(derive_seed("paired", seed))
    draws = np.zeros((resamples, len(NAMES)))
    for a, b in tables:
        left, right = a.to_numpy(), b.to_numpy()
        for k in range(resamples):
            chosen = rng.integers(len(left), size=len(left))
            draws[k] += (_means(left[chosen]) - _means(right[chosen])) / len(tables)
    edge = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [edge, 1 - edge], axis=0)
    below, above = (draws <= 0).mean(0), (draws >= 0).mean(0)
    p = np.minimum(1.0, 2 * np.minimum(below, above))
    count = sum(len(a) for a, _ in tables)
    return [
        Difference(name, float(point[i]), float(low[i]), float(high[i]), float(p[i]), count)
        for i, name in enumerate(NAMES)
    ]


def _wide(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Cases (sorted) x probes of ES, PS, NS."""
    wide = table.pivot_table(index="case_id", columns="probe", values=value, aggfunc="mean")
    return wide.reindex(columns=list(METRICS.values())).sort_index()


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """ES, PS, NS and S of a set of cases; NaN where a probe set is empty."""
    present = ~np.isnan(values)
    counts = present.sum(0)
    sums = np.where(present, values, 0.0).sum(0)
    means = np.divide(sums, counts, out=np.full(values.shape[1], np.nan), where=counts > 0)
    return np.append(means, harmonic_mean(means))
