"""Intervals of shares, of means over cells, and of plain means: 95 % unless asked otherwise.

A cell already has an interval over its cases. All of them share one edited model, so that they tell nothing about the next
stream: over three seeds or more the mean gets Student's interval over seeds (:mod:`.streams`), never narrower than what the
cases alone would give. One or two seeds leave that of the cases, which is about these streams and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from editlab.analysis.statistics.streams import ENOUGH

Z = 1.959963984540054  # 97.5 % point of the standard normal distribution
NAN = float("nan")


class Interval(NamedTuple):
    """A number with the ends of its interval; NaN where they are unknown."""

    value: float
    low: float = NAN
    high: float = NAN

    @classmethod
    def of(cls, row: Any, name: str = "value") -> Interval:
        """From a row: the column ``name``, with ``{name}_low``, ``low`` or ``ci_low``, whichever is there, and its fellow."""
        low, high = ends_of(row, name)
        return cls(float(row[name]), float(row[low]), float(row[high])) if low in row else cls(float(row[name]))

    @property
    def known(self) -> bool:
        """Whether there are ends."""
        return self.low == self.low

    @property
    def clear(self) -> bool:
        """Whether it does not include zero."""
        return bool(self.low > 0 or self.high < 0)

    def apart(self, other: Interval) -> bool:
        """Whether the two do not overlap."""
        return bool(self.low > other.high or self.high < other.low)

    def covering(self, other: Interval) -> Interval:
        """At least as wide as another one."""
        return Interval(self.value, float(np.fmin(self.low, other.low)), float(np.fmax(self.high, other.high)))

    def within(self, low: float, high: float) -> Interval:
        """The ends cut at those of the range that the number can have."""
        return Interval(self.value, max(self.low, low), min(self.high, high))


UNKNOWN = Interval(NAN)


def ends_of(row: Any, name: str) -> tuple[str, str]:
    """The columns with the ends of the interval of ``name``."""
    start = next((start for start in (f"{name}_", "", "ci_") if f"{start}low" in row), "")
    return f"{start}low", f"{start}high"


def beside(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Several side by side, as a row holds them: ``name``, ``{name}_low`` and ``{name}_high`` of each."""
    ends = ("", "_low", "_high")
    return {f"{name}{end}": x for name, found in intervals.items() for end, x in zip(ends, found, strict=True)}


def grouped(
    table: pd.DataFrame,
    by: Sequence[str],
    tell: Callable[[pd.DataFrame], Mapping[str, Any]],
    *,
    sort: bool = False,
    columns: list[str] | None = None,
) -> pd.DataFrame:
    """One row a group: the columns ``by``, then what ``tell`` makes of its rows. ``columns``: of the result, where it must
    have them without any row too."""
    groups = table.groupby(list(by), sort=sort)
    return pd.DataFrame([{**dict(zip(by, key, strict=True)), **tell(part)} for key, part in groups], columns=columns)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """All rows as dictionaries, where a sentence or a mark needs one at a time."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def largest(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row with the largest known value of a column; of several alike the first."""
    return records(frame.iloc[[int(frame[column].to_numpy(dtype=float, na_value=-np.inf).argmax())]])[0]


def smallest(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row with the smallest known value of a column; of several alike the first."""
    return records(frame.iloc[[int(frame[column].to_numpy(dtype=float, na_value=np.inf).argmin())]])[0]


def ends(frame: pd.DataFrame, order: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first and the last row in the order of a column."""
    rows = records(frame.sort_values(order))
    return rows[0], rows[-1]


def stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One under the other, those without rows left out; where none has any, the columns alone."""
    return pd.concat([part for part in parts if len(part)] or [parts[0].iloc[:0]], ignore_index=True)


def wilson(share: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of shares of n cases (for means of fractions in [0, 1] it is at least as wide as needed)."""
    from statsmodels.stats.proportion import proportion_confint

    p, count = np.broadcast_arrays(np.asarray(share, dtype=float), np.asarray(n, dtype=float))
    low, high = proportion_confint(p * count, count, alpha=0.05, method="wilson")
    return np.clip(np.minimum(low, p), 0, 1), np.clip(np.maximum(high, p), 0, 1)


def share_interval(share: float, n: float) -> Interval:
    """One share of n cases with Wilson's interval."""
    low, high = wilson(share, n)
    return Interval(share, float(low), float(high))


def paired_change(gained: float, lost: float, n: float) -> Interval:
    """Change of a share of n cases of which some were gained and others lost (Agresti and Min 2005: half a case in each
    of the four cells); it has a width where nothing changed too.
    """
    if not n:
        return UNKNOWN
    centre = (gained - lost) / (n + 2)
    half = Z * (gained + lost + 1 - (gained - lost) * centre) ** 0.5 / (n + 2)
    return Interval((gained - lost) / n, centre - half, centre + half)


def pooled(values: ArrayLike, lows: ArrayLike, highs: ArrayLike, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Mean of independent cells (seeds), from the interval of each over its cases; unknown where no cell has a value.

    From :data:`ENOUGH` cells on Student's interval over them, widened to that of their cases where they happen to agree better
    than their cases allow; with fewer cells the latter alone. Its two sides are kept apart, so a bounded score whose cells
    lean against the bound keeps a lopsided interval.

    Args:
        bounds: that the interval is cut at (shares: 0 and 1).
    """
    v, low, high = (np.asarray(x, dtype=float) for x in (values, lows, highs))
    known = ~np.isnan(v)
    v, low, high = v[known], low[known], high[known]
    if not len(v):
        return UNKNOWN
    mean = float(v.mean())
    below, above = (float((((v - edge) / len(v)) ** 2).sum() ** 0.5) for edge in (low, high))
    if len(v) >= ENOUGH:
        over_seeds = mean_interval(v)
        below, above = (max(side, mean - over_seeds.low) for side in (below, above))
    return Interval(mean, max(mean - below, bounds[0]), min(mean + above, bounds[1]))


def pooled_shares(shares: pd.Series, n: pd.Series) -> Interval:
    """Mean share over cells (seeds) of so many cases each: :func:`pooled`, from Wilson's interval of each."""
    return pooled(shares, *wilson(shares, n))


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of independent values with Student's interval; without width (NaN) for a single value."""
    from scipy import stats

    v = np.asarray(values, dtype=float)
    v = v[~np.isnan(v)]
    if len(v) < 2:
        return Interval(float(v[0])) if len(v) else UNKNOWN
    mean = float(v.mean())
    half = float(stats.t.ppf(0.975, len(v) - 1)) * float(v.std(ddof=1)) / len(v) ** 0.5
    return Interval(mean, mean - half, mean + half)


def mean_table(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Means over the rows (seeds) of each group: ``by``, seeds, and for each column its mean, _low and _high."""

    def means(part: pd.DataFrame) -> dict[str, Any]:
        return {"seeds": len(part)} | beside({column: mean_interval(part[column]) for column in columns})

    return grouped(frame, by, means, columns=[*by, "seeds", *beside(dict.fromkeys(columns, UNKNOWN))])


def rank_correlation(x: pd.Series, y: pd.Series) -> Interval:
    """Spearman's correlation with Fisher's interval; NaN where a side does not vary or there are fewer than 4 pairs."""
    if len(x) < 4 or x.nunique() < 2 or y.nunique() < 2:
        return UNKNOWN
    value = float(x.rank().corr(y.rank()))
    centre, half = np.arctanh(np.clip(value, -0.999999, 0.999999)), Z * 1.03 / (len(x) - 3) ** 0.5
    return Interval(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)))


def area_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Interval of an area under the ROC curve: the values that the area does not reject at 5 % (Newcombe 2006, method 5).

    It has a width for a perfect curve too.
    """
    theta = np.linspace(0.0, 1.0, 2001)
    half = (positives + negatives) / 2 - 1
    spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
    variance = theta * (1 - theta) * spread / (positives * negatives)
    inside = theta[np.abs(area - theta) <= Z * np.sqrt(np.maximum(0.0, variance)) + 1e-12]
    return float(min(inside.min(initial=area), area)), float(max(inside.max(initial=area), area))
