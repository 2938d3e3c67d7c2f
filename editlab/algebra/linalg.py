"""Low-rank updates of a linear map, never decomposed more than needed.

An edit of a linear map ``W`` (d_out, d_in) is a product of two thin factors, ``dW = left @ right``; all that is asked
of it (its norm, its action on keys, its best rank-r form) follows from the factors by thin QR and small SVDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editlab.errors import NumericalError


@dataclass(frozen=True, eq=False)
class Factors:
    """An update ``dW = left @ right`` of rank at most ``r``.

    Attributes:
        left: (d_out, r).
        right: (r, d_in).
        product: (d_out, d_in) where it is known, so that nobody forms it again.
    """

    left: Tensor
    right: Tensor
    product: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            shapes = f"{tuple(self.left.shape)} and {tuple(self.right.shape)}"
            raise ValueError(f"factors of shapes {shapes} do not multiply: allowed are (d_out, r) and (r, d_in)")

    @classmethod
    def zeros(cls, d_out: int, d_in: int, dtype: torch.dtype = torch.float64) -> Factors:
        """The update that changes nothing, of rank 0."""
        return cls(torch.zeros(d_out, 0, dtype=dtype), torch.zeros(0, d_in, dtype=dtype))

    @classmethod
    def from_dense(cls, matrix: Tensor) -> Factors:
        """Any matrix (d_out, d_in) as factors, bit for bit: the identity stands on the smaller side."""
        d_out, d_in = matrix.shape
        unit = torch.eye(min(d_out, d_in), dtype=matrix.dtype, device=matrix.device)
        return cls(unit, matrix, matrix) if d_out <= d_in else cls(matrix, unit, matrix)

    @classmethod
    def concatenate(cls, parts: Sequence[Factors]) -> Factors:
        """The sum of one or more updates of equal shape, exact: ranks add up."""
        return cls(torch.cat([p.left for p in parts], dim=1), torch.cat([p.right for p in parts], dim=0))

    @property
    def rank(self) -> int:
        """Number of columns of ``left``: an upper bound of the rank of the update."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.left.shape[0], self.right.shape[1]

    def __add__(self, other: Factors) -> Factors:
        return Factors.concatenate([self, other])

    def dense(self) -> Tensor:
        """(d_out, d_in): the update as one matrix."""
        return self.left @ self.right if self.product is None else self.product

    def apply(self, keys: Tensor) -> Tensor:
        """``dW @ keys`` for keys (d_in, n), without forming ``dW``."""
        return self.left @ (self.right @ keys)

    def scaled(self, scale: float) -> Factors:
        """The update times ``scale``."""
        return Factors(self.left * scale, self.right)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Factors:
        """The same update in another type or on another device."""
        product = None if self.product is None else self.product.to(device=device, dtype=dtype)
        return Factors(self.left.to(device=device, dtype=dtype), self.right.to(device=device, dtype=dtype), product)

    def norm(self) -> float:
        """Frobenius norm, from thin QR factors: exact also where parts cancel, as a Gram matrix would not be."""
        if self.rank == 0:
            return 0.0
        core = torch.linalg.qr(self.left, mode="r").R @ torch.linalg.qr(self.right.T, mode="r").R.T
        return float(torch.linalg.matrix_norm(core))

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(U (d_out, k), s (k,), Vh (k, d_in))`` with k = min(r, d_out, d_in), by two thin QR and one small SVD.

        Raises:
            NumericalError: the factors are not finite.
        """
        if not (self.left.isfinite().all() and self.right.isfinite().all()):
            raise NumericalError("low-rank update: the factors hold NaN or Inf")
        outer, upper = torch.linalg.qr(self.left)
        inner, lower = torch.linalg.qr(self.right.T)
        u, s, vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        return outer @ u, s, vh @ inner.T

    def compressed(self, rank: int | None = None, tolerance: float = 0.0) -> Factors:
        """The best approximation of rank ``rank`` in the Frobenius norm (Eckart-Young), with balanced factors.

        Args:
            rank: largest rank kept; None keeps all, so that the product stays the same up to rounding.
            tolerance: singular values at or below this share of the largest are dropped too (0: only exact zeros).
        """
        if self.rank == 0:
            return self
        u, s, vh = self.svd()
        keep = min(len(s) if rank is None else rank, int((s > tolerance * s[0]).sum()))
        root = s[:keep].sqrt()
        return Factors(u[:, :keep] * root, root[:, None] * vh[:keep])


def compact(factors: Factors) -> Factors:
    """The same update with at most min(d_out, d_in) columns: keeps the memory of a long stream flat."""
    return factors.compressed() if factors.rank > min(factors.shape) else factors
