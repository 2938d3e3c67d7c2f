"""Curvature and the steps that stay off its steep directions, against the formulas written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.curvature import Curvature, CurvatureSums
from editlab.algebra.null_space import Projector
from editlab.algebra.second_moment import SecondMoment

D_OUT, D_IN, COUNT = 7, 12, 200
F64 = torch.float64


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def moment(size: int, seed: int) -> SecondMoment:
    rows = gaussian(COUNT, size, seed=seed) * torch.logspace(-2, 0, size, dtype=F64)
    return SecondMoment(rows.T @ rows / COUNT, COUNT)


def curvature(seed: int = 0) -> Curvature:
    return Curvature(moment(D_IN, seed + 1), moment(D_OUT, seed + 2))


def mask(given: Curvature, energy: float) -> torch.Tensor:
    """M (d_in, d_out) of the specification, one product after another: 1 where it stays."""
    values_a, values_b = (torch.linalg.eigh(m.matrix)[0].clamp_min(0) for m in (given.inputs, given.gradients))
    ranked = sorted(
        ((float(a * b), i, j) for i, a in enumerate(values_a) for j, b in enumerate(values_b)), reverse=True
    )
    total, held, kept = sum(p for p, _, _ in ranked), 0.0, torch.ones(D_IN, D_OUT, dtype=F64)
    for product, i, j in ranked:
        if held >= energy * total:
            break
        kept[i, j] = 0.0
        held += product
    return kept


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.95, 0.999])
def test_a_step_is_masked_in_both_eigenbases_as_published(energy):
    given, step = curvature(), gaussian(D_OUT, D_IN, seed=9)
    basis_a, basis_b = (torch.linalg.eigh(m.matrix)[1] for m in (given.inputs, given.gradients))
    kept = mask(given, energy)
    expected = basis_b @ ((basis_b.T @ step @ basis_a) * kept.T) @ basis_a.T
    steep = given.steep(energy)
    torch.testing.assert_close(steep.off(step), expected, rtol=1e-10, atol=1e-12)
    assert steep.share == pytest.approx(1 - float(kept.mean()))
    assert 0 < steep.share < 1


@settings(max_examples=20, deadline=None)
@given(energy=st.floats(0.01, 0.99), seed=st.integers(0, 50))
def test_what_is_left_has_nothing_of_any_removed_direction_and_stays_as_it_is(energy, seed):
    given, step = curvature(seed), gaussian(D_OUT, D_IN, seed=seed + 100)
    steep = given.steep(energy)
    left = steep.off(step)
    torch.testing.assert_close(steep.off(left), left, rtol=1e-6, atol=1e-9)
    inner = (steep.left.T @ left @ steep.right) * steep.taken  # <step, u_j v_i^T>
    assert float(inner.abs().max()) < 1e-12 * float(step.norm())
    assert float(left.norm()) <= float(step.norm()) * (1 + 1e-12)


def test_the_energy_is_held_and_no_direction_more():
    given = curvature()
    values_a, values_b = given.inputs.eigh()[0], given.gradients.eigh()[0]
    products = values_b[:, None] * values_a[None, :]
    for energy in (0.2, 0.5, 0.9):
        steep = given.steep(energy)
        removed = round(steep.share * products.numel())
        largest = products.flatten().sort(descending=True).values
        assert float(largest[:removed].sum()) >= energy * float(products.sum())
        assert float(largest[: removed - 1].sum()) < energy * float(products.sum())
    assert given.steep(0.0) is None


def test_with_gradients_alike_in_all_directions_it_is_the_projector_of_alphaedit():
    inputs = moment(D_IN, 3)
    given = Curvature(inputs, SecondMoment(2.5 * torch.eye(D_OUT, dtype=F64), COUNT))
    values, step = inputs.eigh()[0], gaussian(D_OUT, D_IN, seed=4)
    for removed in (1, 4, 9):
        threshold = float(values[-removed]) * (1 - 1e-9)
        energy = float(values[-removed:].sum() / values.sum()) * (1 - 1e-9)
        onto = Projector.of_moment(inputs, threshold, None)
        assert onto.dimension == D_IN - removed
        torch.testing.assert_close(given.steep(energy).off(step), onto(step.T).T, rtol=1e-9, atol=1e-12)


def test_a_step_off_the_steep_directions_costs_less_of_a_quadratic_loss():
    """On ``tr(B dW A dW^T) / 2``, whose Hessian is ``A (x) B``."""
    given = curvature()

    def cost(step: torch.Tensor) -> float:
        return 0.5 * float((given.gradients.matrix @ step @ given.inputs.matrix * step).sum())

    energies, shares = (0.3, 0.6, 0.9), []
    for seed in range(200):
        step = gaussian(D_OUT, D_IN, seed=seed)
        costs = [cost(step), *(cost(given.steep(energy).off(step)) for energy in energies)]
        assert costs == sorted(costs, reverse=True)
        shares.append([c / costs[0] for c in costs[1:]])
    for energy, share in zip(energies, torch.tensor(shares).mean(0), strict=True):
        assert float(share) < 1 - energy + 0.05


def test_more_tokens_join_both_factors_by_their_number():
    given, x, g = curvature(), gaussian(30, D_IN, seed=5), gaussian(30, D_OUT, seed=6)
    parts = [CurvatureSums(x[i].T @ x[i], g[i].T @ g[i], len(x[i])) for i in (slice(0, 11), slice(11, 30))]
    for weight in (1.0, 4.0):
        joined = given.joined(parts[0] + parts[1], weight)
        expected = (COUNT * given.inputs.matrix + weight * x.T @ x) / (COUNT + 30 * weight)
        torch.testing.assert_close(joined.inputs.matrix, expected)
        expected = (COUNT * given.gradients.matrix + weight * g.T @ g) / (COUNT + 30 * weight)
        torch.testing.assert_close(joined.gradients.matrix, expected)
    assert given.joined(parts[0], 0.0) is given
    again = CurvatureSums.of_tensors(parts[0].tensors(), torch.device("cpu"))
    assert again.count == 11
    assert torch.equal(again.inputs, parts[0].inputs)
    assert torch.equal(again.gradients, parts[0].gradients)
