"""The running normaliser: any split of the rows gives the same numbers; whitening; saved and read again."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.normaliser import EPSILON, Moments, Normaliser

CPU = torch.device("cpu")
ROWS = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(6) * 100


def seen(parts, *, full: bool = False) -> Moments:
    found = Moments.none(6, full=full, device=parts[0].device)
    for part in parts:
        found = found.extended(part)
    return found


@given(st.lists(st.integers(1, 39), max_size=6, unique=True), st.booleans())
@settings(deadline=None)
def test_any_split_gives_the_same(cuts, full):
    parts = torch.tensor_split(ROWS, sorted(cuts))
    one, many = seen([ROWS], full=full), seen(parts, full=full)
    assert many.count == 40
    torch.testing.assert_close(many.mean, ROWS.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(many.squares, one.squares, rtol=1e-9, atol=1e-9)


def test_features_one_by_one():
    sigma = ROWS.var(0).sqrt()
    expected = (ROWS - ROWS.mean(0)) / (sigma + EPSILON)
    torch.testing.assert_close(seen([ROWS]).normalised(ROWS), expected, rtol=1e-7, atol=1e-7)


def test_whitening_once_there_are_rows_enough():
    mixed = ROWS @ torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    white = seen([mixed], full=True).normalised(mixed)
    torch.testing.assert_close(white.T @ white / (40 - 6 - 1), torch.eye(6).double(), rtol=1e-8, atol=1e-8)
    few = mixed[:7]  # no more rows than features and one
    torch.testing.assert_close(seen([few], full=True).normalised(few), seen([few]).normalised(few))
    flat = torch.cat([mixed[:, :5], mixed[:, :1]], 1)  # a direction without variance is bounded
    assert bool(seen([flat], full=True).normalised(flat).isfinite().all())


def test_tensors_give_it_back_bit_for_bit():
    for whiten in (False, True):
        one = Normaliser.none(4, 6, whiten=whiten, device=CPU).extended(ROWS, ROWS[:, :4])
        again = Normaliser.of_tensors(one.tensors(), CPU)
        assert again.count == one.count == 40
        for part in ("keys", "gradients"):
            for name in ("mean", "squares"):
                assert torch.equal(getattr(getattr(again, part), name), getattr(getattr(one, part), name))
        more = (one.extended(ROWS[:3], ROWS[:3, :4]), again.extended(ROWS[:3], ROWS[:3, :4]))
        assert torch.equal(more[0].gradients.squares, more[1].gradients.squares)
