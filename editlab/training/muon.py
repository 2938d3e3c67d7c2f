"""Muon: momentum whose matrices are orthogonalised before each step (Jordan et al., 2024).

A weight matrix moves by the nearest semi-orthogonal matrix to its momentum, so that every direction of it learns at the
same speed; vectors, embeddings and the head stay with AdamW. Small models store facts in less than half of the steps
that AdamW alone needs. The orthogonalisation is a quintic Newton-Schulz iteration: five rounds of matrix products,
in the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """Nesterov momentum, orthogonalised, steps of root mean square ``0.2 lr`` as AdamW's, weight decay."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                average = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(average, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)
