"""Intervals of shares, of means over cells, and of plain means: 95 % unless asked otherwise.

A cell already has an interval over its cases. Over several seeds the mean gets one that honours both sources of
spread: the cases within a seed, and the seeds where they differ by more than their cases explain (random effects, with
the variance between seeds cut off at zero as by DerSimonian and Laird, 1986).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Z = 1.959963984540054  # 97.5 % point of the standard normal distribution


def wilson(share: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of shares of n cases (for means of fractions in [0, 1] it is at least as wide as needed)."""
    p, count = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    centre = (p + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(np.maximum(0.0, p * (1 - p) / count + Z**2 / (4 * count**2)))
    return np.clip(np.minimum(centre - half, p), 0, 1), np.clip(np.maximum(centre + half, p), 0, 1)


def pooled(
    values: ArrayLike, lows: ArrayLike, highs: ArrayLike, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float, float]:
    """Mean of independent cells (seeds) with its interval, from the interval of each.

    Args:
        bounds: that the interval is cut at (shares: 0 and 1).

    Returns:
        mean, low, high; NaN where no cell has a value. The two sides are kept apart, so a bounded score whose cells lean
        against the bound keeps a lopsided interval.
    """
    v, low, high = (np.asarray(x, dtype=float) for x in (values, lows, highs))
    known = ~np.isnan(v)
    v, low, high = v[known], low[known], high[known]
    if not len(v):
        return float("nan"), float("nan"), float("nan")
    between = float(v.var(ddof=1)) if len(v) > 1 else 0.0
    mean = float(v.mean())
    sides = [max(between, float((((v - edge) / Z) ** 2).mean())) for edge in (low, high)]
    below, above = (Z * (side / len(v)) ** 0.5 for side in sides)
    return mean, max(mean - below, bounds[0]), min(mean + above, bounds[1])


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of independent values with Student's interval; without width (NaN) for a single value."""
    from scipy.special import stdtrit

    v = np.asarray(values, dtype=float)
    v = v[~np.isnan(v)]
    if not len(v):
        return float("nan"), float("nan"), float("nan")
    mean = float(v.mean())
    if len(v) == 1:
        return mean, float("nan"), float("nan")
    half = float(stdtrit(len(v) - 1, 0.975)) * float(v.std(ddof=1)) / len(v) ** 0.5
    return mean, mean - half, mean + half


def mean_table(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Means over the rows (seeds) of each group: ``by``, seeds, and for each column its mean, _low and _high."""
    rows: list[dict[str, Any]] = []
    for key, part in frame.groupby(list(by), sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True)) | {"seeds": len(part)}
        for column in columns:
            row[column], row[f"{column}_low"], row[f"{column}_high"] = mean_interval(part[column])
        rows.append(row)
    names = [c for column in columns for c in (column, f"{column}_low", f"{column}_high")]
    return pd.DataFrame(rows, columns=[*by, "seeds", *names])


def separate(low_a: float, high_b: float) -> bool:
    """Whether A's interval lies above B's; False where either is unknown."""
    return bool(low_a > high_b)
