"""Losses of generators: on the weights, on the deltas, and what keeps a decoder from degenerate answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.networks.lora import Dense, Factored

SUPERVISIONS = ("weights", "both", "deltas")


def gram_squares(left: Tensor, right: Tensor) -> Tensor:
    """``|B A|_F^2`` (C,) of stacked factors, from r x r Gram matrices."""
    return ((left.transpose(1, 2) @ left) * (right @ right.transpose(1, 2))).sum(dim=(1, 2))


def product_norms(factors: Factored) -> Tensor:
    """``|B A|_F`` over all maps of each adapter (C,)."""
    squares = [gram_squares(left, right) for left, right in factors.values()]
    return torch.stack(squares).sum(dim=0).clamp(min=1e-12).sqrt()


def product_loss(found: Factored | Dense, wanted: Factored) -> Tensor:
    """``|D - D*|^2 / |D*|^2`` of a batch of adapters, mean over modules: blind to the gauge of the factors."""
    each = []
    for name, (left, right) in wanted.items():
        change = found[name]
        if isinstance(change, Tensor):
            error = (change - left @ right).square().sum()
        else:
            outer, inner = torch.cat([change[0], -left], dim=2), torch.cat([change[1], right], dim=1)
            error = gram_squares(outer, inner).sum()
        each.append(error / gram_squares(left, right).sum())
    return torch.stack(each).mean()


def span_loss(coefficients: Tensor, rows: Sequence[int], grams: Tensor) -> Tensor:
    """:func:`product_loss` of weighted sums of n adapters against those in ``rows``, without a product: with
    ``e = c - onehot(row)`` the error in a map is ``e^T G e``.

    Args:
        coefficients: (C, n).
        grams: ``<D_i, D_j>_F`` in each map (maps, n, n).
    """
    error = coefficients - torch.eye(grams.shape[-1])[list(rows)].to(coefficients)
    errors = torch.einsum("ci,kij,cj->k", error, grams, error)
    return (errors / grams.diagonal(dim1=1, dim2=2)[:, list(rows)].sum(dim=1)).mean()


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
