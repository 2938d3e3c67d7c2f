"""The solve of a batch: the n x n form (Woodbury) with the cached Cholesky factor of C against the direct d x d form.

EMMET's system, float64, for layers of d_in inputs and d_in / 4 outputs. The slope is that of log seconds over log n for
n < d_in: the n x n form costs O(d_in^2 n), a slope of at most one; below one while reading the factor outweighs the
arithmetic. The direct form costs O(d_in^3) whatever n is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.common import alternate, random_moment, ratio, threads
from editlab.algebra.problem import Form, Problem, Solution
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import solve
from editlab.config.solvers import Emmet

SIZES = {512: 5, 2048: 3, 4096: 2}  # repetitions by d_in
FACTS = (8, 16, 32, 64, 128, 256, 512)


def run(*, quick: bool = False) -> dict[str, Any]:
    """Seconds of both forms for every (d_in, n)."""
    sizes, facts = ({64: 1}, (4, 8)) if quick else (SIZES, FACTS)
    with threads(1):
        tables = [_layer(d_in, facts, repetitions) for d_in, repetitions in sizes.items()]
    return {"solver": "emmet", "dtype": "float64", "threads": 1, "layers": tables}


def _layer(d_in: int, facts: Sequence[int], repetitions: int) -> dict[str, Any]:
    moment = random_moment(d_in)
    moment.factor()  # checked once, as in a stream of batches
    rows = [_row(moment, n, repetitions) for n in facts if n < d_in]
    return {
        "d_in": d_in,
        "rows": rows,
        "slope": {form: slope([(r["facts"], r["seconds"][form]["cpu_min"]) for r in rows]) for form in FORMS},
    }


FORMS: tuple[Form, Form] = ("woodbury", "direct")


def _row(moment: SecondMoment, n: int, repetitions: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(n)
    d_in = moment.size
    keys = torch.randn(d_in, n, dtype=torch.float64, generator=generator)
    residual = torch.randn(d_in // 4, n, dtype=torch.float64, generator=generator)
    problem = Problem(keys=keys, residual=residual, moment=moment)
    solutions: dict[str, Solution] = {}

    def candidate(form: Form) -> Callable[[], None]:
        def call() -> None:
            solutions[form] = solve(replace(problem, form=form), Emmet())

        return call

    times = alternate({form: candidate(form) for form in FORMS}, repetitions, warmup=0)
    return {
        "facts": n,
        "seconds": {form: timing.summary() for form, timing in times.items()},
        "speedup": ratio(times["direct"], times["woodbury"]),
        "difference": _difference(solutions),
    }


def _difference(solutions: dict[str, Solution]) -> float:
    """Relative difference of the two updates: the forms are the same algebra.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    first, second = (solutions[form].factors.dense() for form in FORMS)
    gap = float((first - second).norm() / second.norm())
    if not gap < 1e-6:
        raise AssertionError(f"the n x n and the direct form differ by {gap:.1e}")
    return gap


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    logs = [(math.log(x), math.log(max(y, 1e-9))) for x, y in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return round(sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread, 3) if spread else float("nan")
