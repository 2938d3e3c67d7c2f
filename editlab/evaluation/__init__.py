"""Measuring a model on edit requests: scores, summaries with intervals, perplexity, generated text, retention.

One module a concern; import what is needed from its module. ``import editlab.evaluation`` itself costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel

    from editlab.data.requests import EditRequest

__all__ = ["evaluate"]


def evaluate(
    model: PreTrainedModel,
    requests: EditRequest | Mapping[str, Any] | Sequence[EditRequest | Mapping[str, Any]],
    *,
    probes: Sequence[str] = ("rewrite", "paraphrase", "neighborhood"),
    edited: Iterable[EditRequest] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    max_tokens: int = 4096,
) -> pandas.DataFrame:
    """Score a model on requests and summarise: ES, PS, NS and S with bootstrap intervals.

    The two steps are :func:`editlab.evaluation.scoring.score_requests` (one row a probe prompt) and
    :func:`editlab.evaluation.summary.summarize` (this function's result: columns metric, protocol, value, n, ci_low,
    ci_high).

    Args:
        requests: the facts, or one; records of any known form will do too, as in :func:`editlab.edit`.
        edited: all facts that are edited in the model. NS then leaves out neighbours that are themselves among them, and
            NS_published is over all; None: NS is the published protocol.

    Raises:
        DataError: something else than requests or records.
        ConfigError: an unknown probe set, or a confidence, resamples or max_tokens out of range.
        ModelError: the model has no tokenizer or is of an unsupported family, or a prompt exceeds its context.
    """
    from editlab.data.edited import EditedFacts
    from editlab.data.forms import as_requests
    from editlab.evaluation.prompts import Surroundings
    from editlab.evaluation.scoring import score_requests
    from editlab.evaluation.summary import case_means, summarize

    around = None if edited is None else Surroundings(EditedFacts(edited))
    frame = score_requests(model, as_requests(requests), probes=probes, around=around, max_tokens=max_tokens)
    if around is not None:
        frame = case_means(frame).assign(index=0)
    return summarize(frame, confidence=confidence, resamples=resamples, seed=seed)
