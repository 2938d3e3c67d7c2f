"""Earlier keys kept thin: the updated inverse against the matrices written out, and float32 factors with refinement."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import change, close, gaussian, problem, second_moment, solved

from editlab.algebra import refinement
from editlab.algebra.history import History, histories_in
from editlab.algebra.refinement import SingleFactor
from editlab.errors import NumericalError

F64 = torch.float64
D = 20


def stream(sizes: list[int], seed: int = 0, scale: float = 1.0) -> tuple[History, torch.Tensor]:
    """A history of batches of these sizes, and their keys side by side."""
    batches = [scale * gaussian(D, n, seed=seed + i) for i, n in enumerate(sizes)]
    found = History()
    for keys in batches:
        found = found.extended(keys)
    return found, torch.cat(batches, 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 99), st.sampled_from([0.1, 1.0, 30.0]))
@settings(deadline=None, max_examples=40)
def test_the_updated_inverse_is_the_inverse_of_the_sum(sizes, seed, scale):
    history, keys = stream(sizes, seed, scale)
    whole = keys @ keys.T
    close(history.dense(), whole)
    base = second_moment(D, 1.0, seed).matrix
    right = gaussian(D, 3, seed=seed + 70)

    def solve(folded):
        return lambda columns: torch.linalg.solve(base if folded is None else base + folded, columns)

    expected = torch.linalg.solve(base + whole, right)
    close(history.inverse("a", solve)(right), expected, 1e-7)
    close(history.gram(right.T), right.T @ whole @ right)


def test_the_inverse_follows_batch_by_batch_bit_for_bit_and_counts_each_key_once():
    made = []

    def solve(folded):
        made.append(folded)
        return lambda columns: (
            columns if folded is None else torch.linalg.solve(torch.eye(D, dtype=F64) + folded, columns)
        )

    along, history = [], History()
    for i in range(8):
        history = history.extended(gaussian(D, 3, seed=i))
        along.append(history.inverse("a", solve)(gaussian(D, 2)))
    assert history.folded is not None
    assert 2 * history.count <= D
    assert len(made) == 3  # of the start, and of two foldings: three keys a batch, ten kept apart at most
    saved = {f"history.4.{name}": part.clone() for name, part in history.tensors().items()}
    (resumed,) = histories_in(saved, "history").values()
    assert torch.equal(resumed.inverse("a", solve)(gaussian(D, 2)), along[-1])


def test_nothing_is_changed_in_place():
    first, _ = stream([2, 3])
    before, second = first.dense(), first.extended(gaussian(D, 4, seed=9))
    other = first.extended(gaussian(D, 4, seed=10))
    for history in (second, other):
        expected = torch.linalg.inv(torch.eye(D, dtype=F64) + history.dense())
        close(history.inverse("a", lambda _: lambda columns: columns)(torch.eye(D, dtype=F64)), expected)
    assert torch.equal(first.dense(), before)


def test_a_base_that_is_not_positive_definite_is_an_error():
    history, _ = stream([3])
    with pytest.raises(NumericalError, match="earlier batches"):
        history.inverse("a", lambda _: lambda columns: -columns)


@pytest.mark.parametrize("name", ["alphaedit", "encore", "nse"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_stream_of_solves_is_that_of_dense_matrices(name, count):
    """Long enough to fold; batch after batch on one history, as a session has it."""
    history = History()
    for i in range(count):
        asked = replace(problem(3, D, seed=i), moment=second_moment(D), history=history if i else None)
        values = {"neuron_share": 1.0} if name == "nse" else {}
        close(change(name, asked, **values), change(name, asked, form="direct", **values), 1e-8)
        history = history.extended(asked.keys)
    assert (history.folded is not None) == (count > 3)


@pytest.mark.parametrize("name", ["alphaedit", "encore", "nse"])
def test_what_is_known_of_one_second_moment_is_not_used_for_another(name):
    history, _ = stream([3, 4])
    values = {"neuron_share": 1.0} if name == "nse" else {}
    for seed in (1, 2, 1):
        asked = replace(problem(3, D), moment=second_moment(D, 2.0, seed), history=history)
        close(change(name, asked, **values), change(name, asked, form="direct", **values), 1e-8)
    assert len(history._known) == 1


def test_keys_of_a_size_at_which_the_thin_form_is_rounding_are_solved_dense():
    asked = replace(problem(3, D), moment=second_moment(D), history=History.of(1e6 * gaussian(D, 4)))
    close(change("alphaedit", asked), change("alphaedit", asked, form="direct"), 1e-12)


# ---- float32 with refinement --------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.floats(0.0, 5.0), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_refinement_gives_the_float64_solution(size, decades, seed):
    matrix = 1e6 * second_moment(size, decades, seed).matrix
    right = gaussian(size, 3, seed=seed)
    factor = SingleFactor.of(matrix)
    assert factor is not None
    assert factor.lower.dtype == torch.float32
    found, residual = factor.solve(matrix, right)
    assert residual <= 1e-10
    assert residual == pytest.approx(float((right - matrix @ found).norm() / right.norm()), abs=1e-14)
    close(found, torch.linalg.solve(matrix, right), 1e-6)


def test_refinement_says_where_it_fails():
    matrix = second_moment(40, 12.0).matrix
    factor = SingleFactor.of(matrix)
    assert factor is None or factor.solve(matrix, gaussian(40, 2))[1] > 1e-10


def test_refinement_that_does_not_converge_is_no_worse_than_nothing():
    """At conditions of 3e8 some float32 factors exist and are of no use: their steps lead away from the solution."""
    residuals = []
    for seed in range(12):
        basis = torch.linalg.qr(gaussian(60, 60, seed=seed)).Q
        matrix = basis * torch.logspace(0, -8.5, 60, dtype=F64) @ basis.T
        factor = SingleFactor.of((matrix + matrix.T) / 2)
        if factor is not None:
            residuals.append(factor.solve((matrix + matrix.T) / 2, gaussian(60, 3, seed=seed + 50))[1])
    assert residuals
    assert max(residuals) <= 1.0


@pytest.mark.parametrize("decades", [2.0, 11.0])
def test_a_device_that_is_slow_in_float64_gets_the_same_solutions(decades, monkeypatch):
    asked = [problem(3, 40, seed=i, decades=decades) for i in range(2)]
    expected = [change("memit", one) for one in asked]
    monkeypatch.setattr("editlab.algebra.second_moment.fast_float64", lambda _: False)
    for one, wanted in zip(asked, expected, strict=True):
        fresh = replace(one, moment=second_moment(40, decades, one.seed))
        close(change("memit", fresh), wanted, 1e-6)
        refined = solved("memit", fresh).diagnostics.get("refined_residual", 1.0)
        assert (refined <= 1e-10) == (decades == 2.0)
        assert (fresh.moment.cholesky is None) == (decades == 2.0)  # the ill-conditioned one went back to float64


def test_what_is_saved_is_read_back_in_its_order():
    whole = History()
    for i in range(12):  # "batch10" sorts before "batch2"
        whole = whole.extended(torch.full((40, 1), float(i + 1), dtype=torch.float64))
    read = History.of_tensors(dict(sorted(whole.tensors().items())))
    assert [float(keys[0, 0]) for keys in read.batches] == [float(i + 1) for i in range(12)]
    assert (read.energy, read.finite, read.folded) == (whole.energy, True, None)


def test_a_folded_part_that_is_not_finite_is_known_when_it_is_read():
    folded, keys = torch.full((4, 4), float("nan"), dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    assert not History.of_tensors({"folded": folded, "batch0": keys}).finite
    assert History.of_tensors({"folded": torch.eye(4, dtype=torch.float64), "batch0": keys}).finite


def test_data_centre_gpus_and_the_cpu_are_fast_in_float64(monkeypatch):
    assert refinement.fast_float64(torch.device("cpu"))
    for capability, fast in (
        ((8, 0), True),
        ((9, 0), True),
        ((10, 0), True),
        ((8, 6), False),
        ((8, 9), False),
        ((12, 0), False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert refinement.fast_float64(torch.device("cuda:0")) is fast


@pytest.mark.parametrize("sizes", [[3, 2], [8, 8, 3]])  # kept as keys; folded, with keys on top
def test_a_mapped_history_is_projected_on_both_sides(sizes):
    found, keys = stream(sizes, seed=5)
    basis = torch.linalg.qr(gaussian(D, 7, seed=9)).Q
    projector = basis @ basis.T
    mapped = found.mapped(lambda columns: projector @ columns)
    assert (found.folded is None) == (mapped.folded is None) == (len(sizes) == 2)
    close(mapped.dense(), projector @ keys @ keys.T @ projector)
