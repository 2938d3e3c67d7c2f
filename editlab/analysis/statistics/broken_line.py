"""When does gradual forgetting turn into catastrophic forgetting? A change point in a curve over edits.

Retention over the edits seen is fitted by two straight lines that meet at a knot (a continuous broken line, least
squares, the knot searched over the snapshots). The turning point is the knot where the second slope is steeper; how
much better the broken line fits than one line, and an interval of the knot over resampled streams, say how far to
believe it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from editlab.analysis.statistics.resampling import generator, percentiles
from editlab.errors import DataError

MINIMUM = 5  # snapshots


@dataclasses.dataclass(frozen=True)
class TurningPoint:
    """A broken line through a curve.

    Attributes:
        knot: edits seen where the lines meet.
        slope_before, slope_after: change of the value per 1,000 edits.
        explained: share of the single line's squared error that the broken line removes, in [0, 1].
        kind: ``collapse`` (steeper fall after the knot), ``levels_off`` (flatter after it) or ``none`` (one line does).
    """

    knot: float
    slope_before: float
    slope_after: float
    explained: float
    kind: str


def turning_point(edits: ArrayLike, values: ArrayLike, least: float = 0.3) -> TurningPoint:
    """Fit the broken line.

    Args:
        least: ``explained`` below which the curve counts as one line.

    Raises:
        DataError: fewer than five snapshots, or not one value for each.
    """
    x, y = np.asarray(edits, dtype=float) / 1000.0, np.asarray(values, dtype=float)
    if len(x) != len(y) or len(x) < MINIMUM:
        raise DataError(f"turning point: {len(x)} snapshots and {len(y)} values; at least {MINIMUM} of each are needed")
    order = np.argsort(x)
    x, y = x[order], y[order]
    line, _ = _fit(np.column_stack([np.ones_like(x), x]), y)
    best = min((_broken(x, y, knot) for knot in x[1:-1]), key=lambda found: found[0])
    error, knot, before, after = best
    explained = 1.0 - error / line if line > 1e-12 else 0.0
    kind = "none" if explained < least else ("collapse" if after < before else "levels_off")
    return TurningPoint(1000.0 * knot, before, after, explained, kind)


def _broken(x: NDArray[np.float64], y: NDArray[np.float64], knot: float) -> tuple[float, float, float, float]:
    error, found = _fit(np.column_stack([np.ones_like(x), x, np.maximum(0.0, x - knot)]), y)
    return error, knot, float(found[1]), float(found[1] + found[2])


def _fit(design: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    solution = np.asarray(np.linalg.lstsq(design, y, rcond=None)[0], dtype=np.float64)
    return float(((design @ solution - y) ** 2).sum()), solution


def turning_point_interval(
    curves: pd.DataFrame, value: str, *, resamples: int = 1000, seed: int = 0
) -> tuple[TurningPoint, float, float]:
    """The turning point of the mean curve of several streams, with a 95 % percentile interval of its knot.

    Streams and snapshots are resampled: streams with replacement, then snapshots with replacement (the curve of a
    single stream has an interval too).

    Args:
        curves: rows with ``seed``, ``edits_seen`` and the column ``value``.

    Raises:
        DataError: as :func:`turning_point`.
    """
    wide = curves.pivot_table(index="edits_seen", columns="seed", values=value)
    edits, table = wide.index.to_numpy(dtype=float), wide.to_numpy(dtype=float)
    point = turning_point(edits, np.nanmean(table, axis=1))
    rng = generator("turning point", seed)
    knots = []
    for _ in range(resamples):
        streams = rng.integers(table.shape[1], size=table.shape[1])
        rows = np.unique(rng.integers(len(edits), size=len(edits)))
        if len(rows) >= MINIMUM:
            knots.append(turning_point(edits[rows], np.nanmean(table[rows][:, streams], axis=1)).knot)
    low, high = percentiles(knots) if knots else (np.nan, np.nan)
    return point, float(low), float(high)
