"""Every solver against the equation it is named after, and a battery of invariants over all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.history import History
from editlab.algebra.linalg import Factors
from editlab.algebra.null_space import refreshed
from editlab.algebra.postprocess import largest_relative, restrain_total_on_top
from editlab.algebra.problem import Problem, Solution
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import select_neurons, solve, update
from editlab.config.base import validated
from editlab.config.solver import Solver
from editlab.config.solvers import SOLVERS as REGISTERED
from editlab.config.solvers import Memit
from editlab.errors import ConfigError, NumericalError

F64 = torch.float64
D_OUT, D_IN, N = 9, 16, 5
SOLVERS = {name: solver for name, solver in REGISTERED.items() if not (solver.gradient or solver.reads)}
SMALL = {"second_moment_weight": 1.0, "null_space_share": 0.6, "l2": 1.0, "update_norm_weight": 0.0}  # for small maps

SMALL_MOMENT = {"second_moment_weight": 1.0}


def options(name: str, **values) -> Solver:
    """The options of a solver, with those of SMALL that it has."""
    solver = SOLVERS[name]
    return validated(solver, {k: v for k, v in SMALL.items() if k in solver.model_fields} | values, name)


def solved(name: str, given: Problem, **values) -> Solution:
    return solve(given, options(name, **values))


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def second_moment(d_in: int = D_IN, decades: float = 2.0, seed: int = 0) -> SecondMoment:
    """C with eigenvalues from 10^-decades to 1."""
    basis = torch.linalg.qr(gaussian(d_in, d_in, seed=seed + 50)).Q
    matrix = basis @ torch.diag(torch.logspace(-decades, 0, d_in, dtype=F64)) @ basis.T
    return SecondMoment((matrix + matrix.T) / 2, 10 * d_in)


def problem(n: int = N, d_in: int = D_IN, d_out: int = D_OUT, seed: int = 0, decades: float = 2.0) -> Problem:
    original = gaussian(d_out, d_in, seed=seed + 3)
    return Problem(
        keys=gaussian(d_in, n, seed=seed + 1),
        residual=gaussian(d_out, n, seed=seed + 2),
        moment=second_moment(d_in, decades, seed),
        weight=original + 0.3 * gaussian(d_out, d_in, seed=seed + 4),
        original=original,
        seed=seed,
    )


def history(d_in: int = D_IN, n: int = 7, seed: int = 20) -> History:
    """Seven keys in three batches; in a small map some of them are folded."""
    keys = gaussian(d_in, n, seed=seed)
    return History.of(keys[:, :2]).extended(keys[:, 2:3]).extended(keys[:, 3:])


def dense(earlier: History | None) -> torch.Tensor:
    return torch.zeros(D_IN, D_IN, dtype=F64) if earlier is None else earlier.dense()


def change(name: str, given: Problem, form: str = "auto", **values) -> torch.Tensor:
    return solved(name, replace(given, form=form), **values).factors.dense()


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    assert float((actual - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-12)


def facts_for(solver: type[Solver]) -> int:
    return solver.max_batch or N


# ---- the published equations, number for number ------------------------------------------------------------------


def test_rome_is_the_published_left_times_right_vector():
    given, clean = problem(1), gaussian(D_IN, 1, seed=9)
    u = torch.inverse(given.moment.matrix) @ given.keys[:, 0]
    u = u / u.norm()
    left, right = given.residual[:, 0] / torch.dot(clean[:, 0], u), u
    solution = solved("rome", replace(given, clean_keys=clean))
    close(solution.factors.dense(), left[:, None] @ right[None, :])
    close(solution.factors.right[0], right)
    close(solution.factors.apply(clean), given.residual)
    same_key = left * torch.dot(clean[:, 0], u) / torch.dot(given.keys[:, 0], u)
    close(solved("r_rome", replace(given, clean_keys=clean)).factors.dense(), same_key[:, None] @ right[None, :])


def test_rome_without_second_moment_uses_the_identity():
    given = replace(problem(1), moment=None)
    close(change("rome", given), given.residual @ given.keys.T / float(given.keys.norm()) ** 2)


@pytest.mark.parametrize("n", [1, N, D_IN, D_IN + 10])
def test_memit_is_the_published_solve(n):
    given, weight = problem(n), 20.0
    matrix = weight * given.moment.matrix + given.keys @ given.keys.T
    close(
        change("memit", given, second_moment_weight=weight), given.residual @ torch.linalg.solve(matrix, given.keys).T
    )


@pytest.mark.parametrize("n", [1, N, D_IN + 10])
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_emmet_is_the_published_solve(n, mu):
    given, weight, gamma = problem(n), 3.0, 0.1
    inverse = torch.inverse(weight * given.moment.matrix + mu * torch.eye(D_IN, dtype=F64))
    gram = given.keys.T @ inverse @ given.keys + (gamma if n > 1 else 0.0) * torch.eye(n, dtype=F64)
    expected = given.residual @ (torch.inverse(gram) @ given.keys.T @ inverse)
    close(change("emmet", given, second_moment_weight=weight, moment_ridge=mu), expected)


@pytest.mark.parametrize("n", [1, N, D_IN + 10])
@pytest.mark.parametrize("earlier", [None, history()])
@pytest.mark.parametrize("form", ["auto", "direct", "woodbury"])
def test_alphaedit_is_the_published_asymmetrical_solve(n, earlier, form):
    given, l2, threshold = replace(problem(n), history=earlier), 10.0, 0.1
    vectors, values, _ = torch.linalg.svd(given.moment.matrix)
    small = vectors[:, values < threshold]
    projector = small @ small.T
    cache = dense(earlier)
    system = projector @ (given.keys @ given.keys.T + cache) + l2 * torch.eye(D_IN, dtype=F64)
    expected = torch.linalg.solve(system, projector @ given.keys @ given.residual.T).T
    found = change("alphaedit", given, l2=l2, null_space_threshold=threshold, null_space_share=None, form=form)
    close(found, expected)


@pytest.mark.parametrize("form", ["auto", "direct", "woodbury"])
def test_evoedit_is_the_published_projector_that_shrinks_batch_by_batch(form):
    given, l2, threshold = problem(), 0.5, 0.3
    values, vectors = torch.linalg.eigh(given.moment.matrix)
    projector = vectors[:, values < threshold] @ vectors[:, values < threshold].T
    settings, left, past = {"l2": l2, "null_space_threshold": threshold, "null_space_share": None}, [], None
    for batch in (gaussian(D_IN, n, seed=40 + n) for n in (2, 1, 3)):
        now = replace(given, keys=batch, residual=gaussian(D_OUT, batch.shape[1], seed=60), history=past)
        found = solved("evoedit", replace(now, form=form), **settings)
        gram = batch.T @ projector @ batch + l2 * torch.eye(batch.shape[1], dtype=F64)
        close(found.factors.dense(), now.residual @ torch.linalg.solve(gram, batch.T @ projector))
        if past is not None:  # earlier edits are not touched at all
            old = torch.cat(past.batches, 1)
            assert float(found.factors.apply(old).norm()) < 1e-12 * found.factors.norm() * float(old.norm())
        left.append(found.diagnostics["null_space_left"])
        used = torch.linalg.qr(projector @ batch).Q
        projector = projector - used @ used.T
        past = History.of(batch) if past is None else past.extended(batch)
    dimension = int((values < threshold).sum())
    assert left == [dimension, dimension - 2, dimension - 3]


@pytest.mark.parametrize("form", ["auto", "direct", "woodbury"])
@pytest.mark.parametrize("earlier", [None, history()])
@pytest.mark.parametrize("refreshed_space", [False, True])
def test_betaedit_is_the_published_solve(form, earlier, refreshed_space):
    """``R K^T P [(K K^T + H + l1 C) P + l2 I]^-1``: the transpose of what its code solves; P may be of another matrix than C."""
    given, weight, l2 = replace(problem(), history=earlier), 30.0, 10.0
    space = second_moment(seed=7) if refreshed_space else given.moment
    free = torch.linalg.eigh(space.matrix)[1][:, : round(0.6 * D_IN)]
    p, inner = free @ free.T, given.keys @ given.keys.T + dense(earlier) + weight * given.moment.matrix
    expected = given.residual @ given.keys.T @ p @ torch.inverse(inner @ p + l2 * torch.eye(D_IN, dtype=F64))
    found = change("alphaedit", replace(given, space=space), form, moment_weight=weight, l2=l2)
    close(found, expected)
    close(found @ p, found)
    plain = change("alphaedit", given, form, l2=l2)
    close(change("alphaedit", given, form, l2=l2, moment_weight=1e-12), plain)  # zero is its limit
    assert float((found - plain).norm()) > 1e-3 * float(plain.norm())


def test_betaedit_finds_its_null_space_anew():
    """``(H / n + l1 C) / (l1 + 1)``: earlier edits count as one text token each would, times 1 / l1."""
    moment, earlier, weight = second_moment(), history(), 3.0
    found = refreshed(moment, earlier, 7, weight)
    close(found.matrix, (earlier.dense() / 7 + weight * moment.matrix) / (weight + 1))
    assert found.count == moment.count + 7
    with pytest.raises(ConfigError, match="refresh_after: 5 is not allowed with moment_weight 0"):
        options("alphaedit", refresh_after=5)


def test_evoedit_begins_as_alphaedit_and_ends_when_the_null_space_is_used_up():
    given = problem()
    close(change("evoedit", given), change("alphaedit", given))
    # Half of the keys and more are folded into one matrix, of which half of the digits remain.
    keys = gaussian(D_IN, 8, seed=20)
    apart = History.of(keys[:, :2]).extended(keys[:, 2:8])
    folded = History._of_matrix(keys @ keys.T, finite=True)
    together = change("evoedit", replace(given, history=folded))
    close(change("evoedit", replace(given, history=apart)), together, 1e-6)
    saved = History.of_tensors(apart.tensors())
    assert torch.equal(
        change("evoedit", replace(given, history=saved)), change("evoedit", replace(given, history=apart))
    )
    with pytest.raises(NumericalError, match=r"null space of 10 dimensions is used up \(10 by earlier edits\)"):
        solved("evoedit", replace(given, history=History.of(gaussian(D_IN, 12, seed=21))))


def sphere_basis(weight: torch.Tensor, energy: float) -> torch.Tensor:
    rows = weight / weight.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0), vectors.flip(1)
    return vectors[:, : int((values.cumsum(0) < energy).sum()) + 1]


@pytest.mark.parametrize(
    "name", sorted(n for n, s in SOLVERS.items() if "sphere" in s.model_fields and n not in ("evoedit", "nse"))
)
@pytest.mark.parametrize("shape", [(D_OUT, D_IN), (24, 10)])
def test_sphere_takes_a_share_off_the_principal_directions_of_the_weight(name, shape):
    given = problem(1 if SOLVERS[name].max_batch else 4, shape[1], shape[0])
    plain, restrained = change(name, given), change(name, given, sphere=0.8, sphere_energy=0.5)
    principal = sphere_basis(given.weight, 0.5)
    assert 0 < principal.shape[1] < min(shape)
    close(restrained @ principal, 0.2 * plain @ principal)
    close(restrained - restrained @ principal @ principal.T, plain - plain @ principal @ principal.T)
    found = solved(name, given, sphere=0.8)
    assert found.diagnostics["principal_directions"] == principal.shape[1]
    assert found.factors.rank == solved(name, given).factors.rank
    close(change(name, given, sphere=1e-12), plain)  # none at all is its limit
    with pytest.raises(ConfigError, match="weight is missing"):
        solved(name, replace(given, weight=None), sphere=0.1)


@pytest.mark.parametrize("earlier", [None, history()])
def test_encore_is_memit_with_history_and_a_norm_term(earlier):
    given, weight, norm = replace(problem(), history=earlier), 5.0, 2.0
    matrix = weight * given.moment.matrix + given.keys @ given.keys.T + norm * torch.eye(D_IN, dtype=F64)
    expected = given.residual @ torch.linalg.solve(matrix + dense(earlier), given.keys).T
    for form in ("auto", "direct", "woodbury"):
        close(change("encore", given, second_moment_weight=weight, update_norm_weight=norm, form=form), expected)


@pytest.mark.parametrize("earlier", [None, history()])
def test_nse_is_the_published_solve_on_the_selected_neurons(earlier):
    given, weight, share = replace(problem(), history=earlier), 5.0, 0.8
    scores, order = torch.sort(given.keys.abs().sum(dim=1), descending=True)
    rows = order[: int(torch.where(torch.cumsum(scores, 0) <= share * scores.sum())[0][-1]) + 1]
    cache = dense(earlier)
    block = weight * given.moment.matrix[rows][:, rows] + cache[rows][:, rows] + given.keys[rows] @ given.keys[rows].T
    expected = torch.zeros(D_OUT, D_IN, dtype=F64)
    expected[:, rows] = given.residual @ torch.linalg.solve(block, given.keys[rows]).T
    close(change("nse", given, second_moment_weight=weight, neuron_share=share), expected)
    assert select_neurons(given.keys, share).tolist() == sorted(rows.tolist())
    assert len(select_neurons(torch.eye(4, dtype=F64)[:, :1], 0.5)) == 1


def test_rect_keeps_the_published_entries():
    given = problem()
    memit = change("memit", given)
    ratio = (memit / (given.weight + 1e-8)).abs()
    threshold = torch.kthvalue(ratio.reshape(-1), int(ratio.numel() * (100 - 40) / 100)).values
    close(change("rect", given), torch.where(ratio >= threshold, memit, 0.0))
    for share in (0.1, 0.4, 1.0):
        kept = float((change("rect", given, keep_share=share) != 0).double().mean())
        assert share - 1e-12 <= kept < share + 2 / memit.numel()
    assert int((largest_relative(memit, given.weight, 0.4) != 0).sum()) == memit.numel() - int(0.6 * 144) + 1


def restrained_total(total: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    limit = torch.linalg.svdvals(original).max()
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    return u @ torch.diag(torch.where(s > limit, torch.log(s) - torch.log(limit) + limit, s)) @ vh


def on_top(given: Problem) -> torch.Tensor:
    return restrain_total_on_top(solved("memit", given).factors, given)[0].dense()


def test_prune_restrains_the_singular_values_of_the_total_change():
    given = problem()
    given = replace(given, residual=20 * given.residual)
    memit = change("memit", given)
    total = given.weight - given.original + memit
    solution = solved("prune", given)
    close(given.weight + solution.factors.dense(), given.original + restrained_total(total, given.original))
    assert solution.diagnostics["restrained"] > 0
    assert solution.factors.rank == N + solution.diagnostics["restrained"]  # never a full matrix
    published = given.weight + memit + restrained_total(total, given.original)
    close(given.weight + on_top(given), published)


def test_prune_of_a_small_change_is_memit():
    given = problem()
    given = replace(given, weight=given.original, residual=1e-3 * given.residual)
    assert torch.equal(change("prune", given), change("memit", given))
    close(on_top(given), 2 * change("memit", given))


def test_random_has_the_norm_and_rank_of_memit_and_another_direction():
    given = problem()
    memit, random = solved("memit", given).factors, solved("random", given).factors
    assert random.norm() == pytest.approx(memit.norm(), rel=1e-12)
    assert int(torch.linalg.matrix_rank(random.dense())) == N
    assert float((random.dense() * memit.dense()).sum()) < 0.5 * memit.norm() ** 2
    assert not torch.equal(random.dense(), solved("random", replace(given, seed=1)).factors.dense())


# ---- identities between methods -----------------------------------------------------------------------------------

shapes = st.tuples(st.integers(2, 24), st.integers(1, 12), st.floats(0, 5), st.integers(0, 999))


@given(shapes, st.data())
@settings(deadline=None, max_examples=60)
def test_emmet_without_ridge_memorises(shape, data):
    d_in, d_out, decades, seed = shape
    n = data.draw(st.integers(1, max(1, d_in // 2)))
    given = problem(n, d_in, d_out, seed, decades)
    solution = solved("emmet", given, ridge=0.0)
    assert solution.diagnostics["residual"] <= 1e-8
    close(solution.factors.apply(given.keys), given.residual, 1e-8)


@given(shapes)
@settings(deadline=None, max_examples=40)
def test_rome_is_emmet_of_one_fact(shape):
    d_in, d_out, decades, seed = shape
    given = problem(1, d_in, d_out, seed, decades)
    close(change("rome", given), change("emmet", given))
    close(change("r_rome", given), change("emmet", given))


def test_memit_tends_to_emmet_as_the_weight_of_the_second_moment_vanishes():
    given = problem()
    target = change("emmet", given, ridge=0.0)
    gaps = [
        float((change("memit", given, second_moment_weight=w) - target).norm() / target.norm())
        for w in (1e-2, 1e-4, 1e-6, 1e-8)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-8


@given(shapes, st.integers(2, 30), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_emmet_with_ridge_is_memit_with_that_weight(shape, n, gamma):
    d_in, d_out, decades, seed = shape
    given = problem(n, d_in, d_out, seed, min(decades, 3))
    close(change("emmet", given, ridge=gamma), change("memit", given, second_moment_weight=gamma), 1e-8)


@given(shapes, st.integers(1, 30))
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("name", ["memit", "encore", "alphaedit", "nse"])
def test_woodbury_is_direct(name, shape, n):
    d_in, d_out, decades, seed = shape
    given = replace(problem(n, d_in, d_out, seed, min(decades, 3)), history=history(d_in))
    close(change(name, given, form="woodbury"), change(name, given, form="direct"), 1e-8)


def test_alphaedit_leaves_the_preserved_keys_alone():
    given = problem()
    eigenvalues, eigenvectors = torch.linalg.eigh(given.moment.matrix)
    preserved = eigenvectors[:, eigenvalues >= 0.1] @ gaussian(int((eigenvalues >= 0.1).sum()), 40)
    for earlier in (None, history()):
        solution = solved("alphaedit", replace(given, history=earlier), null_space_threshold=0.1, null_space_share=None)
        leak = solution.factors.apply(preserved).norm() / (solution.factors.norm() * preserved.norm())
        assert float(leak) < 1e-13
        assert solution.diagnostics["null_space_dimension"] == int((eigenvalues < 0.1).sum())


def test_alphaedit_with_the_whole_space_and_no_history_is_ridge_regression():
    given = problem()
    system = given.keys @ given.keys.T + 2.0 * torch.eye(D_IN, dtype=F64)
    found = change("alphaedit", given, null_space_share=1.0, l2=2.0)
    close(found, given.residual @ torch.linalg.solve(system, given.keys).T)


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if s.history])
def test_history_shields_the_keys_of_earlier_batches(name):
    earlier = gaussian(D_IN, 3, seed=20)
    given = problem()
    free, shielded = (
        solved(name, given),
        solved(name, replace(given, history=History.of(10 * earlier))),
    )
    assert float(shielded.factors.apply(earlier).norm()) < 0.2 * float(free.factors.apply(earlier).norm())
    close(change(name, replace(given, history=History.of(torch.zeros(D_IN, 1)))), free.factors.dense())


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if not s.history])
def test_the_other_solvers_ignore_history(name):
    given = problem(facts_for(SOLVERS[name]))
    assert torch.equal(change(name, replace(given, history=history())), change(name, given))


def test_a_weight_counts_like_a_repeated_fact():
    given = problem(3)
    double = replace(given, keys=given.keys[:, [0, 1, 2, 2]], residual=given.residual[:, [0, 1, 2, 2]])
    close(change("memit", replace(given, column_weights=torch.tensor([1.0, 1.0, 2.0]))), change("memit", double))


def test_weights_do_not_move_equality_constraints():
    given = problem()
    weighted = replace(given, column_weights=torch.tensor([1.0, 0.5, 2.0, 3.0, 0.1]))
    close(change("emmet", weighted, ridge=0.0), change("emmet", given, ridge=0.0), 1e-8)


# ---- the battery: every registered solver --------------------------------------------------------------------------

every = pytest.mark.parametrize("name", sorted(SOLVERS))


@every
@pytest.mark.parametrize("n", [1, N, 40])
def test_shape_rank_and_determinism(name, n):
    solver = SOLVERS[name]
    if solver.max_batch and n > solver.max_batch:
        with pytest.raises(ConfigError, match=f"solver {name}: batch of {n} facts; allowed is batch 1"):
            solved(name, problem(n))
        return
    given = problem(n)
    solution, again = solved(name, given), solved(name, problem(n))
    update, found = solution.factors, solution.diagnostics
    assert update.shape == (D_OUT, D_IN)
    assert update.left.isfinite().all()
    assert update.right.isfinite().all()
    assert torch.equal(update.dense(), again.factors.dense())
    full = name in ("rect", "prune")
    assert update.rank <= (n + D_OUT if full else min(n, D_OUT, D_IN))
    assert found["rank"] == update.rank
    assert found["update_norm"] == pytest.approx(float(update.dense().norm()), rel=1e-10)
    gap = (update.dense() @ given.keys - given.residual).norm() / given.residual.norm()
    assert found["residual"] == pytest.approx(float(gap), abs=1e-9)
    assert found["ridge_raised"] == []
    assert 1 <= found["condition"] < 1e12
    assert all(isinstance(value, (int, float, str, list)) for value in found.values())


@every
def test_the_inputs_are_not_touched(name):
    given = replace(problem(facts_for(SOLVERS[name])), history=history())
    before = [t.clone() for t in (given.keys, given.residual, given.weight, given.history.dense(), given.moment.matrix)]
    solved(name, given)
    after = (given.keys, given.residual, given.weight, given.history.dense(), given.moment.matrix)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every
def test_order_of_the_facts_changes_nothing(name):
    given, order = problem(facts_for(SOLVERS[name])), torch.tensor([3, 0, 4, 1, 2])
    if given.facts == 1:
        order = torch.tensor([0])
    shuffled = replace(given, keys=given.keys[:, order], residual=given.residual[:, order])
    close(change(name, shuffled), change(name, given), 1e-10)


@every
def test_replay_of_weight_zero_is_no_replay(name):
    given = problem(facts_for(SOLVERS[name]))
    replayed = replace(
        given,
        keys=torch.cat([given.keys, gaussian(D_IN, 3, seed=8)], dim=1),
        residual=torch.cat([given.residual, gaussian(D_OUT, 3, seed=9)], dim=1),
        column_weights=torch.tensor([1.0] * given.facts + [0.0] * 3),
    )
    assert torch.equal(change(name, replayed), change(name, given))


@every
@pytest.mark.parametrize("n", [0, 1])
def test_no_facts_no_update_and_zero_residual_no_update(name, n):
    given = problem(1)
    if n == 0:
        given = replace(given, column_weights=torch.zeros(1))
    else:
        given = replace(given, residual=torch.zeros(D_OUT, 1), weight=given.original)
    if name == "random" and n == 1:
        assert solved(name, given).factors.norm() == 0.0
    assert float(change(name, given).norm()) == 0.0


@every
@pytest.mark.parametrize("field", ["keys", "residual", "history", "moment"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_input_is_an_error_of_one_line(name, field, poison):
    given = replace(problem(facts_for(SOLVERS[name])), history=history())
    bad = {"moment": given.moment.matrix, "history": given.history.dense()}.get(field, getattr(given, field)).clone()
    bad[0, 0] = poison
    value = {"moment": SecondMoment(bad, 5), "history": History.of(bad[:, :1])}.get(field, bad)
    with pytest.raises(NumericalError, match="NaN or Inf") as caught:
        solved(name, replace(given, **{field: value}))
    assert "\n" not in str(caught.value)


@every
def test_overflow_is_an_error_and_not_an_update(name):
    given = problem(facts_for(SOLVERS[name]))
    huge = replace(given, keys=given.keys * 1e-200, residual=given.residual * 1e200)
    try:
        solution = solved(name, huge)
    except NumericalError:
        return
    assert solution.factors.dense().isfinite().all()


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if s.max_batch is None and n != "none"])
def test_duplicated_keys_raise_the_ridge_where_no_other_term_helps(name):
    given = problem()
    twice = replace(
        given, keys=given.keys[:, [0, 1, 2, 3, 3]], residual=given.residual[:, [0, 1, 2, 3, 3]]
    )  # the same fact, twice: only emmet without ridge has nothing else that keeps the system regular
    solution = solved(name, twice, **({"ridge": 0.0} if name == "emmet" else {}))
    assert solution.factors.dense().isfinite().all()
    assert bool(solution.diagnostics["ridge_raised"]) == (name == "emmet")
    if name == "emmet":
        assert solution.diagnostics["residual"] < 1e-3
        assert solution.diagnostics["condition"] <= options(name).condition_limit


def test_alphaedit_without_l2_raises_the_ridge_on_duplicated_keys():
    given = problem()
    twice = replace(given, keys=given.keys[:, [0, 0, 1]], residual=given.residual[:, [0, 0, 1]])
    solution = solved("alphaedit", twice, l2=0.0)
    assert solution.diagnostics["ridge_raised"]
    assert solution.diagnostics["residual"] < 1e-3


def test_a_singular_second_moment_is_ridged_and_recorded():
    keys = gaussian(D_IN, 4, seed=5)
    given = replace(problem(), moment=SecondMoment(keys @ keys.T, 4))
    solution = solved("memit", given)
    assert solution.diagnostics["moment_ridge"] > 0
    assert solution.diagnostics["ridge_raised"]
    assert solution.diagnostics["residual"] < 1e-3


def test_contradictory_targets_for_one_key_stay_finite():
    given = problem()
    same = replace(given, keys=given.keys[:, [0, 0]], residual=given.residual[:, [0, 1]])
    solution = solved("emmet", same, ridge=0.0)
    assert solution.diagnostics["ridge_raised"]
    mean = given.residual[:, :2].mean(dim=1, keepdim=True)
    close(solution.factors.apply(given.keys[:, :1]), mean, 1e-3)


@every
def test_zero_keys_are_an_error_or_no_update(name):
    given = problem(facts_for(SOLVERS[name]))
    given = replace(given, keys=torch.zeros_like(given.keys), weight=given.original)
    if name in ("rome", "r_rome"):
        with pytest.raises(NumericalError, match="key is zero"):
            solved(name, given)
    else:
        assert float(change(name, given).norm()) == 0.0


def test_an_orthogonal_clean_key_is_an_error():
    given = replace(
        problem(1), moment=None, keys=torch.eye(D_IN, dtype=F64)[:, :1], clean_keys=torch.eye(D_IN, dtype=F64)[:, 1:2]
    )
    with pytest.raises(NumericalError, match="orthogonal"):
        solved("rome", given)


# ---- forms, inputs, options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["memit", "emmet", "rect", "prune", "encore", "random"])
def test_the_small_system_is_solved_when_the_batch_is_smaller_than_the_layer(name):
    assert solved(name, problem(D_IN - 1)).diagnostics["form"] == "woodbury"
    assert solved(name, problem(D_IN)).diagnostics["form"] == "direct"


def test_the_cached_factor_is_used_and_kept():
    given = problem()
    lower = torch.linalg.cholesky(given.moment.matrix)
    moment = SecondMoment(given.moment.matrix, 1, cholesky=lower)
    for weight in (1.0, 20.0):
        close(change("memit", replace(given, moment=moment), second_moment_weight=weight),
              change("memit", given, second_moment_weight=weight))  # fmt: skip
    assert moment.cholesky is not None
    assert moment.cholesky.data_ptr() == lower.data_ptr()
    given.moment.eigh()
    given.moment.cholesky = None
    close(change("emmet", given, moment_ridge=0.5), change("emmet", problem(), moment_ridge=0.5))
    assert given.moment.cholesky is None  # the ridged system went through the eigenvectors


def test_float32_input_is_solved_in_float64():
    given = problem()
    single = replace(given, keys=given.keys.float(), residual=given.residual.float())
    solution = solved("memit", single)
    assert solution.factors.left.dtype == F64
    close(solution.factors.dense(), change("memit", given), 1e-5)


def test_published_prune_solves_as_memit_and_restrains_the_total_once():
    given = problem()
    assert torch.equal(change("prune_published", given), change("memit", given))


@pytest.mark.parametrize(
    ("name", "field"), [("memit", "moment"), ("alphaedit", "moment"), ("rect", "weight"), ("prune", "original")]
)
def test_a_missing_input_is_named(name, field):
    with pytest.raises(ConfigError, match=f"solver {name}: {field} is missing"):
        solved(name, replace(problem(), **{field: None}))


def test_an_empty_null_space_is_refused_with_the_bound():
    with pytest.raises(ConfigError, match=r"null_space_threshold: 1e-06 leaves no direction; .* 0\.01"):
        solved("alphaedit", problem(), null_space_threshold=1e-6, null_space_share=None)


@pytest.mark.parametrize(
    "bad",
    [
        {"residual": torch.zeros(D_OUT, N + 1)},
        {"weight": torch.zeros(D_IN, D_OUT)},
        {"history": History.of(torch.zeros(D_OUT, 1))},
        {"clean_keys": torch.zeros(D_IN, 1)},
        {"column_weights": torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0])},
        {"moment": SecondMoment(torch.eye(3), 1)},
    ],
)
def test_shapes_and_weights_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        solved("memit", replace(problem(), **bad))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("memit", "second_moment_weight", 0.0),
        ("emmet", "ridge", -1.0),
        ("memit", "moment_ridge", math.nan),
        ("alphaedit", "null_space_share", 0.0),
        ("alphaedit", "l2", "much"),
        ("rect", "keep_share", 1.5),
        ("nse", "neuron_share", 0.0),
        ("memit", "condition_limit", 1.0),
        ("memit", "ridge", 0.1),
    ],
)
def test_bad_options_are_refused_by_name(name, field, value):
    with pytest.raises(ConfigError, match=f"{name}: {field}: "):
        options(name, **{field: value})


def test_a_solver_is_one_function_and_one_class():
    class Half(Memit):
        name = "half"

    @update.register(Half)
    def half(given, asked):
        whole, found = update(Memit(**SMALL_MOMENT), asked)
        return whole.scaled(0.5), found

    found = solve(problem(), Half(**SMALL_MOMENT)).factors
    close(found.dense(), change("memit", problem()) / 2)
    assert isinstance(found, Factors)


def test_fine_tuning_has_no_closed_form():
    with pytest.raises(ConfigError, match="no closed form"):
        solve(problem(), REGISTERED["ft"]())
