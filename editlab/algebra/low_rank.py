"""LoRA-native edits: a closed-form update kept as a low-rank adapter, found from its factors.

The update of a batch of n facts has rank at most n, but a long stream adds such updates up. An adapter of rank r keeps
the best rank-r form of their sum, in one of two metrics. In the *Frobenius* norm that is the truncated SVD (Eckart and
Young). But an edit minimises ``|dW K - R|^2 + tr(dW A dW^T)``, and around its optimum that objective grows as
``|dW - dW*|_M^2 = tr((dW - dW*) M (dW - dW*)^T)`` with ``M = A + K K^T`` (plus the keys of earlier batches): errors
along directions that text or edited facts use cost much, others nothing. The best rank-r form in this *edit metric* is
reduced-rank regression (Izenman 1975): with ``M = L L^T``, truncate the SVD of ``dW L`` and multiply by ``L^-1``. That
equals ``U_r U_r^T dW``, U_r the leading left singular vectors of ``dW L``; so neither L nor its inverse is ever formed:
for ``dW = left @ right`` a thin QR of ``left``, the k x k Gram matrix ``right M right^T`` and one k x k SVD are enough.
The row space stays that of dW: an AlphaEdit update remains in the null space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.history import History, histories_in
from editlab.algebra.linalg import Factors, compact
from editlab.algebra.problem import Problem
from editlab.algebra.second_moment import SecondMoment
from editlab.config.recipe import LowRankStorage
from editlab.errors import ConfigError, NumericalError


@dataclass(frozen=True, eq=False)
class EditMetric:
    """``|dW|_M^2 = tr(dW M dW^T)``, ``M = weight C + ridge I + history + keys keys^T``; never formed.

    Attributes:
        moment: C (d_in, d_in), or None where its weight is 0.
        weight: of C.
        ridge: of I.
        keys: (d_in, n) of the batch, scaled by the roots of their weights, or None.
        history: keys of earlier batches, or None.
    """

    moment: SecondMoment | None = None
    weight: float = 0.0
    ridge: float = 0.0
    keys: Tensor | None = None
    history: History | None = None

    def gram(self, right: Tensor) -> Tensor:
        """``right M right^T`` (k, k) for right (k, d_in): O(k d^2)."""
        gram = self.ridge * (right @ right.T)
        if self.moment is not None and self.weight:
            gram = gram + self.weight * (right @ self.moment.matrix.to(right) @ right.T)
        if self.keys is not None:
            image = right @ self.keys.to(right)
            gram = gram + image @ image.T
        if self.history is not None:
            gram = gram + self.history.to(right.device).gram(right)
        return (gram + gram.T) / 2


FROBENIUS = EditMetric(ridge=1.0)


def metric_of(problem: Problem, penalty: tuple[float, float], history: History | None = None) -> EditMetric:
    """The metric of a solver's objective on a batch (EMMET: of its penalised form, gamma = 0.1 where it is exact).

    Args:
        penalty: (weight of C, weight of I), see :meth:`editlab.config.solvers.Solver.penalty`.
    """
    weight, ridge = penalty
    if problem.moment is None:
        weight, ridge = 0.0, ridge or 1.0
    return EditMetric(problem.moment, weight, ridge, problem.checked().weighted().keys, history)


@dataclass(frozen=True, eq=False)
class LowRank:
    """The best rank-r form of an update.

    Attributes:
        factors: B (d_out, r) and A (r, d_in).
        energy: share of ``|dW|_M^2`` that it keeps, in [0, 1].
    """

    factors: Factors
    energy: float


def best_rank(update: Factors, rank: int, metric: EditMetric = FROBENIUS) -> LowRank:
    """Closed-form optimum of ``|X - dW|_M`` over X of rank at most ``rank`` (reduced-rank regression).

    An update whose factors are that thin already comes back unchanged.

    Raises:
        NumericalError: the factors or the metric hold NaN or Inf.
    """
    if rank < 0:
        raise ValueError(f"rank: {rank} is not allowed; 0 or more")
    if update.rank <= rank:
        return LowRank(update, 1.0)
    directions, values = _spectrum(update, metric)
    return _cut(update, directions, values, rank)


def _spectrum(update: Factors, metric: EditMetric) -> tuple[Tensor, Tensor]:
    """Left singular vectors (d_out, k) and singular values (k,) of ``dW L``, from the factors."""
    if not (update.left.isfinite().all() and update.right.isfinite().all()):
        raise NumericalError("low-rank update: the factors hold NaN or Inf")
    outer, upper = torch.linalg.qr(update.left)
    gram = metric.gram(update.right)
    if not gram.isfinite().all():
        raise NumericalError("edit metric: holds NaN or Inf")
    values, vectors = torch.linalg.eigh(gram)
    u, s, _ = torch.linalg.svd(upper @ vectors * values.clamp(min=0.0).sqrt(), full_matrices=False)
    return outer @ u, s


def _kept(values: Tensor) -> Tensor:
    """Share of the energy in the first 0, 1, ..., k singular values, ``(k + 1,)``."""
    squares = torch.cat([torch.zeros_like(values[:1]), values.square().cumsum(0)])
    return squares / squares[-1] if float(squares[-1]) > 0 else torch.ones_like(squares)


def _needed(values: Tensor, energy: float) -> int:
    return min(int((_kept(values) < energy - 1e-12).sum()), len(values))


def _cut(update: Factors, directions: Tensor, values: Tensor, rank: int) -> LowRank:
    """``U_r U_r^T dW`` with balanced factors."""
    keep = min(rank, len(values))
    left = directions[:, :keep]
    right = (left.T @ update.left) @ update.right
    root = right.norm(dim=1).clamp(min=torch.finfo(right.dtype).tiny).sqrt()
    return LowRank(Factors(left * root, right / root[:, None]), float(_kept(values)[keep]))


class LoraStore:
    """One adapter a layer, ``dW = B A`` beside a base weight that never changes; forgetting it restores the base.

    Args:
        rank: r of an adapter.
        options: ``lora_metric``, the metric of the cuts; ``accumulate``: ``recompress`` cuts old + new to rank r,
            ``append`` cuts the new update to r and puts it beside the old ones, until the adapter has ``max_rank`` and is
            cut to that; ``min_energy``: where the cut keeps less, the rank is raised up to ``max_rank``, and where that
            is not enough the update is kept whole beside the adapter (raw fallback).
        penalty: of the solver's objective (:meth:`editlab.config.solvers.Solver.penalty`), for the edit metric.

    Attributes:
        ranks: by layer, ranks that were raised for good.
        adapters: by layer, B (d_out, r) and A (r, d_in), float64.
        raw: by layer, the sum of the updates that fell back.
        history: by layer, the keys of the batches kept so far (edit metric only).
    """

    def __init__(self, rank: int, options: LowRankStorage, penalty: tuple[float, float]) -> None:
        if rank < 1:
            raise ConfigError(f"rank: {rank} is not allowed with backend lora; 1 or more")
        if options.max_rank < rank:
            raise ConfigError(f"max_rank: {options.max_rank} is not allowed; at least rank ({rank})")
        self.rank, self.options, self.penalty = rank, options, penalty
        self.ranks: dict[int, int] = {}
        self.adapters: dict[int, Factors] = {}
        self.raw: dict[int, Factors] = {}
        self.history: dict[int, History] = {}

    def add(
        self, layer: int, update: Factors, problem: Problem | None = None, *, whole: bool = False
    ) -> tuple[Factors, dict[str, Any]]:
        """Take a batch's raw update into the adapter of a layer.

        Args:
            problem: the batch, for the edit metric and the residual; None: the cut is made in the Frobenius norm.
            whole: keep the update beside the adapter, uncut.

        Returns:
            the effective change of the map, new adapter minus old, and what the cut did: ``lora_rank``, ``energy``,
            ``edit_residual`` (|change K - R| / |R|), ``cut`` (``none``, ``rank_raised``, ``raw_fallback``).
        """
        device = update.left.device
        metric = self._metric(layer, problem)
        old = self.adapters.get(layer, Factors.zeros(*update.shape)).to(device=device)
        if whole:
            new, found = None, {"energy": 1.0, "cut": "raw_fallback"}
        elif self.options.accumulate == "append":
            new, found = self._appended(layer, old, update, metric)
        else:
            new, found = self._cut_to(old + update, self.rank_of(layer), metric)
        if new is None:
            before = self.raw.get(layer, Factors.zeros(*update.shape)).to(device=device)
            self.raw[layer] = compact(before + update)
            change = update
        else:
            self.adapters[layer] = new
            change = new + old.scaled(-1.0)
        found["lora_rank"] = self.adapters.get(layer, old).rank
        if problem is not None:
            found["edit_residual"] = residual_of(change, problem)
        return change, found

    def rank_of(self, layer: int) -> int:
        """The rank that a layer's adapter is cut to."""
        return self.ranks.get(layer, self.rank)

    def raise_rank(self, layer: int) -> bool:
        """Double the rank of a layer for good, up to ``max_rank``; False when it is there already."""
        if self.rank_of(layer) >= self.options.max_rank:
            return False
        self.ranks[layer] = min(2 * self.rank_of(layer), self.options.max_rank)
        return True

    def _metric(self, layer: int, problem: Problem | None) -> EditMetric:
        if self.options.lora_metric == "frobenius" or problem is None:
            return FROBENIUS
        return metric_of(problem, self.penalty, self.history.get(layer))

    def _appended(
        self, layer: int, old: Factors, update: Factors, metric: EditMetric
    ) -> tuple[Factors | None, dict[str, Any]]:
        new, found = self._cut_to(update, self.rank_of(layer), metric)
        if new is None or old.rank + new.rank <= self.options.max_rank:
            return (None if new is None else old + new), found
        cut = best_rank(old + new, self.options.max_rank, metric)
        return cut.factors, found | {"energy": found["energy"] * cut.energy, "capped": True}

    def _cut_to(self, update: Factors, rank: int, metric: EditMetric) -> tuple[Factors | None, dict[str, Any]]:
        """Cut to ``rank``; where that keeps too little, to the smallest rank that keeps ``min_energy``, or not at all."""
        if update.rank <= rank:
            return update, {"energy": 1.0, "cut": "none"}
        directions, values = _spectrum(update, metric)
        needed = _needed(values, self.options.min_energy)
        if needed > self.options.max_rank:
            energy = float(_kept(values)[min(rank, len(values))])
            return None, {"energy": energy, "cut": "raw_fallback", "rank_needed": needed}
        cut = _cut(update, directions, values, max(rank, needed))
        return cut.factors, {"energy": cut.energy, "cut": "rank_raised" if needed > rank else "none"}

    def remember(self, layer: int, keys: Tensor) -> None:
        """The batch is kept: its keys (d_in, n) weigh in the edit metric of later cuts."""
        if self.options.lora_metric == "edit":
            self.history[layer] = self.history.get(layer, History()).extended(keys)

    def total(self, layer: int) -> Factors | None:
        """Everything the layer gained, adapter and fallbacks; None when it was never edited."""
        parts = [part[layer] for part in (self.adapters, self.raw) if layer in part]
        return Factors.concatenate([part.to(device="cpu") for part in parts]) if parts else None

    def snapshot(self) -> Any:
        """The state now; cheap, because nothing in it is ever changed in place."""
        return dict(self.ranks), dict(self.adapters), dict(self.raw), dict(self.history)

    def restore(self, state: Any) -> None:
        """Back to a :meth:`snapshot`."""
        self.ranks, self.adapters, self.raw, self.history = (dict(part) for part in state)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to save."""
        found = {
            f"history.{k}.{name}": v for k, history in self.history.items() for name, v in history.tensors().items()
        }
        found |= {f"rank.{k}": torch.tensor(v) for k, v in self.ranks.items()}
        for name, parts in (("adapter", self.adapters), ("raw", self.raw)):
            for layer, factors in parts.items():
                found[f"{name}.{layer}.left"], found[f"{name}.{layer}.right"] = factors.left, factors.right
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The state from :meth:`tensors`."""
        self.adapters, self.raw = factors_in(tensors, "adapter"), factors_in(tensors, "raw")
        self.ranks = {int(k.split(".")[1]): int(v) for k, v in tensors.items() if k.startswith("rank.")}
        self.history = histories_in(tensors, "history")


def residual_of(change: Factors, problem: Problem) -> float:
    """``|dW K - R| / |R|``: how far a change is from what the batch asked for."""
    target = float(problem.residual.double().norm())
    gap = change.apply(problem.keys.to(change.left)) - problem.residual.to(change.left)
    return float(gap.norm()) / target if target > 0 else float(gap.norm())


def factors_in(tensors: Mapping[str, Tensor], name: str) -> dict[int, Factors]:
    """By layer, the factors saved as ``name.LAYER.left`` and ``name.LAYER.right``."""
    layers = sorted({int(k.split(".")[1]) for k in tensors if k.startswith(f"{name}.")})
    return {k: Factors(tensors[f"{name}.{k}.left"], tensors[f"{name}.{k}.right"]) for k in layers}
