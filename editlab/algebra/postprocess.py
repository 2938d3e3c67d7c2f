"""Restraints put on a finished update: RECT keeps the entries of most relative weight, PRUNE tames the total change, SPHERE
takes the update off the directions that the weight itself uses most.

Both were proposed against the wear of many edits. RECT (arXiv 2401.04700) sets to zero all but the entries with the
largest ``|dW| / |W|``. PRUNE (arXiv 2405.16821) looks at the total change since the unedited model and compresses its
singular values above the largest one of the original weight, ``s -> log s - log s0 + s0``. SPHERE (arXiv 2510.01172)
keeps the rows of W spread over the sphere as they were: with U the principal directions of W's rows, each of unit length,
``dW -> dW (I - a U U^T)``. The last one moves the right factor alone, so that low rank stays low.
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


def off_principal(update: Factors, problem: Problem, share: float, energy: float) -> Result:
    """SPHERE: ``dW (I - share U U^T)``, U (d_in, r) the fewest principal directions of W that hold ``energy`` of it.

    Principal are the eigenvectors of ``V^T V / d_out``, V the rows of W at unit length: so every row counts alike, and the
    eigenvalues sum to 1. They come from the smaller of the two Gram matrices.
    """
    assert problem.weight is not None
    rows = torch.nn.functional.normalize(problem.weight, dim=1)
    wide = rows.shape[0] < rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    count = int((values.cumsum(0) < energy * values.sum() * (1 - 1e-12)).sum()) + 1
    principal = vectors[:, :count]
    if wide:
        principal = torch.linalg.qr(rows.T @ principal).Q  # as eigenvectors of the other Gram matrix, orthonormal
    right = update.right - share * (update.right @ principal) @ principal.T
    return Factors(update.left, right), {"principal_directions": count}
