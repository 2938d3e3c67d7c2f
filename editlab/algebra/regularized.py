"""The regularised least-squares system that the closed-form edits share, in its d x d and its n x n form.

``dW = R K^T (p A + K K^T)^-1 = R (p I + K^T A^-1 K)^-1 K^T A^-1`` minimises ``|dW K - R|^2 + p tr(dW A dW^T)``. The
left form needs one factorisation of a d x d matrix, O(d^3); the right one (Woodbury) costs O(d^2 n) when the Cholesky
factor of C is at hand, and stays defined at p = 0, where it is the equality-constrained optimum.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from editlab.algebra.history import History, Solve
from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Diagnostics, Problem, Result
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.spd import factor_spd

logger = logging.getLogger(__name__)


class System(Protocol):
    """The penalty A of a solve, in both of its forms."""

    @property
    def limit(self) -> float:
        """Condition number above which a ridge is raised."""

    def dense(self) -> Tensor:
        """(d_in, d_in): A."""

    def solve(self, right_side: Tensor) -> tuple[Tensor, float]:
        """``A^-1 B`` for B (d_in, n), and the ridge that the factored matrix needed."""


@dataclass(frozen=True, eq=False)
class Penalty:
    """``A = weight C + ridge I + history``, formed only where the form of the solve needs it.

    Attributes:
        moment: C (d_in, d_in).
        weight: lambda.
        ridge: mu; with eigenvectors of C at hand it costs no new factorisation.
        history: keys of earlier batches, or None; they update the inverse.
        limit: condition number above which a ridge is raised.
    """

    moment: SecondMoment
    weight: float
    ridge: float
    history: History | None
    limit: float

    def dense(self) -> Tensor:
        """(d_in, d_in): A."""
        matrix = self.weight * self.moment.matrix
        matrix.diagonal().add_(self.ridge)
        return matrix if self.history is None else matrix.add_(self.history.dense())

    def solve(self, right_side: Tensor) -> tuple[Tensor, float]:
        """``A^-1 B`` for B (d_in, n), and the ridge that the factored matrix needed."""
        if self.history is None:
            return self._plain(right_side)
        raised = self._plain(right_side[:, :0])[1]
        name = ("penalty", self.moment, self.weight, self.ridge, self.limit)
        found = self.history.inverse(name, self._base)(right_side)
        return found, raised

    def _plain(self, right_side: Tensor) -> tuple[Tensor, float]:
        found, ridge = self.moment.solve_shifted(right_side, self.ridge / self.weight, self.limit)
        return found / self.weight, ridge

    def _base(self, folded: Tensor | None) -> Solve:
        """The solve of A with the folded part of the history alone."""
        if folded is None:
            return lambda columns: self._plain(columns)[0]
        matrix = self.weight * self.moment.matrix
        matrix.diagonal().add_(self.ridge)
        system = factor_spd(matrix.add_(folded), self.limit, "penalty with earlier keys")
        if system.raised:
            logger.warning("penalty with earlier keys: ill-conditioned, solved with a ridge of %.1e", system.raised[-1])
        return system.solve


@dataclass(frozen=True, eq=False)
class Ridge:
    """``A = ridge I + history``: nothing is known of other inputs.

    Attributes:
        keys: (d_in, n) of the solve, for size and device.
        ridge: alpha.
        history: keys of earlier batches, or None.
        limit: condition number above which a ridge is raised.
    """

    keys: Tensor
    ridge: float
    history: History | None
    limit: float

    def dense(self) -> Tensor:
        """(d_in, d_in): A."""
        size = len(self.keys)
        matrix = torch.zeros(size, size).to(self.keys) if self.history is None else self.history.dense()
        matrix.diagonal().add_(self.ridge)
        return matrix

    def solve(self, right_side: Tensor) -> tuple[Tensor, float]:
        """``A^-1 B`` for B (d_in, n); no ridge is needed."""
        if self.history is None:
            return right_side / self.ridge, 0.0
        return self.history.inverse(("ridge", self.ridge, self.limit), self._base)(right_side), 0.0

    def _base(self, folded: Tensor | None) -> Solve:
        if folded is None:
            return lambda columns: columns / self.ridge
        matrix = folded.clone()
        matrix.diagonal().add_(self.ridge)
        return factor_spd(matrix, self.limit, "ridge with earlier keys").solve


def solve_penalised(problem: Problem, penalty: System, p: float, what: str) -> Result:
    """``R K^T (p A + K K^T)^-1`` in the asked or the cheaper form.

    Raises:
        NumericalError: ``what`` is ill-conditioned with every ridge.
    """
    keys, moment_ridge = problem.keys, 0.0
    if problem.form == "woodbury" or (problem.form == "auto" and problem.facts < keys.shape[0]):
        inverse_keys, moment_ridge = penalty.solve(keys)
        gram = symmetric(keys.T @ inverse_keys)
        gram.diagonal().add_(p)
        system = factor_spd(gram, penalty.limit, what)
        right, form = system.solve(inverse_keys.T), "woodbury"
    else:
        system = factor_spd(symmetric(p * penalty.dense() + keys @ keys.T), penalty.limit, what)
        right, form = system.solve(keys).T, "direct"
    raised = ([moment_ridge] if moment_ridge else []) + system.raised
    return thin(problem.residual, right), describe(form, system.condition, raised, moment_ridge)


def thin(left: Tensor, right: Tensor) -> Factors:
    """``left @ right`` with no more columns than the smaller dimension of the product."""
    if left.shape[1] <= min(left.shape[0], right.shape[1]):
        return Factors(left, right)
    return Factors.from_dense(left @ right)


def describe(form: str, condition: float = 1.0, raised: list[float] | None = None, ridge: float = 0.0) -> Diagnostics:
    """Diagnostics of a solve: its form, the condition number, the ridges raised and the ridge of C."""
    return {"form": form, "condition": condition, "ridge_raised": raised or [], "moment_ridge": ridge}


def symmetric(matrix: Tensor) -> Tensor:
    """The mean of a square matrix and its transpose."""
    return (matrix + matrix.T) / 2
