"""Low-rank factors, second moments and symmetric positive definite systems."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.linalg import Factors
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.spd import RIDGE_STEPS, estimated_condition, factor_spd
from editlab.errors import NumericalError

F64 = torch.float64


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def with_spectrum(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    basis = torch.linalg.qr(gaussian(len(values), len(values), seed=seed)).Q
    matrix = basis @ torch.diag(values) @ basis.T
    return (matrix + matrix.T) / 2


def factors(d_out: int = 7, r: int = 3, d_in: int = 11, seed: int = 0) -> Factors:
    return Factors(gaussian(d_out, r, seed=seed), gaussian(r, d_in, seed=seed + 1))


shapes = st.tuples(st.integers(1, 9), st.integers(0, 12), st.integers(1, 9), st.integers(0, 99))


@given(shapes)
@settings(deadline=None, max_examples=60)
def test_factors_agree_with_the_dense_matrix(shape):
    d_out, r, d_in, seed = shape
    update, keys = factors(d_out, r, d_in, seed), gaussian(d_in, 4, seed=seed + 2)
    dense = update.dense()
    assert update.shape == tuple(dense.shape) == (d_out, d_in)
    assert update.norm() == pytest.approx(float(dense.norm()), rel=1e-12, abs=1e-12)
    torch.testing.assert_close(update.apply(keys), dense @ keys)
    torch.testing.assert_close(update.scaled(-2.0).dense(), -2.0 * dense)
    torch.testing.assert_close((update + update.scaled(3.0)).dense(), 4.0 * dense)
    torch.testing.assert_close(update.compressed().dense(), dense)
    assert update.compressed().rank <= min(d_out, r, d_in)


def test_compressed_is_the_best_low_rank_approximation():
    update = factors(r=6)
    u, s, vh = torch.linalg.svd(update.dense(), full_matrices=False)
    for rank in (1, 3, 6):
        best = update.compressed(rank)
        assert best.rank == rank
        torch.testing.assert_close(best.dense(), u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank])
        torch.testing.assert_close(best.left.T @ best.left, best.right @ best.right.T)  # balanced


def test_compressed_drops_what_is_zero_and_what_is_under_the_tolerance():
    update = factors(r=2)
    doubled = Factors.concatenate([update, update])
    assert doubled.compressed(tolerance=1e-12).rank == 2
    assert (update + update.scaled(-1.0)).norm() < 1e-14
    assert Factors.zeros(4, 5).compressed().rank == 0
    assert Factors(torch.zeros(4, 3, dtype=F64), torch.zeros(3, 5, dtype=F64)).compressed().rank == 0


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4)])
def test_from_dense_is_bit_exact(shape):
    matrix = gaussian(*shape)
    update = Factors.from_dense(matrix)
    assert update.rank == min(shape)
    assert torch.equal(update.dense(), matrix)


def test_factors_of_rank_zero_and_other_types():
    nothing = Factors.zeros(3, 5)
    assert (nothing.rank, nothing.norm(), nothing.left.dtype) == (0, 0.0, F64)
    assert torch.equal(nothing.dense(), torch.zeros(3, 5, dtype=F64))
    assert factors().to(dtype=torch.float32).dense().dtype == torch.float32


def test_factors_refuse_shapes_that_do_not_multiply_and_nan():
    with pytest.raises(ValueError, match="do not multiply"):
        Factors(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(NumericalError, match="NaN"):
        Factors(torch.full((3, 1), torch.nan), torch.ones(1, 3)).compressed()


def moment(d: int = 12, seed: int = 0) -> SecondMoment:
    keys = gaussian(d, 5 * d, seed=seed)
    return SecondMoment(keys @ keys.T / (5 * d), 5 * d)


def test_second_moment_solves_by_cholesky_and_by_eigenvectors_alike():
    made, right_side = moment(), gaussian(12, 3, seed=9)
    expected = torch.linalg.solve(made.matrix, right_side)
    torch.testing.assert_close(made.solve(right_side), expected)
    torch.testing.assert_close(made.cholesky @ made.cholesky.T, made.matrix)  # made on first use, kept on the object
    values, vectors = torch.linalg.eigh(made.matrix)
    spectral = SecondMoment(made.matrix, made.count, None, values, vectors)
    torch.testing.assert_close(spectral.solve(right_side), expected)
    assert spectral.cholesky is None
    torch.testing.assert_close(
        spectral.shifted(0.5).solve(right_side), torch.linalg.solve(made.matrix + 0.5 * torch.eye(12), right_side)
    )


def test_a_given_cholesky_factor_is_used_and_a_foreign_one_refused():
    made = moment()
    lower = torch.linalg.cholesky(made.matrix)
    again = SecondMoment(made.matrix, made.count, cholesky=lower)
    assert again.factor() is again.cholesky
    with pytest.raises(NumericalError, match="another matrix"):
        SecondMoment(made.matrix * 2, made.count, cholesky=lower).validate()


def test_null_space_by_threshold_and_by_share():
    made = SecondMoment(with_spectrum(torch.tensor([1e-4, 1e-3, 0.5, 1.0, 2.0], dtype=F64)), 10)
    basis = made.null_space(0.02)
    assert basis.shape == (5, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=F64))
    assert float((made.matrix @ basis).norm()) < 2e-3
    assert made.null_space(0.02, share=0.6).shape == (5, 3)
    assert made.null_space(1e-9).shape == (5, 0)
    singular_vectors, singular_values, _ = torch.linalg.svd(made.matrix)
    published = singular_vectors[:, singular_values < 0.02]
    torch.testing.assert_close(basis @ basis.T, published @ published.T)


def test_the_estimated_condition_number_is_close_to_the_exact_one():
    values = torch.logspace(-3, 0, 20, dtype=F64)
    matrix = with_spectrum(values)
    estimate = estimated_condition(matrix, torch.linalg.cholesky(matrix))
    exact = float(torch.linalg.cond(matrix, p=1))
    assert exact / 3 <= estimate <= exact * (1 + 1e-9)


@pytest.mark.parametrize("by", ["cholesky", "eigenvectors"])
def test_a_singular_moment_gets_a_recorded_ridge(by):
    keys = gaussian(10, 4)
    made = SecondMoment(keys @ keys.T, 4)
    if by == "eigenvectors":
        made.eigh()
    solved = made.solve(gaussian(10, 2))
    assert solved.isfinite().all()
    assert made.ridge > 0
    assert made.ridge < 1e-6 * float(made.matrix.diagonal().mean())


BAD = {
    "NaN": torch.tensor([[1.0, math.nan], [math.nan, 1.0]]),
    "square": torch.ones(2, 3),
    "symmetric": torch.tensor([[1.0, 0.5], [0.0, 1.0]]),
    "diagonal": torch.tensor([[1.0, 0.0], [0.0, -1.0]]),
    "zero": torch.zeros(2, 2),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_second_moments_are_refused(reason):
    with pytest.raises(NumericalError, match=reason):
        SecondMoment(BAD[reason], 3).solve(torch.ones(2, 1, dtype=F64))


def test_ridge_is_raised_tenfold_and_only_as_far_as_needed():
    matrix = with_spectrum(torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=F64))
    solved = factor_spd(matrix, 1e4, "system")
    assert solved.raised == pytest.approx([1e-4, 1e-3])
    assert solved.condition <= 1e4
    assert factor_spd(matrix + torch.eye(4), 1e4, "system").raised == []
    with pytest.raises(NumericalError, match=r"system: condition number .* above 2\.0e\+00"):
        factor_spd(with_spectrum(torch.tensor([-1e9, 1e9 + 1.0], dtype=F64)), 2.0, "system")
    with pytest.raises(NumericalError, match="zero matrix"):
        factor_spd(torch.zeros(2, 2, dtype=F64), 1e4, "system")
    assert RIDGE_STEPS <= 8
