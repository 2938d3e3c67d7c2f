"""Symmetric positive definite systems: Cholesky factors with a watched condition number and a recorded ridge.

Every closed-form edit ends in one such system. A system whose condition number is above the limit gets a ridge
(a multiple of the identity), raised tenfold until the limit holds and written down; after that it is an error. A
pseudo-inverse, which would hide the defect, is never taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from editlab.errors import NumericalError

CONDITION_LIMIT = 1e12
"""Largest accepted condition number: at it, float64 solves leave a relative residual of about 1e-5 (measured)."""

EXACT_CONDITION_SIZE = 512
"""Up to this size condition numbers are exact (eigenvalues); above, the 1-norm estimate of Hager and Higham is used."""

RIDGE_STEPS = 8
"""How often a ridge is raised, tenfold each time, before a system is given up."""


@dataclass(frozen=True, eq=False)
class SpdFactor:
    """A Cholesky factor of ``A + ridge I``, its condition number and the ridges that were tried (the last holds)."""

    lower: Tensor
    condition: float
    raised: list[float]

    @property
    def ridge(self) -> float:
        """The ridge in the factor; 0 if none was needed."""
        return self.raised[-1] if self.raised else 0.0

    def solve(self, right_side: Tensor) -> Tensor:
        """``(A + ridge I)^-1 B``."""
        return torch.cholesky_solve(right_side, self.lower)


def factor_spd(matrix: Tensor, condition_limit: float, what: str) -> SpdFactor:
    """Factor a symmetric positive definite matrix (m, m), raising a ridge if its condition number is above the limit.

    The condition number is exact up to m = 512 and Higham's 1-norm estimate (within a factor m, usually 3) above.

    Raises:
        NumericalError: not finite, zero, or too ill-conditioned with every ridge; ``what`` names the system.
    """
    if not matrix.isfinite().all():
        raise NumericalError(f"{what}: the matrix holds NaN or Inf")
    best: list[Tensor] = []

    def condition(ridge: float) -> float:
        candidate = matrix + ridge * torch.eye(len(matrix)).to(matrix) if ridge else matrix
        lower, info = cholesky(candidate)
        best[:] = [lower]
        return math.inf if info else _condition(candidate, lower)

    _, reached, raised = raise_ridge(condition, float(matrix.diagonal().mean()), condition_limit, what)
    return SpdFactor(best[0], reached, raised)


def raise_ridge(
    condition: Callable[[float], float], scale: float, limit: float, what: str
) -> tuple[float, float, list[float]]:
    """The first ridge of 0, scale/limit, 10 scale/limit, ... whose condition number is within the limit.

    Returns:
        The ridge, its condition number, and the list of ridges tried after 0.

    Raises:
        NumericalError: none of them is.
    """
    raised: list[float] = []
    reached = condition(0.0)
    while not reached <= limit and len(raised) < RIDGE_STEPS and scale > 0 and math.isfinite(scale):
        raised.append(scale / limit * 10.0 ** len(raised))
        reached = condition(raised[-1])
    if not reached <= limit:
        tried = f"ridges up to {raised[-1]:.1e}" if raised else "no ridge possible on a zero matrix"
        raise NumericalError(f"{what}: condition number {reached:.1e} above {limit:.1e} ({tried})")
    return (raised[-1] if raised else 0.0), reached, raised


def cholesky(matrix: Tensor) -> tuple[Tensor, int]:
    """The lower factor and 0, or a useless matrix and the order of the first minor that is not positive."""
    lower, info = torch.linalg.cholesky_ex(matrix)
    return lower, int(info)


def _condition(matrix: Tensor, lower: Tensor) -> float:
    if len(matrix) > EXACT_CONDITION_SIZE:
        return estimated_condition(matrix, lower)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    low, high = float(eigenvalues[0]), float(eigenvalues[-1])
    return high / low if low > 0 else math.inf


def estimated_condition(matrix: Tensor, lower: Tensor) -> float:
    """|A|_1 times a lower estimate of |A^-1|_1 (Hager 1984, Higham 1988): a few solves, O(m^2) each."""
    vector = torch.full((len(matrix), 1), 1.0 / len(matrix), dtype=matrix.dtype, device=matrix.device)
    inverse_norm = 0.0
    for _ in range(5):
        image = torch.cholesky_solve(vector, lower)
        inverse_norm = max(inverse_norm, float(image.abs().sum()))
        signs = torch.where(image < 0, -torch.ones_like(image), torch.ones_like(image))
        gradient = torch.cholesky_solve(signs, lower)
        best = int(gradient.abs().argmax())
        if float(gradient[best].abs()) <= float((gradient * vector).sum()):
            break
        vector = torch.zeros_like(vector)
        vector[best] = 1.0
    return float(torch.linalg.matrix_norm(matrix, ord=1)) * inverse_norm
