"""Float64 solutions where float64 is slow: a float32 Cholesky factor, and residuals in float64.

Processors of games and desks do float64 at 1/64 of their float32 speed, and a factorisation is O(d^3). Iterative
refinement (Wilkinson 1963) factors once in float32 and then needs O(d^2) a step: ``x += A32^-1 (b - A x)`` with the residual
in float64. Each step divides the error by about ``1e7 / condition``; a system whose steps do not shrink the residual
is left to float64. The matrix is scaled to a unit diagonal first, which is the best cheap thing for its condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editlab.algebra.spd import cholesky

TOLERANCE = 1e-12
"""Relative residual at which refinement is done."""
MOST_STEPS = 12
"""After so many steps refinement is given up; two or three are the rule."""
FAST = ("6.0", "7.0", "8.0", "9.0", "10.0")
"""Compute capabilities whose float64 runs at half the speed of float32 (data-centre GPUs)."""


def fast_float64(device: torch.device) -> bool:
    """Whether the device computes in float64 at a good part of its float32 speed."""
    if device.type != "cuda":
        return True
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}" in FAST


@dataclass(frozen=True, eq=False)
class SingleFactor:
    """A float32 Cholesky factor of ``S A S`` with ``S = diag(A)^-1/2``.

    Attributes:
        lower: (m, m) float32.
        scale: (m,) float64, the diagonal of S.
    """

    lower: Tensor
    scale: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> SingleFactor | None:
        """The factor of a positive definite matrix (m, m); None where it is not one in float32."""
        scale = matrix.diagonal().clamp(min=torch.finfo(matrix.dtype).tiny).rsqrt()
        lower, failed = cholesky((scale[:, None] * matrix * scale).float())
        return None if failed else cls(lower, scale)

    def solve(self, matrix: Tensor, right_side: Tensor) -> tuple[Tensor, float]:
        """``A^-1 B`` for B (m, n) in float64, and its relative residual ``|B - A X| / |B|``.

        Args:
            matrix: A, in float64; the residual says whether the result can be used.
        """
        size = float(right_side.norm())
        found, gap = torch.zeros_like(right_side), right_side
        residual = 1.0 if size > 0 else 0.0
        for _ in range(MOST_STEPS):
            if residual <= TOLERANCE:
                break
            step = self.scale[:, None] * torch.cholesky_solve((self.scale[:, None] * gap).float(), self.lower).double()
            new_gap = right_side - matrix @ (found + step)
            new_residual = float(new_gap.norm()) / size
            if not new_residual < 0.5 * residual:
                break
            found, gap, residual = found + step, new_gap, new_residual
        return found, residual
