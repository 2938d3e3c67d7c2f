"""The n x n form of AlphaEdit against its printed formula, and the projector from the thin SVD of the keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.null_space import Projector, project_update, projector, spectrum
from editlab.algebra.problem import Problem
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import solve
from editlab.config.solvers import AlphaEdit
from editlab.errors import ConfigError, NumericalError


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def decaying(d, n, seed=0):
    """Keys (d, n) whose spectrum falls by four decades."""
    return torch.diag(torch.logspace(0, -2, d, dtype=torch.float64)) @ normal(d, n, seed=seed) / n**0.5


def printed(keys, residual, projection, ridge, earlier):
    """AlphaEdit, eq. 14: R K^T P (K K^T P + K' K'^T P + lambda I)^-1, with the d x d inverse."""
    both = keys @ keys.T + earlier @ earlier.T
    return residual @ keys.T @ projection @ torch.linalg.inv(both @ projection + ridge * torch.eye(len(keys)).double())


@settings(max_examples=40, deadline=None)
@given(
    d=st.integers(4, 24), n=st.integers(1, 30), m=st.integers(0, 8), ridge=st.floats(1e-3, 10), seed=st.integers(0, 99)
)
def test_n_by_n_form_equals_the_printed_formula(d, n, m, ridge, seed):
    onto = projector(spectrum(decaying(d, 3 * d, seed)), 1e-2)
    keys, residual, earlier = normal(d, n, seed=seed + 1), normal(5, n, seed=seed + 2), normal(d, m, seed=seed + 3)
    factors, _ = project_update(keys, residual, onto, ridge, earlier)
    dense = onto(torch.eye(d).double())
    expected = printed(keys, residual, dense, ridge, earlier)
    assert torch.allclose(factors.dense(), expected, atol=1e-9 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("n", [6, 12, 40])
def test_projector_is_that_of_the_dense_moment(n):
    keys = decaying(12, n)
    values, vectors = torch.linalg.eigh(keys @ keys.T)
    kept = vectors[:, values < 1e-2 * values.max()]
    onto = projector(spectrum(keys), 1e-2)
    assert torch.allclose(onto(torch.eye(12).double()), kept @ kept.T, atol=1e-10)
    assert onto.dimension == kept.shape[1]
    assert onto.used.shape[1] <= n


def test_fewer_keys_than_dimensions_need_no_square_decomposition(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a d x d matrix was decomposed")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    onto = projector(spectrum(normal(64, 5)), 1e-12)
    assert onto.dimension == 59


def test_the_update_does_not_move_preserved_keys():
    preserved = normal(32, 10)
    factors, found = project_update(
        normal(32, 4, seed=1), normal(8, 4, seed=2), projector(spectrum(preserved), 1e-9), 0.1
    )
    assert float(factors.apply(preserved).abs().max()) < 1e-12
    assert 0 < found["residual"] < 1
    assert found["null_space_dimension"] == 22


def test_it_is_the_language_study_s_alphaedit():
    keys, residual, preserved = normal(16, 3), normal(6, 3, seed=1), decaying(16, 64)
    ours, _ = project_update(keys, residual, projector(spectrum(preserved), 1e-2), 0.3)
    moment = SecondMoment(preserved @ preserved.T, 64)
    absolute = 1e-2 * float(moment.eigh()[0].max())
    theirs = solve(Problem(keys, residual, moment), AlphaEdit(null_space_threshold=absolute, l2=0.3))
    assert torch.allclose(ours.dense(), theirs.factors.dense(), atol=1e-12)


def test_what_is_told_of_a_solve():
    """The share of the keys that is free, and how far the update falls short of the residual, as they are defined."""
    onto = projector(spectrum(decaying(16, 64)), 1e-2)
    keys, residual = normal(16, 3), normal(6, 3, seed=1)
    factors, found = project_update(keys, residual, onto, 0.3, normal(16, 2, seed=2))
    free = onto(torch.eye(16).double()) @ keys
    assert found["key_share"] == pytest.approx(float(free.norm() ** 2 / keys.norm() ** 2))
    assert found["residual"] == pytest.approx(float((factors.dense() @ keys - residual).norm() / residual.norm()))
    assert found["update_norm"] == pytest.approx(float(factors.dense().norm()))


@pytest.mark.parametrize("n", [5, 40])
def test_mean_square_is_that_of_the_keys(n):
    keys = decaying(12, n)
    assert spectrum(keys).mean_square == pytest.approx(float(keys.square().sum()))
    assert spectrum(3 * keys).mean_square == pytest.approx(9 * spectrum(keys).mean_square)


def test_faults():
    with pytest.raises(NumericalError, match="NaN"):
        spectrum(torch.full((4, 2), float("nan")))
    with pytest.raises(NumericalError, match="zero"):
        spectrum(torch.zeros(4, 2))
    with pytest.raises(ConfigError, match="leaves no direction"):
        projector(spectrum(normal(6, 40)), 1e-9)
    with pytest.raises(ConfigError, match="nullspace_threshold"):
        projector(spectrum(normal(6, 40)), 0.0)
    with pytest.raises(NumericalError, match="hold NaN"):
        project_update(torch.full((4, 1), float("inf")), torch.ones(2, 1), Projector(torch.zeros(4, 0).double()), 1.0)
