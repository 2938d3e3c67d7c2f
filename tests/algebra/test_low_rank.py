"""Low-rank forms of an update in both metrics, and the store that keeps them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.history import History
from editlab.algebra.linalg import Factors
from editlab.algebra.low_rank import (
    FROBENIUS,
    EditMetric,
    LoraStore,
    best_rank,
    metric_of,
    residual_of,
)
from editlab.algebra.problem import Problem
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import solve
from editlab.config.recipe import LowRankStorage
from editlab.config.solver import Solver
from editlab.config.solvers import SOLVERS
from editlab.errors import ConfigError, NumericalError

F64 = torch.float64
D_OUT, D_IN = 9, 16
SMALL = {"second_moment_weight": 2.0, "null_space_share": 0.6, "l2": 1.0, "update_norm_weight": 0.0}


def options(name: str) -> Solver:
    return SOLVERS[name](**{k: v for k, v in SMALL.items() if k in SOLVERS[name].model_fields})


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def second_moment(decades: float = 2.0, seed: int = 0) -> SecondMoment:
    basis = torch.linalg.qr(gaussian(D_IN, D_IN, seed=seed + 50)).Q
    matrix = basis @ torch.diag(torch.logspace(-decades, 0, D_IN, dtype=F64)) @ basis.T
    return SecondMoment((matrix + matrix.T) / 2, 10 * D_IN)


def problem(n: int, seed: int = 0, decades: float = 2.0) -> Problem:
    moment = second_moment(decades, seed)
    return Problem(gaussian(D_IN, n, seed=seed + 1), gaussian(D_OUT, n, seed=seed + 2), moment, seed=seed)


def dense(metric: EditMetric) -> torch.Tensor:
    matrix = metric.ridge * torch.eye(D_IN, dtype=F64)
    if metric.moment is not None:
        matrix = matrix + metric.weight * metric.moment.matrix
    if metric.keys is not None:
        matrix = matrix + metric.keys @ metric.keys.T
    return matrix if metric.history is None else matrix + metric.history.dense()


def distance(a: torch.Tensor, b: torch.Tensor, metric: EditMetric) -> float:
    gap = a - b
    return float((gap @ dense(metric) @ gap.T).trace().clamp(min=0).sqrt())


cases = st.tuples(st.integers(1, 14), st.integers(1, 10), st.integers(0, 99), st.sampled_from(["memit", "emmet"]))


@given(cases)
@settings(deadline=None, max_examples=60)
def test_edit_metric_form_is_the_optimum_and_never_worse_than_the_truncated_svd(case):
    n, rank, seed, solver = case
    batch = problem(n, seed)
    update = solve(batch, options(solver)).factors
    metric = metric_of(batch, options(solver).penalty())
    ours, theirs = best_rank(update, rank, metric), update.compressed(rank)
    assert ours.factors.rank <= rank or rank >= update.rank
    error, svd_error = (distance(update.dense(), f.dense(), metric) for f in (ours.factors, theirs))
    scale = distance(update.dense(), torch.zeros_like(update.dense()), metric)
    assert error <= svd_error + 1e-7 * scale
    # Closed form: truncate the SVD of dW L, times L^-1.
    root = torch.linalg.cholesky(dense(metric))
    u, s, vh = torch.linalg.svd(update.dense() @ root, full_matrices=False)
    optimum = u[:, :rank] * s[:rank] @ vh[:rank] @ torch.linalg.inv(root)
    assert error == pytest.approx(distance(update.dense(), optimum, metric), rel=1e-6, abs=1e-7 * scale)
    assert ours.energy == pytest.approx(1 - (error / scale) ** 2, abs=1e-7)


@given(st.tuples(st.integers(1, 12), st.integers(0, 99), st.sampled_from(["memit", "emmet", "alphaedit", "encore"])))
@settings(deadline=None, max_examples=40)
def test_at_rank_n_the_form_equals_the_raw_update(case):
    n, seed, solver = case
    batch = problem(n, seed)
    update = solve(batch, options(solver)).factors
    for rank in (n, n + 3):
        found = best_rank(update, rank, metric_of(batch, options(solver).penalty()))
        assert float((found.factors.dense() - update.dense()).norm()) <= 1e-6 * update.norm()
        assert found.energy == pytest.approx(1.0)


def test_frobenius_form_is_the_truncated_svd():
    update = solve(problem(7), options("memit")).factors
    for rank in (1, 3, 6):
        torch.testing.assert_close(best_rank(update, rank).factors.dense(), update.compressed(rank).dense())


def test_edit_metric_keeps_the_edit_better_than_the_truncated_svd():
    batch = problem(8, decades=4.0)
    update = solve(batch, options("memit")).factors
    edit = best_rank(update, 3, metric_of(batch, options("memit").penalty())).factors
    assert residual_of(edit, batch) < residual_of(update.compressed(3), batch)


def test_low_rank_alphaedit_stays_in_the_null_space():
    batch = problem(8)
    basis = batch.moment.null_space(0.0, SMALL["null_space_share"])
    update = solve(batch, options("alphaedit")).factors
    cut = best_rank(update, 3, metric_of(batch, options("alphaedit").penalty())).factors
    outside = cut.right - cut.right @ basis @ basis.T
    assert float(outside.norm()) <= 1e-9 * float(cut.right.norm())


def test_metric_takes_history_and_column_weights():
    batch = replace(problem(4), column_weights=torch.tensor([1.0, 2.0, 0.0, 4.0]))
    keys = gaussian(D_IN, 3, seed=8)
    earlier = keys @ keys.T
    metric = metric_of(batch, options("memit").penalty(), History.of(keys))
    weighted = (batch.keys * batch.column_weights) @ batch.keys.T
    torch.testing.assert_close(dense(metric), 2.0 * batch.moment.matrix + weighted + earlier)
    right = gaussian(3, D_IN, seed=9)
    torch.testing.assert_close(metric.gram(right), right @ dense(metric) @ right.T)


def test_zero_updates_and_bad_input():
    zero = Factors(torch.zeros(D_OUT, 4, dtype=F64), gaussian(4, D_IN))
    assert torch.equal(best_rank(zero, 2).factors.dense(), torch.zeros(D_OUT, D_IN, dtype=F64))
    with pytest.raises(NumericalError, match="NaN"):
        best_rank(Factors(zero.left * torch.nan, zero.right), 2)
    with pytest.raises(ValueError, match="rank"):
        best_rank(zero, -1)


# ---- the store ---------------------------------------------------------------------------------------------------


def store(rank: int = 4, **storage) -> LoraStore:
    return LoraStore(rank, LowRankStorage(**storage), options("memit").penalty())


def fill(kept: LoraStore, batches: int = 3, n: int = 5) -> list[dict]:
    events, before = [], kept.total(0)
    total = torch.zeros(D_OUT, D_IN, dtype=F64) if before is None else before.dense()
    for index in range(batches):
        batch = problem(n, seed=10 * index)
        change, found = kept.add(0, solve(batch, options("memit")).factors, batch)
        kept.remember(0, batch.keys)
        total = total + change.dense()
        torch.testing.assert_close(kept.total(0).dense(), total)  # changes add up to what is kept
        events.append(found)
    return events


@pytest.mark.parametrize("metric", ["edit", "frobenius"])
def test_recompress_holds_the_rank_and_append_grows_to_the_cap(metric):
    recompressed, appended = store(3, lora_metric=metric), store(3, lora_metric=metric, accumulate="append", max_rank=7)
    assert [e["lora_rank"] for e in fill(recompressed, 4)] == [3, 3, 3, 3]
    events = fill(appended, 4)
    assert [e["lora_rank"] for e in events] == [3, 6, 7, 7]
    assert [e.get("capped", False) for e in events] == [False, False, True, True]
    assert all(0 < e["energy"] < 1 for e in events)


def test_a_store_of_full_rank_keeps_everything():
    kept, raw = store(D_OUT, max_rank=D_OUT), torch.zeros(D_OUT, D_IN, dtype=F64)
    for index in range(3):
        batch = problem(5, seed=index)
        update = solve(batch, options("memit")).factors
        raw = raw + update.dense()
        _, found = kept.add(0, update, batch)
        assert found["edit_residual"] == pytest.approx(residual_of(update, batch))
    torch.testing.assert_close(kept.total(0).dense(), raw)


def test_a_cut_that_keeps_too_little_raises_the_rank_then_falls_back():
    batch = problem(8)
    update = solve(batch, options("memit")).factors
    metric = metric_of(batch, options("memit").penalty())
    needed = next(r for r in range(1, 9) if best_rank(update, r, metric).energy >= 0.95)
    assert needed > 2
    raised = store(2, min_energy=0.95, max_rank=needed)
    _, found = raised.add(0, update, batch)
    assert (found["cut"], found["lora_rank"]) == ("rank_raised", needed)
    assert found["energy"] >= 0.95
    fallen = store(2, min_energy=0.95, max_rank=needed - 1)
    change, found = fallen.add(0, update, batch)
    assert found["cut"] == "raw_fallback"
    assert found["rank_needed"] == needed
    assert 0 not in fallen.adapters
    torch.testing.assert_close(change.dense(), update.dense())
    torch.testing.assert_close(fallen.total(0).dense(), update.dense())


def test_snapshot_and_tensors_give_the_state_back_bit_for_bit():
    kept = store(3, min_energy=0.99, max_rank=4)
    fill(kept, 2)
    before, tensors = kept.snapshot(), {k: v.clone() for k, v in kept.tensors().items()}
    fill(kept, 1)
    kept.restore(before)
    other = store(3, min_energy=0.99, max_rank=4)
    other.load(tensors)
    for restored in (kept, other):
        found = restored.tensors()
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[k], tensors[k]) for k in tensors)


def test_bad_ranks_are_refused():
    for arguments, message in (({"rank": 0}, "rank: 0"), ({"rank": 8, "max_rank": 4}, "max_rank: 4")):
        with pytest.raises(ConfigError, match=message):
            store(**arguments)


def test_frobenius_metric_ignores_the_data():
    update = solve(problem(6), options("memit")).factors
    assert float(FROBENIUS.gram(update.right).trace()) == pytest.approx(float(update.right.norm() ** 2))
