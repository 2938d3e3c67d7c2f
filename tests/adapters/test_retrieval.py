"""The index: equal to brute force, the same for both backends, ties in order of names, and nothing that is not asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.adapters.retrieval import DeltaIndex, ranks, softmax_weights
from editlab.errors import ConfigError


def world(seed: int = 0, n: int = 20, d: int = 6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), [f"adapter-{i:02d}" for i in range(n)], rng.normal(size=d)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 30))
def test_it_finds_what_brute_force_finds(seed, k):
    deltas, names, query = world(seed)
    centre = deltas.mean(axis=0)
    rows, direction = deltas - centre, query - centre
    cosines = rows @ direction / np.linalg.norm(rows, axis=1) / np.linalg.norm(direction)
    found = DeltaIndex(deltas, names, centre).search(query, k)
    assert [n for n, _ in found] == [names[i] for i in np.argsort(-cosines)][:k]
    assert [c for _, c in found] == pytest.approx(sorted(cosines, reverse=True)[:k])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_faiss_finds_the_same(seed):
    pytest.importorskip("faiss")
    deltas, names, query = world(seed, n=50, d=16)
    both = [DeltaIndex(deltas, names, backend=b).search(query, 10) for b in ("numpy", "faiss")]
    assert both[0] == both[1]


@pytest.mark.parametrize("backend", ["numpy", "faiss"])
def test_ties_stand_in_order_of_names(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    index = DeltaIndex(np.ones((3, 2)), ["c", "a", "b"], backend=backend)
    assert [n for n, _ in index.search(np.ones(2), 3)] == ["a", "b", "c"]


def test_what_is_indexed_stays_as_it_was():
    deltas, names, query = world()
    before = deltas.copy()
    DeltaIndex(deltas, names, deltas.mean(axis=0)).search(query, 3)
    assert np.array_equal(deltas, before)


def test_the_own_task_can_be_left_out_and_zero_rows_are():
    deltas, names, _ = world()
    deltas[4] = 0
    index = DeltaIndex(deltas, names)
    assert len(index) == 19
    assert index.search(deltas[7], 1)[0][0] == names[7]
    assert names[7] not in [n for n, _ in index.search(deltas[7], 30, exclude=[names[7]])]
    assert len(index.search(deltas[7], 30)) == 19


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeltaIndex(np.zeros((0, 3)), []), "empty"),
        (lambda: DeltaIndex(np.zeros((2, 3)), ["a", "b"]), "empty"),
        (lambda: DeltaIndex(np.ones((2, 3)), ["a"]), "2 deltas and 1 names"),
        (lambda: DeltaIndex(np.ones((1, 3)), ["a"], backend="annoy"), "one of numpy, faiss"),
        (lambda: DeltaIndex(np.ones((1, 3)), ["a"]).search(np.ones(3), 0), "k >= 1"),
        (lambda: DeltaIndex(np.ones((1, 3)), ["a"]).search(np.ones(2), 1), "query of shape"),
        (lambda: DeltaIndex(np.ones((1, 3)), ["a"]).search(np.full(3, np.nan), 1), "no numbers"),
        (lambda: DeltaIndex(np.ones((1, 3)), ["a"]).search(np.ones(3), 1, exclude=["a"]), "nothing is left"),
    ],
)
def test_what_cannot_be_searched_is_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_weights_sum_to_one_and_never_turn_an_adapter_around(cosines):
    ordered = sorted(cosines, reverse=True)
    weights = softmax_weights(ordered, 0.1)
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) >= 0
    assert all(w == 0 for w, c in zip(weights[1:], ordered[1:], strict=True) if c <= 0)


def test_ranks():
    found = [("a", 0.9), ("b", 0.5), ("c", 0.1)]
    assert ranks(found, ["b", "c"]) == 2
    assert ranks(found, ["d"]) is None
