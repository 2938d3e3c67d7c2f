"""The curvature of a model's loss at one map by its two Kronecker factors (K-FAC), and steps that leave steep directions alone.

With ``A = E[x x^T]`` of the map's inputs and ``B = E[g g^T]`` of the gradients at its outputs, the Gauss-Newton matrix of the
loss is about ``A (x) B``: along ``u_j v_i^T``, an eigenvector ``u_j`` of B times one ``v_i`` of A, a change of the weight costs
the product of both eigenvalues. CrispEdit (arXiv 2602.15823) removes from every step its share of the directions that hold most
of all products; what is left changes the loss little. With ``B = I`` that is a threshold on the eigenvalues of A alone,
AlphaEdit's projector.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from editlab.algebra.second_moment import SecondMoment


@dataclasses.dataclass(frozen=True, eq=False)
class CurvatureSums:
    """Sums over tokens, to be added to a curvature.

    Attributes:
        inputs: (d_in, d_in) float64, of ``x x^T``.
        gradients: (d_out, d_out) float64, of ``g g^T``.
        count: tokens.
    """

    inputs: Tensor
    gradients: Tensor
    count: int

    def __add__(self, other: CurvatureSums) -> CurvatureSums:
        return CurvatureSums(self.inputs + other.inputs, self.gradients + other.gradients, self.count + other.count)

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to save."""
        count = torch.tensor(self.count, dtype=torch.int64)
        return {"inputs": self.inputs, "gradients": self.gradients, "count": count}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> CurvatureSums:
        """From :meth:`tensors`."""
        inputs, gradients = (tensors[name].to(device) for name in ("inputs", "gradients"))
        return cls(inputs, gradients, int(tensors["count"]))


@dataclasses.dataclass(frozen=True, eq=False)
class Steep:
    """Directions of a map that steps are to leave alone.

    Attributes:
        left: (d_out, s) orthonormal columns, eigenvectors of B.
        right: (d_in, r) orthonormal columns, eigenvectors of A.
        taken: (s, r) 1 where the pair of eigenvectors is removed.
        share: of all ``d_out d_in`` directions.
    """

    left: Tensor
    right: Tensor
    taken: Tensor
    share: float

    def off(self, matrix: Tensor) -> Tensor:
        """``matrix (d_out, d_in)`` without its part along these directions."""
        inner = (self.left.T @ matrix @ self.right) * self.taken
        return matrix - self.left @ inner @ self.right.T


@dataclasses.dataclass(frozen=True, eq=False)
class Curvature:
    """The two factors at one map.

    Attributes:
        inputs: A (d_in, d_in).
        gradients: B (d_out, d_out).
    """

    inputs: SecondMoment
    gradients: SecondMoment

    @property
    def count(self) -> int:
        """Tokens that the factors are means over."""
        return self.inputs.count

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.gradients.size, self.inputs.size

    def to(self, device: torch.device | str) -> Curvature:
        """The same on another device."""
        return Curvature(self.inputs.to(device), self.gradients.to(device))

    def joined(self, sums: CurvatureSums, weight: float) -> Curvature:
        """With further tokens, each of which counts ``weight`` times; itself where they count nothing."""
        if not (weight and sums.count):
            return self
        old, new = self.count, weight * sums.count

        def mean(moment: SecondMoment, total: Tensor) -> SecondMoment:
            return SecondMoment((old * moment.matrix + weight * total) / (old + new), self.count + sums.count)

        return Curvature(mean(self.inputs, sums.inputs), mean(self.gradients, sums.gradients))

    def steep(self, energy: float, dtype: torch.dtype = torch.float64) -> Steep | None:
        """The fewest directions that hold at least ``energy`` of the sum of all products of eigenvalues, for steps of this
        type; None for an energy of 0: there are none. Directions as steep as the last of them go with it.

        Raises:
            NumericalError: a factor is not finite, or zero.
        """
        if energy <= 0:
            return None
        (low, right), (high, left) = self.inputs.eigh(), self.gradients.eigh()
        products = high.clamp_min(0.0)[:, None] * low.clamp_min(0.0)[None, :]
        descending = products.flatten().sort(descending=True).values
        held = descending.cumsum(0)
        last = min(int((held < energy * held[-1]).sum()), len(held) - 1)
        taken = products >= descending[last]
        rows, columns = taken.any(1), taken.any(0)
        return Steep(
            left[:, rows].to(dtype),
            right[:, columns].to(dtype),
            taken[rows][:, columns].to(dtype),
            float(taken.double().mean()),
        )
