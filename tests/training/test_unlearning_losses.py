"""Losses of unlearning against the formulas, in float64 and in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from editlab.errors import ConfigError
from editlab.randomness import torch_rng
from editlab.training import losses


@pytest.fixture
def batch():
    """Logits, ids and learned flags of three rows of different length, float64."""
    generator = torch_rng("losses")
    logits = torch.randn(3, 7, 11, generator=generator, dtype=torch.float64)
    ids = torch.randint(11, (3, 7), generator=generator)
    learned = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    return logits, ids, learned


def nll_by_hand(logits, ids):
    """-log softmax of each next token, with Python's own arithmetic."""
    out = []
    for row, tokens in zip(logits.tolist(), ids.tolist(), strict=True):
        found = []
        for position in range(len(tokens) - 1):
            total = math.fsum(math.exp(x) for x in row[position])
            found.append(math.log(total) - row[position][tokens[position + 1]])
        out.append(found)
    return out


def test_each_way_to_average_is_what_its_name_says(batch):
    logits, ids, learned = batch
    nll = nll_by_hand(logits, ids)
    counted = [
        [v for v, keep in zip(row, flags[1:], strict=True) if keep]
        for row, flags in zip(nll, learned.tolist(), strict=True)
    ]
    everything = [v for row in nll for v in row]
    real = [v for row in counted for v in row]
    expected = {
        "masked": sum(real) / len(real),
        "included": sum(everything) / len(everything),
        "by_sequence": sum(sum(row) / len(row) for row in counted) / 3,
        "sum": sum(sum(row) for row in counted) / 3,
    }
    assert len({round(v, 6) for v in expected.values()}) == 4
    for how, value in expected.items():
        assert float(losses.token_loss(logits, ids, learned, how)) == pytest.approx(value, rel=1e-6), how
    with pytest.raises(ConfigError, match="averaging: 'mean' is not allowed"):
        losses.token_loss(logits, ids, learned, "mean")


def test_masked_is_the_loss_of_transformers_and_included_that_of_the_published_code(batch):
    logits, ids, learned = batch
    labels = ids.masked_fill(~learned, -100)
    transformers = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    published = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert float(losses.token_loss(logits, ids, learned)) == pytest.approx(float(transformers), rel=1e-6)
    assert float(losses.token_loss(logits, ids, learned, "included")) == pytest.approx(float(published), rel=1e-6)


def test_padding_changes_no_masked_loss_and_every_included_one(batch):
    logits, ids, learned = batch
    generator = torch_rng("padding")
    wide = torch.cat([logits, torch.randn(3, 4, 11, generator=generator, dtype=torch.float64)], 1)
    more = torch.cat([ids, torch.zeros(3, 4, dtype=torch.long)], 1)
    flags = torch.cat([learned, torch.zeros(3, 4, dtype=torch.bool)], 1)
    for how in ("masked", "by_sequence", "sum"):
        assert torch.isclose(
            losses.token_loss(wide, more, flags, how), losses.token_loss(logits, ids, learned, how), rtol=1e-12
        )
    assert not torch.isclose(
        losses.token_loss(wide, more, flags, "included"), losses.token_loss(logits, ids, learned, "included")
    )


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40)), min_size=1, max_size=5), st.floats(0.01, 5))
@settings(deadline=None)
def test_npo_is_its_equation(pairs, beta):
    nll, reference = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    # 2/beta E[log(1 + (p / p_ref)^beta)], equation 3 of arXiv 2404.05868
    expected = sum(2 / beta * math.log1p(math.exp(beta * (r - n))) for n, r in pairs) / len(pairs)
    assert float(losses.npo(nll, reference, beta)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 30)), min_size=1, max_size=5),
    st.floats(0.1, 5),
    st.floats(0, 3),
)
@settings(deadline=None)
def test_simnpo_is_its_equation(rows, beta, delta):
    nll = torch.tensor([n for n, _ in rows], dtype=torch.float64)
    tokens = torch.tensor([t for _, t in rows])
    expected = sum(2 / beta * math.log1p(math.exp(-beta * (n / t - delta))) for n, t in rows) / len(rows)
    assert float(losses.simnpo(nll, tokens, beta, delta)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_npo_near_a_tiny_beta_has_the_gradient_of_gradient_ascent():
    nll = torch.tensor([3.0, 7.0], dtype=torch.float64, requires_grad=True)
    losses.npo(nll, torch.tensor([2.0, 9.0], dtype=torch.float64), 1e-9).backward()
    assert torch.allclose(nll.grad, torch.full((2,), -0.5, dtype=torch.float64))


def test_squared_error_with_padding_left_out_and_included():
    generator = torch_rng("mse")
    a, b = torch.randn(2, 2, 4, 6, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    square = ((a - b) ** 2).tolist()
    rows = [[sum(v) / 6 for v in row] for row in square]
    assert float(losses.squared_error(a, b, mask, "included")) == pytest.approx(sum(map(sum, rows)) / 8)
    assert float(losses.squared_error(a, b, mask)) == pytest.approx((sum(rows[0]) + sum(rows[1][:2])) / 6)
    assert float(losses.squared_error(a, b, mask, "by_sequence")) == pytest.approx(
        (sum(rows[0]) / 4 + sum(rows[1][:2]) / 2) / 2
    )
    assert float(losses.squared_error(a, b, mask, "included")) == pytest.approx(float(functional.mse_loss(a, b)))


def test_kl_of_a_model_from_itself_is_zero_and_else_positive():
    generator = torch_rng("kl")
    p, q = torch.randn(2, 5, 9, generator=generator)
    assert float(losses.token_kl(p, p).abs().max()) < 1e-6
    expected = functional.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="none").sum(-1)
    assert torch.allclose(losses.token_kl(p, q), expected, atol=1e-6)
    assert bool((losses.token_kl(p, q) > 0).all())


def test_the_steering_vector_is_positive_of_length_one_and_seeded():
    one, again, other = (losses.steering_vector(50, torch_rng("steer", seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert bool((one >= 0).all())
    assert float(one.norm()) == pytest.approx(1.0, abs=1e-6)
