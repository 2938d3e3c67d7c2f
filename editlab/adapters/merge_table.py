"""The merge table: which rule joins ten retrieved adapters best, in which space, and what a shared A_0 has to do with it.

Members come from text retrieval among the tasks that both pools hold, so that the pools differ in their A_0 alone.
Every rule merges the same members with equal weights, so that it averages them in its own space; random rules are averaged
over several draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from editlab.adapters.bench import Bench, open_bench
from editlab.adapters.pool import Pool, merged
from editlab.adapters.predictor import searched, text_index
from editlab.adapters.training_set import TrainingSet
from editlab.algebra.linalg import Factors
from editlab.algebra.merging import COUNTED, RANDOM
from editlab.files.artifacts import write_csv
from editlab.randomness import torch_rng

# Rule, space, and the rank that the result is cut to (None: as the rule leaves it).
RULES: tuple[tuple[str, str, bool], ...] = (
    ("linear", "product", False),
    ("linear", "product", True),
    ("linear", "factor", False),
    ("magnitude_prune", "product", True),
    ("ties", "product", True),
    ("ties", "factor", False),
    ("ties_shared", "factor", False),
    ("dare_linear", "product", True),
    ("dare_linear", "factor", False),
    ("dare_ties", "product", True),
    ("dare_shared", "factor", False),
)


TASKS = 12  # held-out tasks of a seed that are merged for: every second one of 24


def compare_merges(bench: Bench, own: Pool | None) -> pd.DataFrame:
    """Rows of pool, space, rule, rank, task with scores, likeness to the exact sum and size as a share of its size."""
    split = bench.splits()[0]
    members = own.names if own is not None else split.train
    data = TrainingSet(bench.model, bench.tasks, members, bench.pool, bench.probes, bench.study.features)
    tests = split.test[:: max(1, len(split.test) // TASKS)]
    results = searched(text_index(data, bench.study.retrieval.index), data.text(tests), bench.study.merging.k)
    chosen = {t: [name for name, _ in found] for t, found in zip(tests, results, strict=True)}
    pools = {"shared A_0": bench.pool} | ({"own A_0": own} if own is not None else {})
    tables = []
    for pool_name, pool in pools.items():
        exact = {t: merged(pool, names, [1 / len(names)] * len(names)) for t, names in chosen.items()}
        for rule, space, cut in RULES:
            rows = [_one(bench, pool, chosen, exact, rule, space, cut, draw) for draw in range(_draws(bench, rule))]
            table = pd.concat(rows).groupby("task", sort=False).mean().reset_index()
            rank = bench.study.teachers.rank if cut or space == "factor" else 0
            about = {"seed": bench.seed, "pool": pool_name, "rule": rule, "space": space, "rank": rank}
            tables.append(pd.concat([pd.DataFrame([about] * len(table)), table], axis=1))
    return pd.concat(tables, ignore_index=True)


def _draws(bench: Bench, rule: str) -> int:
    return bench.study.merging.draws if rule in RANDOM else 1


def _one(
    bench: Bench,
    pool: Pool,
    chosen: Mapping[str, Sequence[str]],
    exact: Mapping[str, Mapping[str, Factors]],
    rule: str,
    space: str,
    cut: bool,
    draw: int,
) -> pd.DataFrame:
    options: dict[str, Any] = {"rule": rule, "space": space, "density": bench.study.merging.density}
    options["rank"] = bench.study.teachers.rank if cut else None
    extra: list[dict[str, Any]] = []

    def changes(part: Sequence[str]) -> dict[str, Tensor]:
        """Merged when they are scored: in a large model the dense sums of all tasks would not fit."""
        products = []
        for task in part:
            weights = [_weight(rule, space, len(chosen[task]))] * len(chosen[task])
            generator = torch_rng("adapters", "merge", bench.seed, rule, space, task, draw)
            found = merged(pool, chosen[task], weights, **options, generator=generator)
            products.append({k: update.dense() for k, update in found.items()})
            extra.append({"task": task, **_likeness(products[-1], exact[task])})
        return {k: torch.stack([p[k] for p in products]) for k in products[0]}

    return bench.scorer.score(list(chosen), changes).merge(pd.DataFrame(extra), on="task")


def _weight(rule: str, space: str, count: int) -> float:
    """What makes a rule average: 1 where it divides by a number of adapters itself, else 1 / count.

    Factors are weighted with its root, so that means of both sides need 1 / count^2; with 1 / count the product of the two
    sums would be count times the mean where the adapters share one A.
    """
    if rule in COUNTED:
        return 1.0
    return 1 / count if space == "product" else 1 / count**2


def _likeness(found: Mapping[str, Tensor], exact: Mapping[str, Factors]) -> dict[str, float]:
    """Cosine to the exact sum, and size as a share of its size, map by map."""
    product, own, other = 0.0, 0.0, 0.0
    for key, update in exact.items():
        dense = update.dense()
        product += float((found[key] * dense).sum())
        own, other = own + float(found[key].square().sum()), other + float(dense.square().sum())
    scale = (own * other) ** 0.5
    return {
        "cosine_to_sum": product / scale if scale > 0 else 0.0,
        "norm_to_sum": (own / other) ** 0.5 if other > 0 else 0.0,
    }


def merges_job(*, own: Sequence[str], target: str, **bench: Any) -> None:
    """Retrieved adapters merged by every rule; ``own``: the pool from own A_0, if there is one."""
    pools = [Pool.load(path) for path in own]
    write_csv(target, compare_merges(open_bench(**bench), pools[0] if pools else None))
