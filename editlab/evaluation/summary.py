"""From scores of probe prompts to ES, PS, NS and S with intervals.

Efficacy (ES), paraphrase (PS) and neighbourhood score (NS) are means over cases of each case's mean over its prompts;
S is their harmonic mean (ROME, arXiv 2202.05262). Where edited neighbours are told apart
(:class:`~editlab.evaluation.prompts.Surroundings`), NS is over the untouched ones, NS_edited over the others,
NS_published over all, as the published protocol has it, and SS over unedited facts of the edited subjects (SS_apart: those
of relations that were not held). Intervals are percentile bootstrap intervals over *cases*, because the prompts of one case
rise and fall together. All metrics share the same resamples, so the interval of S honours the correlation of its three parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from editlab.errors import ConfigError
from editlab.randomness import derive_seed

METRICS = {"ES": "rewrite", "PS": "paraphrase", "NS": "neighborhood"}
BESIDE = {
    "NS_published": "published_neighborhood",
    "NS_edited": "edited_neighborhood",
    "SS": "same_subject",
    "SS_apart": "same_subject_apart",
    "ES_single": "rewrite_single",
    "ES_repeated": "rewrite_repeated",
}
"""Further scores, summarised where their rows are there; the last two are ES of the facts whose subject a stream does not,
and does, come back to."""
PROTOCOLS = ("success", "accuracy", "magnitude")
COMPOSITE = ("success", "accuracy")  # protocols whose parts are shares in [0, 1], so that S is defined
COLUMNS = ["metric", "protocol", "value", "n", "ci_low", "ci_high"]
_RESAMPLES_AT_A_TIME = 64


def summarize(frame: pd.DataFrame, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Summarise a frame of :func:`editlab.evaluation.scoring.score_requests`.

    Args:
        confidence: coverage of the percentile intervals, in (0, 1).
        resamples: bootstrap resamples of the cases; 0 gives no intervals (NaN).
        seed: of the resamples.

    Returns:
        always 11 rows: ES, PS, NS x (success, accuracy, magnitude) and S x (success, accuracy), then three for each of
        :data:`BESIDE` that the frame has; columns metric, protocol, value, n (cases), ci_low, ci_high. A probe set without
        prompts has NaN and n = 0, and then S is NaN too: a harmonic mean of fewer parts would not compare. Neither the
        order of rows nor of cases matters.

    Raises:
        ConfigError: ``confidence`` or ``resamples`` is out of range.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: {confidence} is not allowed; a number between 0 and 1")
    if resamples < 0:
        raise ConfigError(f"resamples: {resamples} is not allowed; 0 or more")
    cases = per_case(frame)
    values = cases.to_numpy(dtype=float)
    point = _with_composite(_means(np.ones((1, len(values))), values))[0]
    low, high = np.full_like(point, np.nan), np.full_like(point, np.nan)
    if resamples and len(values):
        draws = _with_composite(np.concatenate([_means(w, values) for w in _resample(len(values), resamples, seed)]))
        complete = ~np.isnan(draws).all(0)
        edges = [(1 - confidence) / 2, (1 + confidence) / 2]
        low[complete], high[complete] = np.nanquantile(draws[:, complete], edges, axis=0)
    present = ~np.isnan(values)
    rows = [("S", protocol) for protocol in COMPOSITE] + list(cases.columns)
    named = [(str(column[0]), str(column[1])) for column in cases.columns]
    parts = [[metric in METRICS and p == protocol for metric, p in named] for protocol in COMPOSITE]
    counts = [present[:, part].any(1).sum() for part in parts] + list(present.sum(0))
    counts = [0 if np.isnan(value) else int(n) for value, n in zip(point, counts, strict=True)]
    summary = pd.DataFrame(rows, columns=COLUMNS[:2]).assign(value=point, n=counts, ci_low=low, ci_high=high)
    first, main = len(COMPOSITE), len(METRICS) * len(PROTOCOLS)
    order = [*range(first, first + main), *range(first), *range(first + main, len(rows))]
    return summary.iloc[order].reset_index(drop=True)[COLUMNS]


def case_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the prompts of each (case, probe), neighbours told apart or not: all that later summaries need.

    Rows ``published_neighborhood`` are means over all neighbours, edited or not.
    """
    around = frame["probe"].isin(("neighborhood", "edited_neighborhood"))
    rows = pd.concat([frame, frame[around].assign(probe="published_neighborhood")])
    return rows.groupby(["case_id", "probe"], sort=True)[list(PROTOCOLS)].mean().reset_index()


def per_case(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over the prompts of each case: index case_id (sorted), columns (metric, protocol), NaN where it has none."""
    ordered = frame.sort_values(["case_id", "probe", "index"], kind="stable")
    wide = ordered.pivot_table(index="case_id", columns="probe", values=list(PROTOCOLS), aggfunc="mean")
    found = set(ordered["probe"])
    probes = METRICS | {metric: probe for metric, probe in BESIDE.items() if probe in found}
    columns = pd.MultiIndex.from_product([probes, PROTOCOLS], names=["metric", "protocol"])
    cases = pd.DataFrame(index=wide.index, columns=columns, dtype=float)
    for metric, protocol in columns:
        if (protocol, probes[metric]) in wide.columns:
            cases[(metric, protocol)] = wide[(protocol, probes[metric])].astype(float)
    return cases


def harmonic_mean(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonic mean along the last axis of non-negative numbers: 0 where a part is 0, NaN where a part is NaN."""
    safe = np.where(parts == 0, 1.0, parts)
    mean = parts.shape[-1] / (1.0 / safe).sum(-1)
    return np.where((parts == 0).any(-1) & ~np.isnan(parts).any(-1), 0.0, mean)


def _resample(cases: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each case is drawn, ``(resamples, cases)`` in pieces."""
    rng = np.random.default_rng(derive_seed("bootstrap", seed))
    for start in range(0, resamples, _RESAMPLES_AT_A_TIME):
        rows = min(_RESAMPLES_AT_A_TIME, resamples - start)
        drawn = rng.integers(cases, size=(rows, cases)) + np.arange(rows)[:, None] * cases
        yield np.bincount(drawn.ravel(), minlength=rows * cases).reshape(rows, cases).astype(float)


def _means(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over cases, ``(resamples, cases) x (cases, columns)``, leaving out NaN.

    ``einsum`` and not ``@``: its order of summation does not depend on the number of threads.
    """
    present = ~np.isnan(values)
    sums = np.einsum("bn,nm->bm", weights, np.where(present, values, 0.0))
    counts = np.einsum("bn,nm->bm", weights, present.astype(float))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _with_composite(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """S for each protocol of :data:`COMPOSITE` before ``(resamples, columns)`` means; the first nine are its parts."""
    parts = means[:, : len(METRICS) * len(PROTOCOLS)]
    by_metric = parts.reshape(len(means), len(METRICS), len(PROTOCOLS))
    composites = [harmonic_mean(by_metric[:, :, PROTOCOLS.index(protocol)]) for protocol in COMPOSITE]
    return np.concatenate([np.stack(composites, axis=1), means], axis=1)
