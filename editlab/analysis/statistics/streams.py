"""Intervals that count the stream: what may be said about streams that were not run.

All cases of a stream share one edited model, so they rise and fall together, and cases alone say nothing about the next
stream. The unit of an interval is therefore the stream (a seed): each gives one value, and the mean over S of them has
Student's interval with S - 1 degrees of freedom. That needs no model of the cases: whatever a stream's cases add to the
spread of its value is in the spread between streams already.

With fewer than :data:`ENOUGH` streams such an interval is too wide to be of use (at two, 12.7 standard errors). There,
cases are drawn anew within each stream, and the result describes *these streams* and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from editlab.analysis.statistics.resampling import percentiles

ENOUGH = 3


class Estimate(NamedTuple):
    """A mean over streams.

    Attributes:
        low, high: 95 % interval (NaN where nothing is known of the spread).
        p_value: two-sided, of the hypothesis that the mean is zero.
        general: whether the interval is about streams in general (Student's); False: about these streams alone.
    """

    value: float
    low: float
    high: float
    p_value: float
    general: bool


def over_streams(values: ArrayLike, draws: ArrayLike = ()) -> Estimate:
    """The mean of one value a stream.

    Args:
        values: (S,) one a stream; NaN where a stream has none.
        draws: (resamples,) the mean of the same streams on cases drawn anew, for where there are too few streams, or where
            all of them have the same value.
    """
    from scipy.stats import t

    v, found = (x[~np.isnan(x)] for x in (np.asarray(values, dtype=float), np.asarray(draws, dtype=float)))
    nan = float("nan")
    mean = float(v.mean()) if len(v) else nan
    spread = float(v.std(ddof=1)) if len(v) > 1 else 0.0
    if len(v) >= ENOUGH and spread > 1e-12:
        error = spread / len(v) ** 0.5
        half = float(t.ppf(0.975, len(v) - 1)) * error
        return Estimate(mean, mean - half, mean + half, float(2 * t.sf(abs(mean) / error, len(v) - 1)), True)
    if not (len(v) and len(found)):
        return Estimate(mean, nan, nan, nan, False)
    found = np.where(np.abs(found) < 1e-12, 0.0, found)  # sums in another order are no difference
    low, high = percentiles(found)
    p = min(1.0, 2 * min(float((found <= 0).mean()), float((found >= 0).mean())))
    return Estimate(mean, float(low), float(high), p, False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family of comparisons; NaN stays NaN and does not count."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, dtype=float)
    known = ~np.isnan(p)
    adjusted = np.full_like(p, np.nan)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return [float(x) for x in adjusted]
