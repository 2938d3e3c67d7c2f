"""The bootstrap: what is drawn anew, in numbers that a seed fixes, and the percentiles of what came of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from editlab.randomness import derive_seed

RESAMPLES = 2000
OF_CURVES = 500


def generator(purpose: str, seed: int = 0) -> np.random.Generator:
    """The draws of one purpose, the same in every run."""
    return np.random.default_rng(derive_seed(purpose, seed))


def drawn_counts(rng: np.random.Generator, resamples: int, cases: int) -> NDArray[np.float64]:
    """How often each case is drawn, ``(resamples, cases)``."""
    drawn = rng.integers(cases, size=(resamples, cases)) + np.arange(resamples)[:, None] * cases
    return np.bincount(drawn.ravel(), minlength=resamples * cases).reshape(resamples, cases).astype(float)


def drawn_within(rng: np.random.Generator, labels: ArrayLike, resamples: int) -> NDArray[np.float64]:
    """The same, drawn among the cases with the label and among those without, so that neither class is lost."""
    flags = np.asarray(labels, dtype=bool)
    classes = [np.flatnonzero(flags), np.flatnonzero(~flags)]
    draws = [np.concatenate([rng.choice(rows, size=len(rows)) for rows in classes]) for _ in range(resamples)]
    return np.stack([np.bincount(drawn, minlength=len(flags)) for drawn in draws]).astype(float)


def percentiles(draws: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % percentile interval over the first axis; NaN in draws is left out."""
    low, high = np.nanquantile(np.asarray(draws, dtype=float), [0.025, 0.975], axis=0)
    return low, high
