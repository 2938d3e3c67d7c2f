"""Edits inside the null space of preserved keys, with neither a d x d projector nor a d x d solve.

AlphaEdit (Fang et al. 2024, arXiv 2410.02355) writes ``dW = R K^T P (K K^T P + K' K'^T P + lambda I)^-1``: K the keys to
edit, K' those of earlier edits, ``P`` the projector onto directions that preserved keys hardly use. Because P is
symmetric and idempotent this equals

    dW = [R 0] ([K K']^T P [K K'] + lambda I)^-1 [K K']^T P,

a system as large as there are keys. ``P = I - U U^T`` with U the directions in use, from the thin SVD of the preserved
keys (d_in, n): with n < d_in the null space has at least d_in - n dimensions whatever the threshold, and none of its
basis is ever formed. A vision transformer's MLP has d_in = 3072; 500 keys span at most 500 of them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from editlab.algebra.history import History, Solve
from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Diagnostics
from editlab.algebra.regularized import describe, symmetric, thin
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.spd import CONDITION_LIMIT, factor_spd
from editlab.errors import ConfigError, NumericalError


@dataclass(frozen=True, eq=False)
class Projector:
    """``P = I - U U^T``, onto the null space of preserved keys.

    Attributes:
        used: U (d_in, r), orthonormal columns: the directions that are protected.
        free: Q (d_in, d_in - r), the others, where they are known: ``P = Q Q^T`` is taken where it is cheaper.
    """

    used: Tensor
    free: Tensor | None = None

    @classmethod
    def of_moment(cls, moment: SecondMoment, threshold: float, share: float | None) -> Projector:
        """AlphaEdit's projector, from the eigenvectors of C (:meth:`SecondMoment.null_dimension`): no number is copied."""
        vectors, free = moment.eigh()[1], moment.null_dimension(threshold, share)
        return cls(vectors[:, free:], vectors[:, :free])

    @property
    def dimension(self) -> int:
        """Dimension of the null space, d_in - r."""
        return self.used.shape[0] - self.used.shape[1]

    def __call__(self, keys: Tensor) -> Tensor:
        """``P K`` for K (d_in, n)."""
        if self.free is not None and self.free.shape[1] <= self.used.shape[1]:
            return self.free @ (self.free.T @ keys)
        return keys - self.used @ (self.used.T @ keys)

    def share(self, keys: Tensor) -> float:
        """``|P K|^2 / |K|^2``: the part of the keys that an edit can use."""
        return float(self(keys).square().sum() / keys.square().sum())


@dataclass(frozen=True, eq=False)
class NullSpacePenalty:
    """``A = l2 I + P (H + weight C) P`` inside the null space: its solve takes and gives columns in the range of P.

    Attributes:
        onto: P.
        name: what P was made of, for what the history keeps.
        history: H, or None.
        moment, weight: C and its weight (BetaEdit); 0: without it.
    """

    onto: Projector
    name: tuple[SecondMoment, float, float | None]
    l2: float
    history: History | None
    limit: float
    moment: SecondMoment | None = None
    weight: float = 0.0

    def dense(self) -> Tensor:
        """(d_in, d_in): A."""
        size = self.onto.used.shape[0]
        zero = torch.zeros(size, size).to(self.onto.used)
        matrix = zero if self.history is None else self.history.mapped(self.onto).dense()
        return self._with(matrix if self._text is None else matrix + self._text)

    def solve(self, right_side: Tensor) -> tuple[Tensor, float]:
        """``A^-1 B``; no matrix is factored before keys are folded."""
        if self.history is None:
            return self._base(None)(right_side), 0.0
        name = ("null space", *self.name, self.l2, self.limit, self.moment, self.weight)
        return self.history.inverse(name, self._base, self.onto)(right_side), 0.0

    @property
    def condition(self) -> float:
        """An upper bound of the condition number of A on the range of P."""
        energy = 0.0 if self.history is None else self.history.energy
        if self.moment is not None and self.weight:
            energy += self.weight * float(self.moment.matrix.trace())
        return 1.0 + energy / self.l2 if self.l2 > 0 else math.inf

    @functools.cached_property
    def _text(self) -> Tensor | None:
        """(d_in, d_in): ``weight P C P``."""
        if self.moment is None or not self.weight:
            return None
        return self.weight * symmetric(self.onto(self.onto(self.moment.matrix).T))

    def _with(self, matrix: Tensor) -> Tensor:
        matrix = symmetric(matrix)
        matrix.diagonal().add_(self.l2)
        return matrix

    def _base(self, folded: Tensor | None) -> Solve:
        if folded is None and self._text is None:
            return lambda columns: columns / self.l2
        parts = [] if self._text is None else [self._text]
        parts += [] if folded is None else [self.onto(self.onto(folded).T)]
        matrix = self._with(parts[0] if len(parts) == 1 else parts[0] + parts[1])
        lower = factor_spd(matrix, self.limit, "null space with earlier keys").lower
        return lambda columns: self.onto(torch.cholesky_solve(columns, lower))


def refreshed(moment: SecondMoment, history: History, keys: int, weight: float) -> SecondMoment:
    """``(H / n + weight C) / (weight + 1)``, in whose least used directions BetaEdit (arXiv 2605.09285) goes on.

    Args:
        keys: n, of all earlier batches.
    """
    matrix = (history.dense() / keys + weight * moment.matrix) / (weight + 1)
    return SecondMoment(symmetric(matrix), moment.count + keys)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and eigenvectors of ``C = K K^T`` in the space that the keys span.

    Attributes:
        values: (r,) descending, r = min(d_in, n).
        vectors: (d_in, r), one a column.
    """

    values: Tensor
    vectors: Tensor

    @property
    def mean_square(self) -> float:
        """``E|k|^2``, the trace of C."""
        return float(self.values.sum())


def spectrum(keys: Tensor) -> Spectrum:
    """The spectrum of keys (d_in, n) that are already divided by the root of their number.

    With n < d_in it comes from the thin SVD of the keys, and no d x d matrix is formed; else from that matrix.

    Raises:
        NumericalError: the keys are not finite, or all zero.
    """
    keys = keys.double()
    if not bool(keys.isfinite().all()):
        raise NumericalError("preserved keys: hold NaN or Inf")
    if not bool(keys.any()):
        raise NumericalError("preserved keys: all zero")
    if keys.shape[1] < keys.shape[0]:
        vectors, values, _ = torch.linalg.svd(keys, full_matrices=False)
        return Spectrum(values.square(), vectors)
    values, vectors = torch.linalg.eigh(keys @ keys.T)
    return Spectrum(values.flip(0).clamp_min(0.0), vectors.flip(1))


def projector(of: Spectrum, threshold: float) -> Projector:
    """The projector onto what keys do not use: directions with an eigenvalue of ``threshold`` x the largest are used.

    Raises:
        ConfigError: the threshold is not a share, or leaves no direction.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(
            f"nullspace_threshold: {threshold} is not allowed; a share of the largest eigenvalue in (0, 1]"
        )
    used = of.vectors[:, of.values >= threshold * float(of.values.max())]
    if used.shape[1] == used.shape[0]:
        least = float(of.values.min() / of.values.max())
        raise ConfigError(f"nullspace_threshold: {threshold:g} leaves no direction; allowed is more than {least:.3g}")
    return Projector(used)


def project_update(
    keys: Tensor,
    residual: Tensor,
    onto: Projector,
    ridge: float,
    earlier: Tensor | None = None,
    limit: float = CONDITION_LIMIT,
) -> tuple[Factors, Diagnostics]:
    """``[R 0] ([K K']^T P [K K'] + ridge I)^-1 [K K']^T P`` (module docstring).

    Args:
        keys: K (d_in, n). residual: R (d_out, n). earlier: K' (d_in, m) of edits to keep, or None.
        ridge: lambda, in units of a squared key: a share of :attr:`Spectrum.mean_square` means the same at every scale.

    Raises:
        NumericalError: the input is not finite, or the system ill-conditioned with every ridge.
    """
    both = keys if earlier is None else torch.cat([keys, earlier], dim=1)
    both, residual = both.double(), residual.double()
    if not (bool(both.isfinite().all()) and bool(residual.isfinite().all())):
        raise NumericalError("null-space update: keys or residual hold NaN or Inf")
    free = onto(both)
    gram = free.T @ free
    gram.diagonal().add_(ridge)
    system = factor_spd((gram + gram.T) / 2, limit, "null-space system")
    right = system.solve(free.T)[: keys.shape[1]]
    factors = thin(residual, right)
    found = describe("woodbury", system.condition, system.raised)
    gap = (factors.apply(keys.double()) - residual).norm() / residual.norm().clamp_min(1e-300)
    found |= {
        "null_space_dimension": onto.dimension,
        "key_share": onto.share(keys.double()),
        "residual": float(gap),
        "update_norm": factors.norm(),
    }
    return factors, found
