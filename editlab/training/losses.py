"""Losses of unlearning on tensors alone: next-token losses with their conventions, preference losses, steering.

Published code averages in different ways, and a learning rate means nothing without saying which. Each way has a name:

- ``masked``: mean over the counted tokens of all rows (the loss of transformers with labels of -100);
- ``included``: mean over every position, padding too (the published retraining code pads with the end-of-text token and
  counts it);
- ``by_sequence``: mean over the counted tokens of a row, then over rows (RMU in open-unlearning);
- ``sum``: sum over the counted tokens of a row, mean over rows (the likelihood of a text, as NPO needs it).

Signs are the caller's: a function here is what its formula says.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from editlab.errors import ConfigError

Averaging = Literal["masked", "included", "by_sequence", "sum"]


def _precise(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _kept(values: Tensor, counted: Tensor) -> Tensor:
    """Values where they count, zero elsewhere: a NaN of padding does not spread."""
    return torch.where(counted, values, values.new_zeros(()))


def next_token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """Negative log-likelihood of each token after the first: ``logits (n, T, V)``, ``ids (n, T)`` -> ``(n, T - 1)``."""
    flat = functional.cross_entropy(_precise(logits[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], -1)


def average(values: Tensor, counted: Tensor, how: Averaging = "masked") -> Tensor:
    """One number from ``values (n, T)`` where ``counted (n, T)`` says which positions are real; see the module.

    A row without a counted token contributes zero.

    Raises:
        ConfigError: ``how`` is none of the four names.
    """
    if how == "included":
        return values.mean()
    kept = _kept(values, counted)
    if how == "masked":
        return kept.sum() / counted.sum().clamp(min=1)
    if how == "by_sequence":
        return (kept.sum(1) / counted.sum(1).clamp(min=1)).mean()
    if how == "sum":
        return kept.sum(1).mean()
    raise ConfigError(f"averaging: {how!r} is not allowed; masked, included, by_sequence or sum")


def token_loss(logits: Tensor, ids: Tensor, learned: Tensor, how: Averaging = "masked") -> Tensor:
    """Cross-entropy of the tokens that ``learned (n, T)`` marks (the first position is never predicted).

    With ``included`` every position counts, whatever ``learned`` says.
    """
    return average(next_token_nll(logits, ids), learned[:, 1:], how)


def row_nll(logits: Tensor, ids: Tensor, learned: Tensor) -> Tensor:
    """``-log p`` of the learned tokens of each row, ``(n,)``."""
    return _kept(next_token_nll(logits, ids), learned[:, 1:]).sum(1)


def npo(nll: Tensor, reference_nll: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation (Zhang et al., 2024, arXiv 2404.05868, equation 3):
    ``-2/beta mean log sigmoid(-beta log(p / p_ref))`` with summed log-likelihoods, ``nll = -log p (n,)``."""
    return -2 / beta * functional.logsigmoid(beta * (nll - reference_nll)).mean()


def simnpo(nll: Tensor, tokens: Tensor, beta: float, delta: float) -> Tensor:
    """SimNPO (Fan et al., 2024, arXiv 2410.07163): no reference, length in its place:
    ``-2/beta mean log sigmoid(beta (nll / tokens - delta))``, both ``(n,)``."""
    return -2 / beta * functional.logsigmoid(beta * (nll / tokens - delta)).mean()


def squared_error(a: Tensor, b: Tensor, counted: Tensor, how: Averaging = "masked") -> Tensor:
    """Mean squared error of activations ``(n, T, d)``; over ``d`` always the mean, over positions as ``how`` says."""
    return average((a - b).square().mean(-1), counted, how)


def token_kl(reference: Tensor, logits: Tensor) -> Tensor:
    """``KL(reference || model)`` of the next-token laws at each position, in nats: ``(..., V)`` twice -> ``(...)``."""
    log_p, log_q = _precise(reference).log_softmax(-1), _precise(logits).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def steering_vector(size: int, generator: torch.Generator) -> Tensor:
    """RMU's control direction: uniform numbers in [0, 1), all positive, scaled to length 1, ``(size,)``
    (Li et al., 2024, arXiv 2403.03218, and its code)."""
    vector = torch.rand(size, generator=generator)
    return vector / vector.norm()
