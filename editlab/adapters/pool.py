"""The pool of teachers: factors of many adapters of one base, stacked, with the tasks that they were trained on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editlab.algebra.linalg import Factors
from editlab.config.adapters import Teachers
from editlab.data.tasks import TaskSet, TextTask
from editlab.errors import ArtifactError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.networks.lora import Dense, Factored, stacked
from editlab.training.teachers import Draw, first_factors, train_together


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Adapters of equal maps and ranks.

    Attributes:
        names: one an adapter; a second training of a task is named ``task#2``.
        factors: by module name B (n, d_out, r), the scale folded in, and A (n, r, d_in).
        base: digest of the base's weights.
    """

    names: list[str]
    factors: dict[str, tuple[Tensor, Tensor]]
    base: str

    def __len__(self) -> int:
        return len(self.names)

    def at(self, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors of these adapters, in this order."""
        rows = [self.names.index(name) for name in names]
        return {k: (left[rows], right[rows]) for k, (left, right) in self.factors.items()}

    def subset(self, names: Sequence[str]) -> Pool:
        return Pool(list(names), self.at(names), self.base)

    def adapter(self, name: str) -> dict[str, Factors]:
        """One adapter as low-rank updates by module name."""
        row = self.names.index(name)
        return {k: Factors(left[row], right[row]) for k, (left, right) in self.factors.items()}

    def products(self) -> dict[str, Tensor]:
        """``B A`` by module name (n, d_out, d_in)."""
        return {k: left @ right for k, (left, right) in self.factors.items()}

    def digest(self, name: str) -> str:
        """Checksum of one adapter's numbers."""
        digest = hashlib.sha256()
        for key, pair in sorted(self.at([name]).items()):
            digest.update(key.encode())
            for part in pair:
                digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        tensors = {f"{k}.{side}": t for k, pair in self.factors.items() for side, t in zip("BA", pair, strict=True)}
        save_tensors(path, tensors, {"names": self.names, "base": self.base})

    @classmethod
    def load(cls, path: str | Path) -> Pool:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: missing, damaged or another kind of file.
        """
        tensors, metadata = load_tensors(path)
        modules = sorted({name[:-2] for name in tensors})
        try:
            factors = {k: (tensors[f"{k}.B"], tensors[f"{k}.A"]) for k in modules}
            return cls(list(metadata["names"]), factors, metadata["base"])
        except KeyError as error:
            raise ArtifactError(f"{path}: not a pool of adapters (no {error})") from None


def weights_digest(model: nn.Module) -> str:
    """Checksum of a model's weights: the identity of a base."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def merged(pool: Pool, names: Sequence[str], weights: Sequence[float], **options: Any) -> dict[str, Factors]:
    """Adapters of a pool joined by a rule of :func:`editlab.algebra.merging.merge`."""
    from editlab.algebra.merging import merge

    return merge([pool.adapter(name) for name in names], weights, **options)


def inner_products(one: Factored, other: Factored) -> Tensor:
    """``<D_i, E_j>_F`` in each map of two sets of stacked adapters (maps, n, m), from r x r Gram matrices: no product is
    formed."""
    found = []
    for key, (left, right) in one.items():
        outer = torch.einsum("nor,mos->nmrs", left, other[key][0])
        inner = torch.einsum("nri,msi->nmrs", right, other[key][1])
        found.append((outer * inner).sum(dim=(2, 3)))
    return torch.stack(found)


def likeness(factors: Factored) -> Tensor:
    """Cosines (n, n) of the products of stacked adapters."""
    products = inner_products(factors, factors).sum(dim=0)
    norms = products.diagonal().clamp(min=0).sqrt()
    return products / (norms[:, None] * norms).clamp(min=torch.finfo(products.dtype).tiny)


def combined(factors: Factored, coefficients: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Weighted sums of n adapters in factors of rank n r: coefficients (C, n) to B (C, d_out, n r) and A (C, n r, d_in)."""
    found = {}
    for key, (left, right) in factors.items():
        count, d_out, rank = left.shape
        weighted = left[None] * coefficients[:, :, None, None].to(left)
        outer = weighted.permute(0, 2, 1, 3).reshape(len(coefficients), d_out, count * rank)
        found[key] = (outer, right.reshape(1, count * rank, -1).expand(len(coefficients), -1, -1))
    return found


@torch.no_grad()
def cut(adapters: Factored | Dense, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Stacked adapters as the best ones of this rank (Eckart and Young), in factors."""
    found = {}
    for name, change in adapters.items():
        if isinstance(change, Tensor):
            left, values, right = torch.linalg.svd(change, full_matrices=False)
            root = values[:, :rank].sqrt()
            found[name] = (left[:, :, :rank] * root[:, None, :], root[:, :, None] * right[:, :rank])
        elif change[1].shape[1] <= rank:
            found[name] = change
        else:
            parts = [Factors(b, a).compressed(rank) for b, a in zip(*change, strict=True)]
            found[name] = (torch.stack([p.left for p in parts]), torch.stack([p.right for p in parts]))
    return found


def train_pool(model: nn.Module, tasks: TaskSet, options: Teachers, seed: int) -> Pool:
    """A teacher for every task from one shared A_0, and for some training tasks a second one on other examples."""
    plan = [(t, 1) for t in tasks.tasks] + [(t, 2) for t in tasks.of("train")[: options.again]]
    start = first_factors(model, options.rank, seed)
    names = [task.name if attempt == 1 else f"{task.name}#{attempt}" for task, attempt in plan]
    seeds = [(seed, task.name, attempt) for task, attempt in plan]
    return _trained(model, [t for t, _ in plan], names, [start] * len(plan), seeds, options, tasks.ends)


def train_own_pool(model: nn.Module, tasks: TaskSet, options: Teachers, seed: int) -> Pool:
    """Teachers of training tasks, each from an A_0 of its own: what one finds on a hub."""
    chosen = tasks.of("train")[: options.own]
    starts = [first_factors(model, options.rank, seed, task.name) for task in chosen]
    seeds = [(seed, task.name, "own") for task in chosen]
    return _trained(model, chosen, [t.name for t in chosen], starts, seeds, options, tasks.ends)


def train_joint(model: nn.Module, tasks: TaskSet, options: Teachers, seed: int) -> Pool:
    """One adapter for all training tasks together, without descriptions (``joint``) and with them (``joint_prompted``)."""
    train = tasks.of("train")
    size = options.batch * max(1, options.together // 2)

    def draw(with_description: bool) -> Draw:
        def one(rng: Any) -> list[tuple[str, str]]:
            pairs = []
            for _ in range(size):
                task = rng.choice(train)
                drawn = task.draw(1, rng, "train")
                pairs += task.asked(drawn, rng.choice(task.descriptions)) if with_description else drawn
            return pairs

        return one

    start, found = first_factors(model, options.rank, seed, "joint"), []
    for name, with_description in (("joint", False), ("joint_prompted", True)):
        found += train_together(
            model, [draw(with_description)], [start], [(seed, name)], options, steps=options.joint_steps, end=tasks.ends
        )
    return Pool(["joint", "joint_prompted"], stacked(found), weights_digest(model))


def _trained(
    model: nn.Module,
    tasks: Sequence[TextTask],
    names: list[str],
    starts: Sequence[Mapping[str, Tensor]],
    seeds: Sequence[Sequence[object]],
    options: Teachers,
    end: bool,
) -> Pool:
    found = []
    for first in range(0, len(tasks), options.together):
        part = slice(first, first + options.together)
        draws: list[Draw] = [lambda rng, t=t: t.draw(options.batch, rng, "train") for t in tasks[part]]  # type: ignore[misc]
        found += train_together(model, draws, starts[part], seeds[part], options, end=end)
    return Pool(names, stacked(found), weights_digest(model))
