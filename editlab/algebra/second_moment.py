"""The second moment of a map's inputs, ``C = E[k k^T]``: symmetric and positive, factored once and reused for every batch.

It is solved with one Cholesky factor, made on first use or read from a file; through its eigenvectors where these are at hand;
or, where float64 is slow, with a float32 factor and refinement (:mod:`editlab.algebra.refinement`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editlab.algebra.refinement import SingleFactor, fast_float64
from editlab.algebra.spd import CONDITION_LIMIT, estimated_condition, factor_spd, raise_ridge
from editlab.errors import NumericalError

REFINED_RESIDUAL = 1e-10
"""Relative residual up to which a refined float32 solution stands for one in float64."""


@dataclass(eq=False)
class SecondMoment:
    """``C = E[k k^T]`` of the inputs of a linear map, with its factorisations, given or made on first use.

    Attributes:
        matrix: (d_in, d_in), kept in float64.
        count: number of keys in the mean.
        cholesky: lower factor of ``C + ridge I``, or None until it is needed.
        eigenvalues: (d_in,) of ``C``, ascending, or None until needed.
        eigenvectors: (d_in, d_in), one a column, or None until needed.
        ridge: what had to be added to the diagonal so that ``C`` could be factored (0: nothing).
        refined: relative residual of the last solution from a float32 factor; None: no solution came from one.
    """

    matrix: Tensor
    count: int
    cholesky: Tensor | None = None
    eigenvalues: Tensor | None = None
    eigenvectors: Tensor | None = None
    ridge: float = 0.0
    refined: float | None = field(default=None, init=False)
    _validated: bool = field(default=False, init=False, repr=False)
    _condition: float = field(default=math.nan, init=False, repr=False)
    _single: SingleFactor | None = field(default=None, init=False, repr=False)
    _shifted: dict[float, SecondMoment] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.matrix = self.matrix.to(torch.float64)
        for name in ("cholesky", "eigenvalues", "eigenvectors"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value.to(self.matrix))

    @property
    def size(self) -> int:
        """d_in."""
        return self.matrix.shape[0]

    def to(self, device: torch.device | str, *, spectrum: bool | None = None) -> SecondMoment:
        """The same second moment on another device (itself where it is there already).

        Args:
            spectrum: take along the eigenvectors alone (True) or the Cholesky factor alone (False), where it has both.
        """
        if self.matrix.device == torch.device(device):
            return self
        self.validate()
        lower, vectors = self.cholesky, self.eigenvectors
        if lower is not None and vectors is not None and spectrum is not None:
            lower, vectors = (None, vectors) if spectrum else (lower, None)
        parts = (self.matrix, lower, None if vectors is None else self.eigenvalues, vectors)
        moved = [None if part is None else part.to(device) for part in parts]
        assert moved[0] is not None
        found = SecondMoment(moved[0], self.count, moved[1], moved[2], moved[3], self.ridge)
        found._validated = True
        return found

    def validate(self) -> SecondMoment:
        """Check that the matrix is finite, square and symmetric, and that a given Cholesky factor belongs to it; once.

        Raises:
            NumericalError: it is not.
        """
        if self._validated:
            return self
        shape = tuple(self.matrix.shape)
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
            raise NumericalError(f"second moment: shape {shape} is not square")
        if not self.matrix.isfinite().all():
            raise NumericalError("second moment: holds NaN or Inf")
        scale = float(self.matrix.abs().max())
        if float((self.matrix - self.matrix.T).abs().max()) > 1e-6 * scale:
            raise NumericalError("second moment: not symmetric")
        if float(self.matrix.diagonal().min()) < -1e-9 * scale or scale == 0:
            raise NumericalError("second moment: zero or not positive semidefinite (bad diagonal)")
        self._validate_cholesky(scale)
        if self.eigenvalues is not None and bool((self.eigenvalues.diff() < 0).any()):
            raise NumericalError("second moment: its eigenvalues are not ascending")
        self._validated = True
        return self

    def _validate_cholesky(self, scale: float) -> None:
        """One product with a fixed vector tells a stale factor from the right one in O(d^2)."""
        if self.cholesky is None:
            return
        if self.cholesky.shape != self.matrix.shape or not self.cholesky.isfinite().all():
            raise NumericalError("second moment: the Cholesky factor has another shape, or NaN or Inf")
        probe = torch.linspace(1.0, 2.0, self.size, dtype=self.matrix.dtype, device=self.matrix.device)
        gap = self.cholesky @ (self.cholesky.T @ probe) - self.matrix @ probe - self.ridge * probe
        if float(gap.abs().max()) > 1e-6 * scale * self.size:
            raise NumericalError("second moment: the Cholesky factor belongs to another matrix")

    def factor(self, condition_limit: float = CONDITION_LIMIT) -> Tensor:
        """(d_in, d_in): lower Cholesky factor of ``C + ridge I``; ``ridge`` is raised and recorded if C needs one.

        Raises:
            NumericalError: invalid, or too ill-conditioned with every ridge.
        """
        self.validate()
        if self.cholesky is not None and math.isnan(self._condition):
            self._condition = estimated_condition(self.matrix, self.cholesky)
        if self.cholesky is None or not self._condition <= condition_limit:
            solved = factor_spd(self.matrix, condition_limit, "second moment")
            self.cholesky, self.ridge, self._condition = solved.lower, solved.ridge, solved.condition
        return self.cholesky

    def solve(self, right_side: Tensor, condition_limit: float = CONDITION_LIMIT) -> Tensor:
        """``(C + ridge I)^-1 B`` for B (d_in, n): O(d^2 n) once the factor is there.

        A matrix that came with eigenvectors and without a Cholesky factor is solved through them. Where float64 is slow,
        the factor is a float32 one with refinement (:mod:`editlab.algebra.refinement`), if that converges.

        Raises:
            NumericalError: as :meth:`factor`.
        """
        if self.cholesky is None and self.eigenvalues is not None and self.eigenvectors is not None:
            self.ridge = max(self.ridge, self._spectral_ridge(0.0, condition_limit))
            return self._spectral(right_side, self.ridge)
        if self.cholesky is None and not fast_float64(self.matrix.device):
            refined = self._refined(right_side)
            if refined is not None:
                return refined
        return torch.cholesky_solve(right_side, self.factor(condition_limit))

    def solve_shifted(
        self, right_side: Tensor, shift: float, condition_limit: float = CONDITION_LIMIT
    ) -> tuple[Tensor, float]:
        """``(C + (shift + ridge) I)^-1 B``, and the ridge: through the eigenvectors, or a factor that is kept.

        Raises:
            NumericalError: as :meth:`factor`.
        """
        if not shift:
            return self.solve(right_side, condition_limit), self.ridge
        if self.eigenvalues is not None and self.eigenvectors is not None:
            ridge = self._spectral_ridge(shift, condition_limit)
            return self._spectral(right_side, shift + ridge), ridge
        if shift not in self._shifted:
            self._shifted = {shift: self.shifted(shift)}
        return self._shifted[shift].solve(right_side, condition_limit), self._shifted[shift].ridge

    def _refined(self, right_side: Tensor) -> Tensor | None:
        self.validate()
        if self._single is None:
            self._single = SingleFactor.of(self.matrix)
        if self._single is None:
            return None
        found, residual = self._single.solve(self.matrix, right_side)
        self.refined = residual if residual <= REFINED_RESIDUAL else None
        return None if self.refined is None else found

    def _spectral(self, right_side: Tensor, shift: float) -> Tensor:
        assert self.eigenvalues is not None
        assert self.eigenvectors is not None
        weights = 1.0 / (self.eigenvalues + shift)
        return self.eigenvectors @ (weights[:, None] * (self.eigenvectors.T @ right_side))

    def _spectral_ridge(self, shift: float, condition_limit: float) -> float:
        """What must be added to ``C + (shift + ridge) I`` for its condition; the ridge that is there already counts."""
        assert self.eigenvalues is not None
        start = shift if shift else self.ridge
        low, high = float(self.eigenvalues[0]) + start, float(self.eigenvalues[-1]) + start
        scale = float(self.eigenvalues.mean()) + shift

        def condition(extra: float) -> float:
            return (high + extra) / (low + extra) if low + extra > 0 else math.inf

        extra, _, _ = raise_ridge(condition, scale, condition_limit, "second moment")
        return extra if shift else self.ridge + extra

    def eigh(self) -> tuple[Tensor, Tensor]:
        """``(eigenvalues (d_in,) ascending, eigenvectors (d_in, d_in))`` of ``C`` (without the ridge)."""
        if self.eigenvalues is None or self.eigenvectors is None:
            self.validate()
            self.eigenvalues, self.eigenvectors = torch.linalg.eigh(self.matrix)
        return self.eigenvalues, self.eigenvectors

    def null_dimension(self, threshold: float, share: float | None = None) -> int:
        """How many directions text hardly uses: the first so many eigenvectors span AlphaEdit's null space.

        Args:
            threshold: eigenvalues of ``C`` below it count as zero (AlphaEdit, arXiv 2410.02355: 0.02).
            share: take this share of all directions instead, those with the smallest eigenvalues (for small models).
        """
        return round(share * self.size) if share is not None else int((self.eigh()[0] < threshold).sum())

    def null_space(self, threshold: float, share: float | None = None) -> Tensor:
        """Q (d_in, q): orthonormal directions that text hardly uses; ``P = Q Q^T`` is AlphaEdit's projector."""
        return self.eigh()[1][:, : self.null_dimension(threshold, share)]

    def shifted(self, ridge: float) -> SecondMoment:
        """``C + ridge I`` as a new object; it inherits the eigenvectors, if any, and then needs no new factor."""
        matrix = self.matrix.clone()
        matrix.diagonal().add_(ridge)
        if self.eigenvalues is None:
            return SecondMoment(matrix, self.count)
        return SecondMoment(matrix, self.count, None, self.eigenvalues + ridge, self.eigenvectors)

    def restricted(self, indices: Tensor) -> SecondMoment:
        """The second moment of some of the inputs: the rows and columns ``indices``."""
        return SecondMoment(self.matrix[indices][:, indices], self.count)
