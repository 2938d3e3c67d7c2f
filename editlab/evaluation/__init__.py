"""Measuring a model on edit requests: scores, summaries with intervals, perplexity, generated text, retention.

One module a concern; import what is needed from its module. ``import editlab.evaluation`` itself costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel

    from editlab.data.requests import EditRequest

__all__ = ["evaluate"]


def evaluate(
    model: PreTrainedModel,
    requests: Sequence[EditRequest],
    *,
    probes: Sequence[str] = ("rewrite", "paraphrase", "neighborhood"),
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    max_tokens: int = 4096,
) -> pandas.DataFrame:
    """Score a model on requests and summarise: ES, PS, NS and S with bootstrap intervals.

    The two steps are :func:`editlab.evaluation.scoring.score_requests` (one row a probe prompt) and
    :func:`editlab.evaluation.summary.summarize` (this function's result: columns metric, protocol, value, n, ci_low,
    ci_high).

    Raises:
        ConfigError: an unknown probe set, or a confidence, resamples or max_tokens out of range.
        ModelError: the model has no tokenizer or is of an unsupported family, or a prompt exceeds its context.
    """
    from editlab.evaluation.scoring import score_requests
    from editlab.evaluation.summary import summarize

    frame = score_requests(model, requests, probes=probes, max_tokens=max_tokens)
    return summarize(frame, confidence=confidence, resamples=resamples, seed=seed)
