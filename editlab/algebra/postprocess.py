"""Restraints put on a finished update: RECT keeps the entries of most relative weight, PRUNE tames the total change.

Both were proposed against the wear of many edits. RECT (arXiv 2401.04700) sets to zero all but the entries with the
largest ``|dW| / |W|``. PRUNE (arXiv 2405.16821) looks at the total change since the unedited model and compresses its
singular values above the largest one of the original weight, ``s -> log s - log s0 + s0``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Problem, Result
from editlab.errors import NumericalError


def largest_relative(update: Tensor, weight: Tensor, share: float) -> Tensor:
    """(d_out, d_in): the update with only the ``share`` of entries of largest ``|dW / (W + 1e-8)|``.

    The threshold is the k-th smallest ratio with k = floor(numel (1 - share)), itself kept, as in the published code.
    """
    ratio = (update / (weight + 1e-8)).abs()
    rank = max(1, ratio.numel() * round((1 - share) * 10**6) // 10**6)  # whole numbers: 0.6 * numel would round down
    threshold = torch.kthvalue(ratio.flatten(), rank).values
    return torch.where(ratio >= threshold, update, torch.zeros_like(update))


def restrained(values: Tensor, limit: Tensor) -> Tensor:
    """PRUNE's singular values: ``log s - log s0 + s0`` above ``s0 = limit``, unchanged below."""
    return torch.where(values > limit, values.clamp(min=1e-300).log() - limit.log() + limit, values)


def keep_largest_relative(update: Factors, problem: Problem, share: float) -> Result:
    """RECT: the ``share`` of the update's entries that is largest against the current weight (the result is of full rank)."""
    assert problem.weight is not None
    kept = largest_relative(update.dense(), problem.weight, share)
    return Factors.from_dense(kept), {"kept_share": float((kept != 0).double().mean())}


def restrain_total(update: Factors, problem: Problem) -> Result:
    """PRUNE: factors F with ``W + F = W0 + restrained(W - W0 + dW)``.

    Only the singular values above the limit change, so F is ``dW`` plus one correction of rank their number.
    """
    u, s, vh, limit = _total_change(update, problem)
    above = s > limit
    shrink = (restrained(s, limit) - s)[above]
    correction = Factors(u[:, above] * shrink, vh[above])
    restrained_update = update + correction if correction.rank else update
    return restrained_update, {"restrained": correction.rank, "largest": float(s[0]), "limit": float(limit)}


def restrain_total_on_top(update: Factors, problem: Problem) -> Result:
    """The published script: the restrained total comes on top of the edited weight, ``W + dW + restrained(total)``.

    It is meant for one use after the last batch; applied to every batch the change would double each time.
    """
    u, s, vh, limit = _total_change(update, problem)
    present = s > s[0] * max(problem.shape) * torch.finfo(s.dtype).eps
    total = Factors(u[:, present] * restrained(s, limit)[present], vh[present])
    return update + total, {"restrained": int((s > limit).sum()), "largest": float(s[0]), "limit": float(limit)}


def _total_change(update: Factors, problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """SVD of ``W - W0 + dW`` and the largest singular value of ``W0``."""
    assert problem.weight is not None
    assert problem.original is not None
    total = problem.weight - problem.original + update.dense()
    if not total.isfinite().all():
        raise NumericalError("prune: the total change holds NaN or Inf")
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    return u, s, vh, torch.linalg.matrix_norm(problem.original, ord=2)
