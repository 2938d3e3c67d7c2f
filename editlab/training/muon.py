"""Muon: momentum whose matrices are orthogonalised before each step (Jordan et al., 2024).

A weight matrix moves by the nearest semi-orthogonal matrix to its momentum, so that every direction of it learns at the
same speed; vectors, embeddings and the head stay with AdamW. Small models store facts in less than half of the steps
that AdamW alone needs. The orthogonalisation is a quintic Newton-Schulz iteration: five rounds of matrix products,
in the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest slope at 0 with singular values kept within about 0.7 to 1.2


def orthogonalised(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Roughly ``U V^T`` of the singular value decomposition ``U S V^T`` of a matrix (m, n)."""
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(rounds):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * (gram @ gram)) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, steps of root mean square ``0.2 lr`` as AdamW's, weight decay.

    Args:
        pool: moves the matrices side by side. They have nothing to do with one another, so the weights are the same.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        pool: Executor | None = None,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.pool = pool

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        moved = [(m, m.grad, group) for group in self.param_groups for m in group["params"] if m.grad is not None]
        for matrix, gradient, _ in moved:
            if not self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(gradient)
        list((self.pool.map if self.pool else map)(self._move, moved))

    @torch.no_grad()
    def _move(self, moved: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
        matrix, gradient, group = moved
        average = self.state[matrix]["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalised(gradient.lerp(average, group["momentum"]))
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)
