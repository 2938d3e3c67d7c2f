"""The running normaliser of UltraEdit: mean and deviation of keys and gradients, feature by feature, over a whole stream.

Rows come in batches, and any split of them gives the same numbers (Chan, Golub and LeVeque, 1983): with n rows so far and b new
ones of mean m and biased variance v,

    mu <- mu + d b / n',    S <- S + b v + d^2 n b / n',    d = m - mu,  n' = n + b,

sigma = sqrt(S / (n' - 1)). The published code takes the unbiased v, which depends on the split. StableEdit (arXiv 2605.11836)
whitens the gradients whole, once there are more rows than features: Sigma = S_full / (n - d - 1).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-7
LEAST_EIGENVALUE = 1e-6


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean ``(d,)`` and summed squared deviations of the rows so far: ``(d,)``, or ``(d, d)`` where they are whitened."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def none(cls, size: int, *, full: bool, device: torch.device) -> Moments:
        """No rows."""
        shape = (size, size) if full else (size,)
        return cls(0, torch.zeros(size).double().to(device), torch.zeros(shape).double().to(device))

    def extended(self, rows: Tensor) -> Moments:
        """With further rows ``(b, d)``, float64."""
        b, n = len(rows), self.count + len(rows)
        mean = rows.mean(0)
        gap, apart = mean - self.mean, rows - mean
        if self.squares.ndim == 2:
            squares = self.squares + apart.T @ apart + torch.outer(gap, gap) * (self.count * b / n)
        else:
            squares = self.squares + apart.square().sum(0) + gap.square() * (self.count * b / n)
        return Moments(n, self.mean + gap * (b / n), squares)

    @property
    def clamped(self) -> float | None:
        """Share of the eigenvalues of whitening below the least that is divided by; None: it does not whiten (yet)."""
        return float((self._spectrum[0] < LEAST_EIGENVALUE).double().mean()) if self._whitens else None

    @property
    def _whitens(self) -> bool:
        return self.squares.ndim == 2 and self.count > len(self.mean) + 1

    @functools.cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.squares / (self.count - len(self.mean) - 1))
        return values, vectors

    def normalised(self, rows: Tensor) -> Tensor:
        """``(rows - mu) / sigma``; whitened where there are rows enough, there are at least two."""
        centred = rows - self.mean
        if self._whitens:
            values, vectors = self._spectrum
            return ((centred @ vectors) / values.clamp(min=LEAST_EIGENVALUE).sqrt()) @ vectors.T
        squares = self.squares.diagonal() if self.squares.ndim == 2 else self.squares
        return centred / ((squares / (self.count - 1 + EPSILON)).sqrt() + EPSILON)


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Of one map: its keys ``(d_in)`` and the gradients of its outputs ``(d_out)``; never changed in place."""

    keys: Moments
    gradients: Moments

    @classmethod
    def none(cls, d_out: int, d_in: int, *, whiten: bool, device: torch.device) -> Normaliser:
        """Nothing seen; ``whiten``: gradients whole, not feature by feature."""
        return cls(Moments.none(d_in, full=False, device=device), Moments.none(d_out, full=whiten, device=device))

    @property
    def count(self) -> int:
        """Rows seen."""
        return self.keys.count

    def extended(self, keys: Tensor, gradients: Tensor) -> Normaliser:
        """With further rows ``(b, d_in)`` and ``(b, d_out)``."""
        return Normaliser(self.keys.extended(keys), self.gradients.extended(gradients))

    def normalised(self, keys: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Both, normalised; there must be two rows or more behind them."""
        return self.keys.normalised(keys), self.gradients.normalised(gradients)

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to save."""
        found = {"count": torch.tensor(self.count)}
        for name in ("keys", "gradients"):
            part: Moments = getattr(self, name)
            found |= {f"{name}_mean": part.mean.cpu(), f"{name}_squares": part.squares.cpu()}
        return found

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Normaliser:
        """From :meth:`tensors`."""
        count = int(tensors["count"])
        parts = [
            Moments(count, tensors[f"{name}_mean"].to(device), tensors[f"{name}_squares"].to(device))
            for name in ("keys", "gradients")
        ]
        return cls(*parts)
