"""Kernel ridge regression as coefficients: a prediction as a weighted sum of the training targets.

With features X (n, F), centred by their mean and scaled to a mean square length of 1, ``K = X X^T`` and a new x,

    y(x) = ybar + sum_i a_i (y_i - ybar),    a = (K + penalty I)^-1 X x,

which is ``sum_i c_i y_i`` with ``c = a + (1 - sum a) / n``: whatever the targets are (deltas, or products of millions of
numbers), only the n coefficients are computed. An infinite penalty gives the mean of the targets, none an interpolation.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Centred and scaled features of the training tasks.

    Attributes:
        centre: (F,).
        scale: number by which centred features are divided.
        train: (n, F), centred and scaled, float64.
    """

    centre: Tensor
    scale: Tensor
    train: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Kernel:
        """From raw features (n, F)."""
        features = features.double()
        centre = features.mean(dim=0)
        centred = features - centre
        scale = centred.square().sum(dim=1).mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        return cls(centre, scale, centred / scale)

    def __call__(self, features: Tensor) -> Tensor:
        """``k(x)`` (m, n) of raw features (m, F)."""
        return self.scaled(features) @ self.train.T

    def scaled(self, features: Tensor) -> Tensor:
        """Raw features (m, F), centred and scaled as those of training."""
        return (features.double() - self.centre) / self.scale

    def matrix(self, penalty: float) -> Tensor:
        """M (F, n) of the ridge solution: ``c = 1/n + x M`` for scaled features x, each row of c summing to 1."""
        count = len(self.train)
        gram = self.train @ self.train.T + penalty * torch.eye(count, dtype=torch.float64)
        found = torch.linalg.solve(gram, self.train).T
        return found - found.mean(dim=1, keepdim=True)

    def coefficients(self, features: Tensor, penalty: float) -> Tensor:
        """c (m, n), each row summing to 1."""
        return 1 / len(self.train) + self.scaled(features) @ self.matrix(penalty)


def weights_to(target: Tensor, rows: Tensor, penalty: float) -> Tensor:
    """w (m, n) that minimise ``|target - w rows|^2 / s + penalty |w|^2``, s the mean square length of the rows (n, d)."""
    rows, target = rows.double(), target.double()
    scale = rows.square().sum(dim=1).mean().clamp(min=torch.finfo(torch.float64).tiny)
    gram = rows @ rows.T / scale + penalty * torch.eye(len(rows), dtype=torch.float64)
    return torch.linalg.solve(gram, rows @ target.T / scale).T
