"""When does gradual forgetting turn into catastrophic forgetting? A change point in a curve over edits.

Retention over the edits seen is fitted by two straight lines that meet at a knot (a continuous broken line, least
squares, the knot searched over the snapshots). A broken line always fits better than one line, and with few snapshots
much better, so the gain is held against what it is on straight lines: noise is added to the one line, many times, and
each draw is searched for its own best knot (a parametric bootstrap; since the gain does not depend on the size of the
noise, the test is exact for independent normal errors). Only where the gain is larger than on all but :data:`LEVEL` of
these lines is there a turning point.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from editlab.analysis.statistics.resampling import RESAMPLES, generator
from editlab.errors import DataError

MINIMUM = 5  # snapshots
LEVEL = 0.025  # half of the usual 5 %: snapshots of one stream share facts, so their errors are not quite independent
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TurningPoint:
    """A broken line through a curve.

    Attributes:
        knot: edits seen where the lines meet.
        slope_before, slope_after: change of the value per 1,000 edits.
        p_value: share of straight lines with noise on which a broken line gains as much.
        kind: ``collapse`` (steeper fall after the knot), ``levels_off`` (flatter after it) or ``none`` (one line does).
        low, high: 95 % interval of the knot, from broken lines with noise (NaN where the kind is ``none``).
    """

    knot: float
    slope_before: float
    slope_after: float
    p_value: float
    kind: str
    low: float = float("nan")
    high: float = float("nan")


def turning_point(edits: ArrayLike, values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> TurningPoint:
    """Fit the broken line and test it against one line.

    Args:
        resamples: lines with noise, for the test and for the interval.

    Raises:
        DataError: fewer than five snapshots, not one value for each, or two snapshots after the same number of edits.
    """
    x, y = np.asarray(edits, dtype=float) / 1000.0, np.asarray(values, dtype=float)
    if len(x) != len(y) or len(x) < MINIMUM:
        raise DataError(f"turning point: {len(x)} snapshots and {len(y)} values; at least {MINIMUM} of each are needed")
    if len(np.unique(x)) < len(x):
        raise DataError("turning point: two snapshots after the same number of edits; give one value for each")
    order = np.argsort(x)
    x, y = x[order], y[order]
    search = _Search(x)
    noise = generator("turning point", seed).standard_normal((resamples, len(x)))
    gain, place = (found[0] for found in search(y[None]))
    p = float((1 + (search(noise)[0] >= gain - 1e-12).sum()) / (1 + resamples))
    knot = float(x[1:-1][place])
    broken, before, after = _broken(x, y, knot)
    if p > LEVEL:
        return TurningPoint(1000 * knot, before, after, p, "none")
    spread = (((y - broken) ** 2).sum() / max(len(x) - 4, 1)) ** 0.5  # a level, two slopes and the knot
    low, high = np.quantile(1000 * x[1:-1][search(broken + spread * noise)[1]], [0.025, 0.975])
    kind = "collapse" if after < before else "levels_off"
    return TurningPoint(1000 * knot, before, after, p, kind, float(low), float(high))


class _Search:
    """The best knot of many curves over the same snapshots ``x`` at once."""

    def __init__(self, x: Array) -> None:
        self.bases = [_basis(_design(x, knot)) for knot in x[1:-1]]
        self.line = _basis(np.column_stack([np.ones_like(x), x]))

    def __call__(self, curves: Array) -> tuple[Array, NDArray[np.intp]]:
        """``(draws, n)`` curves -> by draw, the share of the one line's squared error that the best knot removes, and
        which knot that is."""
        total = (curves**2).sum(1)
        line = total - ((curves @ self.line) ** 2).sum(1)
        errors = np.stack([total - ((curves @ basis) ** 2).sum(1) for basis in self.bases], axis=1)
        flat = line <= 1e-12 * np.maximum(total, 1e-300)
        gain = np.where(flat, 0.0, 1.0 - errors.min(1) / np.where(flat, 1.0, line))
        return gain, errors.argmin(1)


def _basis(design: Array) -> Array:
    return np.linalg.qr(design)[0]


def _design(x: Array, knot: float) -> Array:
    return np.column_stack([np.ones_like(x), x, np.maximum(0.0, x - knot)])


def _broken(x: Array, y: Array, knot: float) -> tuple[Array, float, float]:
    """Fitted values, slope before and slope after."""
    design = _design(x, knot)
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return design @ found, float(found[1]), float(found[1] + found[2])


def stream_turning_point(curves: pd.DataFrame, value: str) -> TurningPoint:
    """:func:`turning_point` of the mean curve of several streams: rows with ``seed``, ``edits_seen`` and ``value``."""
    wide = curves.pivot_table(index="edits_seen", columns="seed", values=value)
    return turning_point(wide.index.to_numpy(dtype=float), np.nanmean(wide.to_numpy(dtype=float), axis=1))
