"""The solve of a late batch: AlphaEdit with thousands of earlier keys against MEMIT, which has no memory.

One layer of d_in inputs and d_in / 4 outputs, float64, 100 facts. What a stream has ready is ready here too: MEMIT's
Cholesky factor of C, AlphaEdit's eigenvectors of C, and of the earlier keys what their batches left behind. The same
solve with the keys' matrix written out and factored, as it was done before, stands beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from benchmarks.common import alternate, random_moment, ratio, threads, timed
from editlab.algebra.history import History
from editlab.algebra.problem import Problem, Solution
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import solve
from editlab.config.solvers import AlphaEdit, Memit

SHARE = 0.5  # of the directions: where projecting costs most


def run(*, quick: bool = False) -> dict[str, Any]:
    """Seconds of both at d_in = 4,096 with 2,000 earlier keys; of the dense solve once."""
    d_in, facts, batches, repetitions = (64, 4, 5, 1) if quick else (4096, 100, 20, 3)
    with threads(1):
        return _measure(d_in, facts, batches, repetitions)


def _measure(d_in: int, facts: int, batches: int, repetitions: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def columns(rows: int) -> torch.Tensor:
        return torch.randn(rows, facts, dtype=torch.float64, generator=generator)

    moment, history = random_moment(d_in), History()
    for _ in range(batches):
        history = history.extended(columns(d_in))
    asked = Problem(keys=columns(d_in), residual=columns(d_in // 4), moment=moment)
    late = replace(asked, moment=_with_basis(moment, generator), history=history)
    alphaedit = AlphaEdit(null_space_share=SHARE)
    prepared, _, thin = timed(lambda: solve(late, alphaedit))  # the batches before have left what they know
    times = alternate(
        {"memit": lambda: solve(asked, Memit()), "alphaedit": lambda: solve(late, alphaedit)}, repetitions
    )
    dense_seconds, _, dense = timed(lambda: solve(replace(late, form="direct"), alphaedit))
    return {
        "dtype": "float64",
        "threads": 1,
        "d_in": d_in,
        "facts": facts,
        "earlier_keys": batches * facts,
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "alphaedit_to_memit": ratio(times["alphaedit"], times["memit"]),
        "all_batches_from_nothing_cpu": round(prepared, 3),
        "dense_cpu": round(dense_seconds, 3),
        "difference": _difference(thin, dense),
    }


def _with_basis(moment: SecondMoment, generator: torch.Generator) -> SecondMoment:
    """The second moment as a statistics file has it, with eigenvectors; any orthonormal ones cost the same."""
    size = moment.size
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    values = torch.linspace(0.1, 10.0, size, dtype=torch.float64)
    return SecondMoment(moment.matrix, moment.count, eigenvalues=values, eigenvectors=basis)


def _difference(first: Solution, second: Solution) -> float:
    """Relative difference of the two updates: the forms are the same algebra.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    gap = float((first.factors.dense() - second.factors.dense()).norm() / second.factors.norm())
    if not gap < 1e-6:
        raise AssertionError(f"the thin and the dense form differ by {gap:.1e}")
    return gap
