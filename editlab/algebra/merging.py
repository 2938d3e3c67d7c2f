"""Merging of low-rank adapters: weighted sums, TIES and DARE, on the products or on the factors.

Adapter i changes each of its maps by ``D_i = s_i B_i A_i`` and enters with a weight ``w_i``. *In product space* a rule is
applied to the D_i; the weighted sum then is exact, its ranks add up, and :meth:`Factors.compressed` cuts it (Eckart and
Young). *In factor space* it is applied to the A_i and, apart, to the B_i, each weighted with ``sqrt(w_i s_i)``: the product of
two sums holds the cross terms ``B_i A_j`` too, which are harmless only where the adapters share (nearly) one A.

Rules, each of them peft's ``add_weighted_adapter`` where that has it (in product space its ``_svd`` forms):

* ``linear``: task arithmetic, ``sum_i w_i D_i`` (Ilharco et al. 2023). In product space uncut it is peft's
  ``cat``, cut its ``svd``.
* ``magnitude_prune``: of each tensor only the largest entries stay (a share ``density``), then ``linear``.
* ``ties``: pruned so, then for each entry the sign of the sum is elected, and the weighted values that agree with it are
  averaged over their number (Yadav et al. 2023). The number is of adapters, not of weights: give weights near 1, not 1/k.
* ``dare_linear``, ``dare_ties``: entries survive with probability ``density``, drawn for each tensor of each adapter, and are
  divided by it, which keeps their expectation (Yu et al. 2024); then as above.
* ``ties_shared``: a variant in circulation: one threshold over all adapters, the sign by count (ties are positive), and
  *all* magnitudes averaged under that sign. Entries (-0.9, 0.1, 0.1) give 0.37 where TIES gives -0.9.
* ``dare_shared``: another: one mask for all adapters, which leaves the sum as noisy as a single one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.errors import ConfigError

Key = TypeVar("Key")
SPACES = ("product", "factor")
Combine = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""From tensors stacked along axis 0, their weights, the density and a generator to one tensor."""


def merge(
    adapters: Sequence[Mapping[Key, Factors]],
    weights: Sequence[float],
    *,
    rule: str = "linear",
    space: str = "product",
    scales: Sequence[float] | None = None,
    rank: int | None = None,
    density: float = 0.5,
    generator: torch.Generator | None = None,
) -> dict[Key, Factors]:
    """One adapter from several; a map that an adapter lacks counts as unchanged by it.

    Args:
        adapters: by map, ``left`` B (d_out, r) and ``right`` A (r, d_in).
        weights: one an adapter, any sign.
        rule: one of :data:`RULES`.
        space: ``product`` or ``factor``.
        scales: ``alpha / r`` of each adapter; default 1.
        rank: the result is cut to it. None: ``linear`` in product space stays exact, other rules there come back in the
            largest rank among the adapters, as in peft.
        density: share of the entries that pruning keeps.
        generator: of the random masks.

    Raises:
        ConfigError: no adapters, counts that differ, weights that are no numbers, an unknown rule or space, a density outside
            (0, 1], a rank below 1, maps of different shapes (different bases), or different ranks in factor space.
    """
    scales = [1.0] * len(adapters) if scales is None else scales
    _check(adapters, weights, scales, rule, space, density, rank, generator)
    generator = torch.Generator() if generator is None else generator
    merged: dict[Key, Factors] = {}
    for key in dict.fromkeys(key for adapter in adapters for key in adapter):
        having = [(a[key], w, s) for a, w, s in zip(adapters, weights, scales, strict=True) if key in a]
        _check_maps(key, [part.shape for part, _, _ in having])
        if space == "factor":
            merged[key] = _in_factors(key, having, RULES[rule], density, generator)
        elif rule == "linear":
            merged[key] = Factors.concatenate([part.scaled(w * s) for part, w, s in having])
        else:
            merged[key] = _in_products(having, RULES[rule], density, generator)
        if rank is not None and merged[key].rank > rank:
            merged[key] = merged[key].compressed(rank)
    return merged


def _in_products(
    having: Sequence[tuple[Factors, float, float]], combine: Combine, density: float, generator: torch.Generator
) -> Factors:
    products = torch.stack([part.dense() * scale for part, _, scale in having])
    weights = products.new_tensor([weight for _, weight, _ in having])
    dense = combine(products, weights, density, generator)
    return Factors.from_dense(dense).compressed(max(part.rank for part, _, _ in having))


def _in_factors(
    key: object,
    having: Sequence[tuple[Factors, float, float]],
    combine: Combine,
    density: float,
    generator: torch.Generator,
) -> Factors:
    ranks = [part.rank for part, _, _ in having]
    if len(set(ranks)) > 1:
        raise ConfigError(f"merge: ranks {ranks} of {key} cannot be joined factor by factor; merge in product space")
    right = torch.stack([part.right for part, _, _ in having])
    left = torch.stack([part.left for part, _, _ in having])
    share = right.new_tensor([weight * scale for _, weight, scale in having])
    root = share.abs().sqrt()
    # The sign stands on one side, else a negative weight would cancel itself.
    merged = combine(right, root * torch.where(share >= 0, 1.0, -1.0), density, generator)
    return Factors(combine(left, root, density, generator), merged)


def _across(weights: Tensor, stacked: Tensor) -> Tensor:
    return weights.reshape(-1, *[1] * (stacked.ndim - 1))


def _linear(stacked: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return (stacked * _across(weights, stacked)).sum(dim=0)


def _elected(stacked: Tensor, weights: Tensor) -> Tensor:
    """The weighted values whose sign is that of the unweighted sum, averaged over their number."""
    sign = torch.where(stacked.sum(dim=0) >= 0, 1.0, -1.0)
    agree = stacked.sign() == sign
    return (stacked * _across(weights, stacked) * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1)


def largest(stacked: Tensor, density: float) -> Tensor:
    """Each tensor along axis 0 with all but its largest entries set to 0 (topk: a quantile has a limit on its size)."""
    if density >= 1:
        return stacked
    flat = stacked.flatten(1)
    kept = flat.abs().topk(int(density * flat.shape[1]), dim=1).indices
    return (flat * torch.zeros_like(flat).scatter_(1, kept, 1.0)).reshape(stacked.shape)


def _dropped(stacked: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Each entry kept with probability ``density`` and divided by it."""
    if density >= 1:
        return stacked
    masks = [torch.bernoulli(torch.full_like(part, density), generator=generator) for part in stacked]
    return stacked * torch.stack(masks) / density


def _shared_ties(stacked: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    kept = largest(stacked.flatten()[None], density).reshape(stacked.shape)
    sign = torch.where(kept.sign().sum(dim=0) >= 0, 1.0, -1.0)
    return sign * (kept.abs() * _across(weights, kept)).sum(dim=0) / len(kept)


def _shared_dare(stacked: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    mask = torch.bernoulli(torch.full_like(stacked[0], density), generator=generator)
    return _linear(stacked * mask / density, weights, density, generator)


RULES: dict[str, Combine] = {
    "linear": _linear,
    "magnitude_prune": lambda x, w, p, g: _linear(largest(x, p), w, p, g),
    "ties": lambda x, w, p, g: _elected(largest(x, p), w),
    "dare_linear": lambda x, w, p, g: _linear(_dropped(x, p, g), w, p, g),
    "dare_ties": lambda x, w, p, g: _elected(_dropped(x, p, g), w),
    "ties_shared": _shared_ties,
    "dare_shared": _shared_dare,
}
COUNTED = ("ties", "dare_ties", "ties_shared")
"""Rules that divide by a number of adapters: their weights should be near 1 each."""
RANDOM = ("dare_linear", "dare_ties", "dare_shared")
"""Rules that draw masks, and so need a generator."""


def _check(
    adapters: Sequence[Mapping[Key, Factors]],
    weights: Sequence[float],
    scales: Sequence[float],
    rule: str,
    space: str,
    density: float,
    rank: int | None,
    generator: torch.Generator | None,
) -> None:
    if not adapters:
        raise ConfigError("merge: no adapters given; one or more")
    if not len(adapters) == len(weights) == len(scales):
        raise ConfigError(f"merge: {len(adapters)} adapters, {len(weights)} weights and {len(scales)} scales; one each")
    wrong = [number for number in (*weights, *scales) if not math.isfinite(number)]
    if wrong:
        raise ConfigError(f"merge: weight or scale {wrong[0]} is not allowed; numbers are needed")
    if rank is not None and rank < 1:
        raise ConfigError(f"merge: rank {rank} is not allowed; 1 or more")
    if rule not in RULES:
        raise ConfigError(f"merge: rule {rule!r} is not allowed; one of {', '.join(RULES)}")
    if space not in SPACES:
        raise ConfigError(f"merge: space {space!r} is not allowed; product or factor")
    if not 0 < density <= 1:
        raise ConfigError(f"merge: density {density} is not allowed; above 0, at most 1")
    if rule in RANDOM and generator is None:
        raise ConfigError(f"merge: rule {rule!r} draws masks; give the generator that it shall draw from")


def _check_maps(key: object, shapes: Sequence[tuple[int, int]]) -> None:
    if len(set(shapes)) > 1:
        raise ConfigError(
            f"merge: adapters of different bases: {key} has shapes {', '.join(map(str, sorted(set(shapes))))}"
        )
