"""Losses of generators: on the weights, on the deltas, and what keeps a decoder from degenerate answers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SUPERVISIONS = ("weights", "both", "deltas")


def product_loss(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """``|D - D*|^2 / |D*|^2`` of a batch of products (C, d_out, d_in), mean over modules: blind to the gauge of the factors."""
    return torch.stack([(found[k] - w).square().sum() / w.square().sum() for k, w in wanted.items()]).mean()


def delta_loss(found: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """``|delta - delta*|^2 / size``, summed over dimensions, mean over the batch (C, d).

    Args:
        size: mean square length of the training deltas. A mean over dimensions instead would make orthogonal deltas of unit
            length look converged at 2 / d.
    """
    return (found - wanted).square().sum(dim=1).mean() / size


def norm_band(norms: Tensor, usual: Tensor) -> Tensor:
    """``((norm / usual) - 1)^2``, mean over the batch (C,): neither nothing nor an explosion."""
    return (norms / usual - 1).square().mean()


def diversity(found: Tensor, wanted: Tensor, slack: float = 0.1) -> Tensor:
    """Mean over pairs of ``relu(cos(found) - cos(wanted) - slack)^2``: deltas of one batch (C, d) more alike than the
    teachers' are punished, which a variance inside one adapter cannot see."""
    if len(found) < 2:
        return found.new_zeros(())
    alike, usual = (_cosines(x) for x in (found, wanted))
    excess = torch.relu(alike - usual - slack).square()
    return (excess.sum() - excess.diagonal().sum()) / (len(found) * (len(found) - 1))


def _cosines(rows: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(rows, dim=1)
    return unit @ unit.T
