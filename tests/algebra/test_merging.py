"""Merging: identities that hold for any adapters, and equality with PEFT for every rule that PEFT has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.algebra.linalg import Factors
from editlab.algebra.merging import RANDOM, RULES, largest, merge
from editlab.errors import ConfigError

SHAPES = {"one": (6, 5), "two": (4, 7)}


def adapter(seed: int, rank: int = 2, names=tuple(SHAPES)) -> dict[str, Factors]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return {k: Factors(draw(SHAPES[k][0], rank), draw(rank, SHAPES[k][1])) for k in names}


def dense(merged):
    return torch.cat([merged[k].dense().flatten() for k in SHAPES])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


seeds = st.integers(0, 10_000)
weights = st.floats(-3, 3, allow_nan=False)
ALL = [(rule, space) for rule in RULES for space in ("product", "factor")]


@pytest.mark.parametrize(("rule", "space"), ALL)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_one_adapter_of_weight_one_comes_back(rule, space, seed):
    one = adapter(seed)
    found = merge([one], [1.0], rule=rule, space=space, density=1.0, generator=rng())
    torch.testing.assert_close(dense(found), dense(one))


@pytest.mark.parametrize(("rule", "space"), [c for c in ALL if c[0] != "ties_shared"])
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_weight_minus_one_is_the_negation(rule, space, seed):
    one = adapter(seed)
    found = merge([one], [-1.0], rule=rule, space=space, density=1.0, generator=rng())
    torch.testing.assert_close(dense(found), -dense(one))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, a=weights, b=weights, c=weights)
def test_the_weighted_sum_of_products_is_linear_and_exact(seed, a, b, c):
    parts = [adapter(seed), adapter(seed + 1, rank=3), adapter(seed + 2, names=("one",))]
    found = merge(parts, [a, b, c])
    expected = {k: a * parts[0][k].dense() + b * parts[1][k].dense() for k in SHAPES}
    expected["one"] = expected["one"] + c * parts[2]["one"].dense()
    for k in SHAPES:
        torch.testing.assert_close(found[k].dense(), expected[k])
    twice = merge([merge(parts[:2], [a, b]), parts[2]], [1.0, c])
    torch.testing.assert_close(dense(twice), dense(found))


@pytest.mark.parametrize(("rule", "space"), [c for c in ALL if c[0] not in RANDOM])
@settings(max_examples=10, deadline=None)
@given(seed=seeds, order=st.permutations(range(4)))
def test_the_order_of_the_adapters_does_not_matter(rule, space, seed, order):
    parts, w = [adapter(seed + i) for i in range(4)], [0.4, 1.0, -0.7, 0.2]
    found = merge(parts, w, rule=rule, space=space, density=0.6)
    other = merge([parts[i] for i in order], [w[i] for i in order], rule=rule, space=space, density=0.6)
    torch.testing.assert_close(dense(found), dense(other), atol=1e-9, rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_factors_with_one_shared_side_average_exactly(seed):
    parts = [adapter(seed + i) for i in range(3)]
    shared = [{k: Factors(p[k].left, parts[0][k].right) for k in SHAPES} for p in parts]
    # With weights w on both sides' roots: (sum_i sqrt(w) B_i)(sum_j sqrt(w) A) = k w sum_i B_i A.
    found = merge(shared, [1 / 9] * 3, space="factor")
    torch.testing.assert_close(dense(found), sum(dense(p) for p in shared) / 3)


def test_factor_sums_hold_cross_terms_and_products_do_not():
    parts = [adapter(i) for i in range(3)]
    truth = sum(dense(p) for p in parts) / 3
    assert torch.allclose(dense(merge(parts, [1 / 3] * 3)), truth)
    assert float((dense(merge(parts, [1 / 3] * 3, space="factor")) - truth).norm() / truth.norm()) > 0.5


def test_a_scale_is_a_weight_of_the_product():
    parts = [adapter(0), adapter(1)]
    torch.testing.assert_close(dense(merge(parts, [0.5, 2.0], scales=[2.0, 0.25])), dense(merge(parts, [1.0, 0.5])))


def test_a_cut_sum_is_the_best_of_its_rank():
    parts = [adapter(i) for i in range(3)]
    exact, cut = merge(parts, [1.0] * 3), merge(parts, [1.0] * 3, rank=2)
    for k in SHAPES:
        values = torch.linalg.svdvals(exact[k].dense())
        assert cut[k].rank == 2
        torch.testing.assert_close((exact[k].dense() - cut[k].dense()).norm(), values[2:].norm())


def entries(*values: float) -> list[dict[str, Factors]]:
    return [{"x": Factors(torch.tensor([[v]]), torch.ones(1, 1))} for v in values]


def test_ties_elects_by_mass_and_its_shared_variant_by_count():
    parts = entries(-0.9, 0.1, 0.1)
    assert merge(parts, [1.0] * 3, rule="ties", density=1.0)["x"].dense().item() == pytest.approx(-0.9)
    shared = merge(parts, [1.0] * 3, rule="ties_shared", density=1.0)["x"].dense().item()
    assert shared == pytest.approx((0.9 + 0.1 + 0.1) / 3)


def test_ties_averages_over_those_that_agree_alone():
    parts = entries(0.6, 0.2, -0.1)
    assert merge(parts, [1.0] * 3, rule="ties", density=1.0)["x"].dense().item() == pytest.approx(0.4)


@pytest.mark.parametrize("rule", ["dare_linear", "dare_shared"])
def test_dare_keeps_the_expectation_and_follows_its_seed(rule):
    parts, w = [adapter(i, rank=5) for i in range(3)], [1.0, -0.5, 0.25]
    draws = [dense(merge(parts, w, rule=rule, density=0.5, generator=rng(i), rank=None)) for i in range(600)]
    truth = dense(merge(parts, w))
    assert float((torch.stack(draws).mean(dim=0) - truth).norm() / truth.norm()) < 0.1
    assert torch.equal(draws[0], dense(merge(parts, w, rule=rule, density=0.5, generator=rng(0))))
    assert not torch.equal(draws[0], draws[1])


def test_masks_of_their_own_leave_less_noise_than_a_shared_one():
    same = adapter(0, rank=5)
    truth = dense(same)

    def deviation(rule: str) -> float:
        draws = [dense(merge([same] * 8, [1 / 8] * 8, rule=rule, density=0.5, generator=rng(i))) for i in range(40)]
        return float(torch.stack([(d - truth).norm() for d in draws]).mean())

    assert deviation("dare_linear") < 0.5 * deviation("dare_shared")


def test_pruning_keeps_the_largest_share():
    kept = largest(torch.tensor([[0.1, -3.0, 2.0, -0.2]]), 0.5)
    assert kept.tolist() == [[0.0, -3.0, 2.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapters": []}, "no adapters"),
        ({"weights": [1.0]}, "2 adapters, 1 weights"),
        ({"weights": [1.0, float("nan")]}, "weight or scale nan"),
        ({"rank": 0}, "rank 0 is not allowed"),
        ({"rule": "soup"}, "one of linear"),
        ({"space": "tangent"}, "product or factor"),
        ({"density": 0.0}, "above 0"),
        ({"rule": "dare_ties"}, "give the generator"),
        ({"adapters": [adapter(0), adapter(1, rank=3)], "space": "factor"}, r"ranks \[2, 3\] of one cannot be joined"),
        (
            {"adapters": [adapter(0), {"one": Factors(torch.ones(9, 1), torch.ones(1, 5))}]},
            "adapters of different bases",
        ),
    ],
)
def test_what_cannot_be_joined_is_one_line(change, message):
    arguments = {"adapters": [adapter(0), adapter(1)], "weights": [1.0, 1.0]} | change
    with pytest.raises(ConfigError, match=message) as error:
        merge(arguments.pop("adapters"), arguments.pop("weights"), **arguments)
    assert "\n" not in str(error.value)


# PEFT's names of our rules.
PEFT = {
    "linear": ("linear", "svd"),
    "magnitude_prune": ("magnitude_prune", "magnitude_prune_svd"),
    "ties": ("ties", "ties_svd"),
    "dare_linear": ("dare_linear", "dare_linear_svd"),
    "dare_ties": ("dare_ties", "dare_ties_svd"),
}


@pytest.fixture(scope="module")
def peft_model():
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes))
    scales = {"a": 8, "b": 4, "c": 2}
    model = None
    for name, alpha in scales.items():
        config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        if model is None:
            model = peft.get_peft_model(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    return model, scales


def layers(model):
    from peft.tuners.lora import LoraLayer

    return {k: m for k, m in model.named_modules() if isinstance(m, LoraLayer)}


def factors_of(model, name):
    return {
        k: Factors(m.lora_B[name].weight.detach(), m.lora_A[name].weight.detach()) for k, m in layers(model).items()
    }


@pytest.mark.parametrize("space", ["product", "factor"])
@pytest.mark.parametrize("rule", PEFT)
@pytest.mark.parametrize("w", [(1.0, 1.0, 1.0), (0.7, -0.4, 1.3)])
def test_every_rule_that_peft_has_gives_what_peft_gives(peft_model, rule, space, w, monkeypatch):
    model, scales = peft_model
    # PEFT draws its masks from the global generator, which it also starts the new adapter from.
    masks, draw = rng(7), torch.bernoulli
    monkeypatch.setattr(torch, "bernoulli", lambda p, generator=masks: draw(p, generator=generator))
    name = f"{rule}-{space}-{w}"
    model.add_weighted_adapter(
        list(scales), list(w), name.replace(".", ""), combination_type=PEFT[rule][space == "product"], density=0.5
    )
    found = merge(
        [factors_of(model, a) for a in scales],
        w,
        rule=rule,
        space=space,
        scales=[alpha / 4 for alpha in scales.values()],
        rank=4,
        density=0.5,
        generator=rng(7),
    )
    for key, layer in layers(model).items():
        expected = layer.get_delta_weight(name.replace(".", ""))
        torch.testing.assert_close(found[key].dense(), expected, atol=1e-5, rtol=1e-5)


def test_the_exact_sum_is_pefts_cat(peft_model):
    model, scales = peft_model
    model.add_weighted_adapter(list(scales), [0.5, 1.5, -1.0], "joined", combination_type="cat")
    found = merge(
        [factors_of(model, a) for a in scales], [0.5, 1.5, -1.0], scales=[alpha / 4 for alpha in scales.values()]
    )
    for key, layer in layers(model).items():
        torch.testing.assert_close(found[key].dense(), layer.get_delta_weight("joined"), atol=1e-5, rtol=1e-5)
