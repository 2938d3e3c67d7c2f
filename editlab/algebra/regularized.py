"""The regularised least-squares system that the closed-form edits share, in its d x d and its n x n form.

``dW = R K^T (p A + K K^T)^-1 = R (p I + K^T A^-1 K)^-1 K^T A^-1`` minimises ``|dW K - R|^2 + p tr(dW A dW^T)``. The
left form needs one factorisation of a d x d matrix, O(d^3); the right one (Woodbury) costs O(d^2 n) when the Cholesky
factor of C is at hand, and stays defined at p = 0, where it is the equality-constrained optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors, SecondMoment
from editlab.algebra.problem import Diagnostics, Problem, Result
from editlab.algebra.spd import factor_spd


@dataclass(frozen=True, eq=False)
class Penalty:
    """``A = weight C + ridge I + history``, formed only where the form of the solve needs it.

    Attributes:
        moment: C (d_in, d_in).
        weight: lambda.
        ridge: mu; with eigenvectors of C at hand it costs no new factorisation.
        history: (d_in, d_in) sum of K K^T of earlier batches, or None; with it A must be factored anew.
        limit: condition number above which a ridge is raised.
    """

    moment: SecondMoment
    weight: float
    ridge: float
    history: Tensor | None
    limit: float

    def dense(self) -> Tensor:
        """(d_in, d_in): A."""
        matrix = self.weight * self.moment.matrix
        matrix.diagonal().add_(self.ridge)
        return matrix if self.history is None else matrix.add_(self.history)

    def solve(self, right_side: Tensor) -> tuple[Tensor, float]:
        """``A^-1 B`` for B (d_in, n), and the ridge that the factored matrix needed."""
        if self.history is not None:
            whole = SecondMoment(self.dense(), self.moment.count)
            return whole.solve(right_side, self.limit), whole.ridge
        base = self.moment.shifted(self.ridge / self.weight) if self.ridge else self.moment
        return base.solve(right_side, self.limit) / self.weight, base.ridge


def identity_moment(basis: Tensor) -> SecondMoment:
    """The identity in the coordinates of a basis (d_in, q), as a second moment."""
    unit = torch.eye(basis.shape[1]).to(basis)
    return SecondMoment(unit, 1, cholesky=unit)


def solve_penalised(problem: Problem, penalty: Penalty, p: float, what: str) -> Result:
    """``R K^T (p A + K K^T)^-1`` in the asked or the cheaper form.

    Raises:
        NumericalError: ``what`` is ill-conditioned with every ridge.
    """
    keys, moment_ridge = problem.keys, 0.0
    cheaper = problem.facts < keys.shape[0] and penalty.history is None
    if problem.form == "woodbury" or (problem.form == "auto" and cheaper):
        inverse_keys, moment_ridge = penalty.solve(keys)
        gram = _symmetric(keys.T @ inverse_keys)
        gram.diagonal().add_(p)
        system = factor_spd(gram, penalty.limit, what)
        right, form = system.solve(inverse_keys.T), "woodbury"
    else:
        system = factor_spd(_symmetric(p * penalty.dense() + keys @ keys.T), penalty.limit, what)
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


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
