"""Perplexity of texts: the exponential of the mean negative log-likelihood of a token.

Every token but the first of a text is predicted (the first too where the tokenizer puts a BOS before it); the mean is
over tokens of all texts, so long texts weigh more. Texts are run in batches of similar length; padding is never scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from editlab.errors import ConfigError, DataError
from editlab.evaluation.scoring import pack, token_scores
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.prefix import run_prompts


def perplexity(model: Any, texts: Sequence[str], *, max_tokens: int = 4096, max_length: int | None = None) -> float:
    """exp(sum of token negative log-likelihoods / number of predicted tokens) over ``texts``.

    Args:
        max_tokens: padded tokens a batch may hold; does not change the result beyond rounding.
        max_length: tokens of a text that are used, the rest is cut off (default: the model's context).

    Returns:
        the perplexity; infinity when it exceeds the largest float.

    Raises:
        ConfigError: ``max_tokens`` is below 1 or ``max_length`` below 2.
        DataError: no text has a token to predict.
    """
    nll, tokens = negative_log_likelihood(model, texts, max_tokens=max_tokens, max_length=max_length)
    if not tokens.sum():
        raise DataError("perplexity: no text has two or more tokens")
    with np.errstate(over="ignore"):
        return float(np.exp(nll.sum() / tokens.sum()))


def negative_log_likelihood(
    model: Any, texts: Sequence[str], *, max_tokens: int = 4096, max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Per text: summed negative log-likelihood in nats ``(texts,)`` and number of predicted tokens ``(texts,)``."""
    if max_tokens < 1:
        raise ConfigError(f"max_tokens: {max_tokens} is not allowed; at least 1")
    if max_length is not None and max_length < 2:
        raise ConfigError(f"max_length: {max_length} is not allowed; at least 2")
    limits = [n for n in (max_length, getattr(model.config, "max_position_embeddings", None)) if n]
    limit = min(limits) if limits else None
    tokenizer = tokenizer_of(model)
    encoded = tokenizer(list(texts), add_special_tokens=True).input_ids if texts else []
    rows = [list(ids)[:limit] for ids in encoded]
    nll, tokens = np.zeros(len(rows)), np.array([max(0, len(row) - 1) for row in rows], dtype=np.int64)
    scored = np.flatnonzero(tokens)
    with frozen(model), torch.no_grad():
        architecture = Architecture(model)
        for batch in pack([len(rows[i]) for i in scored], max_tokens):
            chosen = scored[batch]
            nll[chosen] = _batch_nll(architecture, [rows[i] for i in chosen], int(tokenizer.pad_token_id or 0))
    return nll, tokens


def _batch_nll(architecture: Architecture, rows: list[list[int]], pad_id: int) -> np.ndarray:
    states = run_prompts(architecture, rows, pad_id, cache_from=None)
    owner = np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows])
    position = np.concatenate([np.arange(len(row) - 1) for row in rows])
    wanted = torch.tensor([token for row in rows for token in row[1:]], device=architecture.device)
    hidden = states.last_hidden[torch.from_numpy(owner), torch.from_numpy(position)]
    log_prob, _ = token_scores(architecture, hidden, torch.arange(len(owner), device=architecture.device), wanted)
    return -np.bincount(owner, weights=log_prob, minlength=len(rows))
