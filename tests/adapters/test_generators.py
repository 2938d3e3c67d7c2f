"""Ridge, tokens, generators and references: identities that do not depend on what a base has learned."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import base, bench, random_factors

from editlab.adapters.bench import Bench
from editlab.adapters.coefficients import delta_network, ridge_network
from editlab.adapters.deltas import deltas_of
from editlab.adapters.generation import DECODERS, check, export, generate, train_generator
from editlab.adapters.hyperconvolution import Layer
from editlab.adapters.losses import (
    SUPERVISIONS,
    delta_loss,
    diversity,
    norm_band,
    product_loss,
    product_norms,
    span_loss,
)
from editlab.adapters.merge_table import RULES, compare_merges
from editlab.adapters.pool import Pool, combined, cut, inner_products, likeness
from editlab.adapters.references import mean_adapter, random_equal_norm, shuffled
from editlab.adapters.ridge import Kernel, weights_to
from editlab.adapters.stages import compare_references, compare_retrieval, measure_deltas
from editlab.adapters.text import TfIdf
from editlab.adapters.tokens import Layout, token_loss, token_weights
from editlab.errors import ConfigError, ModelError
from editlab.networks.lora import adapted


@pytest.fixture(scope="module")
def tiny() -> Bench:
    return bench()


# ---- ridge and text ----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), penalty=st.floats(0.01, 10))
def test_coefficients_are_ridge_regression_of_any_targets(seed, penalty):
    rng = np.random.default_rng(seed)
    features, targets, new = rng.normal(size=(9, 5)), rng.normal(size=(9, 4)), rng.normal(size=(3, 5))
    kernel = Kernel.of(torch.tensor(features))
    found = kernel.coefficients(torch.tensor(new), penalty)
    # Straight from the normal equations, on centred and scaled features.
    centre = features.mean(axis=0)
    x = features - centre
    scale = np.sqrt((x**2).sum(axis=1).mean())
    x, z = x / scale, (new - centre) / scale
    slope = np.linalg.solve(x.T @ x + penalty * np.eye(5), x.T @ (targets - targets.mean(axis=0)))
    np.testing.assert_allclose(found.numpy() @ targets, targets.mean(axis=0) + z @ slope, atol=1e-8)
    np.testing.assert_allclose(found.sum(dim=1), 1.0)


def test_no_penalty_interpolates_and_a_large_one_gives_the_mean():
    features = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    kernel = Kernel.of(features)
    torch.testing.assert_close(
        kernel.coefficients(features, 1e-9), torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        kernel.coefficients(features, 1e9), torch.full((6, 6), 1 / 6, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_weights_to_a_row_are_that_row():
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        weights_to(rows[2:3], rows, 1e-9)[0], torch.eye(4, dtype=torch.float64)[2], atol=1e-6, rtol=0
    )


def test_tfidf_weighs_rare_terms_and_ignores_unknown_ones():
    features = TfIdf(["move left", "move right", "move up"])
    rows = features(["move left", "nothing here"])
    assert float(rows[0, features.index["left"]]) == pytest.approx(np.log(4 / 2) + 1)
    assert float(rows[0, features.index["move"]]) == pytest.approx(1.0)
    assert float(rows[1].norm()) == 0.0
    assert rows[0, features.index["left"]] > rows[0, features.index["move"]] > 0


def test_features_of_combinations_are_sums_of_their_parts(tiny):
    data = tiny.data(tiny.splits()[0])
    tasks = {tuple(task.name.split(".")): task.name for task in tiny.tasks.tasks}
    positions, letters = ({pair[i] for pair in tasks} for i in (0, 1))
    rows = data.text(list(tasks.values()))
    # A model with one effect for each operation leaves (nearly) nothing: features do not know the combination itself.
    effects = torch.tensor([[float(pair[0] == p) for p in sorted(positions)] + [float(pair[1] == x) for x in sorted(letters)]
                            for pair in tasks], dtype=torch.float64)  # fmt: skip
    centred = rows - rows.mean(dim=0)
    left = rows - effects @ torch.linalg.pinv(effects) @ rows
    assert float(left.square().sum() / centred.square().sum()) < 0.1


# ---- tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [8, 7])
def test_tokens_come_back_as_the_factors(chunk):
    factors = random_factors(base(), 3, size=0.05)
    layout = Layout.of(factors, chunk)
    back = layout.decode(layout.encode(factors).nan_to_num())
    for name, pair in factors.items():
        for one, other in zip(pair, back[name], strict=True):
            assert float((one - other).norm() / one.norm()) < 1e-3


def test_tokens_of_a_zero_factor_are_finite():
    factors = {k: (torch.zeros_like(b), a) for k, (b, a) in random_factors(base(), 1).items()}
    layout = Layout.of(factors, 8)
    tokens = layout.encode(factors)
    assert bool(tokens.nan_to_num().isfinite().all())
    assert max(float(b.abs().max()) for b, _ in layout.decode(tokens.nan_to_num()).values()) < 1e-6


def test_cells_that_are_not_there_count_nowhere_and_gradients_pass():
    factors = random_factors(base(), 2)
    layout = Layout.of(factors, 7)
    tokens = layout.encode(factors)
    assert bool(tokens.isnan().any())
    found = tokens.nan_to_num().requires_grad_()
    loss = token_loss(found, tokens, token_weights(tokens))
    assert float(loss.detach()) == 0
    sum(b.sum() + a.sum() for b, a in layout.decode(found).values()).backward()
    assert bool(found.grad.isfinite().all())
    assert token_weights(tokens).mean() == pytest.approx(1.0)


def test_a_layer_has_the_shape_that_it_is_asked_for():
    layer = Layer((3, 6, 5), (4, 2, 7))
    assert layer(torch.randn(2, 3, 6, 5)).shape == (2, 4, 2, 7)


# ---- losses ------------------------------------------------------------------------------------------------------


def test_losses_are_their_formulas():
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert float(delta_loss(one, other, torch.tensor(2.0))) == pytest.approx((2 + 0) / 2 / 2)
    assert float(norm_band(torch.tensor([1.0, 3.0]), torch.tensor(2.0))) == pytest.approx(0.25)
    same = torch.ones(2, 2)
    assert float(diversity(same, one)) == pytest.approx((1 - 0 - 0.1) ** 2)
    assert float(diversity(one, same)) == 0
    made, wanted = {"m": torch.full((1, 2, 2), 2.0)}, {"m": (torch.ones(1, 2, 1), torch.ones(1, 1, 2))}
    assert float(product_loss(made, wanted)) == pytest.approx(1.0)
    assert float(product_loss({"m": (2 * wanted["m"][0], wanted["m"][1])}, wanted)) == pytest.approx(1.0)


def test_the_loss_on_products_does_not_see_the_gauge():
    factors = random_factors(base(), 2)
    turn = torch.randn(2, 2, generator=torch.Generator().manual_seed(3))
    turned = {k: (b @ turn, torch.linalg.inv(turn) @ a) for k, (b, a) in factors.items()}
    products = [{k: b @ a for k, (b, a) in f.items()} for f in (factors, turned)]
    assert float(product_loss(turned, factors)) < 1e-4
    assert float(product_loss(products[1], factors)) < 1e-6
    torch.testing.assert_close(product_norms(factors), product_norms(turned), atol=1e-4, rtol=1e-4)
    dense = torch.stack([p.square().sum(dim=(1, 2)) for p in products[0].values()]).sum(dim=0).sqrt()
    torch.testing.assert_close(product_norms(factors), dense, atol=1e-4, rtol=1e-4)


def test_the_loss_of_sums_is_that_of_their_products():
    factors = random_factors(base(), 4)
    coefficients = torch.randn(2, 4, generator=torch.Generator().manual_seed(4))
    products = {k: torch.einsum("cn,noi->coi", coefficients, b @ a) for k, (b, a) in factors.items()}
    wanted = product_loss(products, {k: (b[[3, 0]], a[[3, 0]]) for k, (b, a) in factors.items()})
    torch.testing.assert_close(span_loss(coefficients, [3, 0], inner_products(factors, factors)), wanted)
    assert float(span_loss(torch.eye(4)[[3, 0]], [3, 0], inner_products(factors, factors))) == 0


# ---- references and networks -------------------------------------------------------------------------------------


def test_shuffled_descriptions_are_all_wrong():
    names = [str(i) for i in range(9)]
    swap = shuffled(names, 0)
    assert sorted(swap) == sorted(swap.values()) == names
    assert all(swap[n] != n for n in names)


def test_references_are_what_their_names_say(tiny):
    data = tiny.data(tiny.splits()[0])
    mean = mean_adapter(data)(["a", "b"])
    for key, products in data.products.items():
        left, right = mean[key]
        torch.testing.assert_close((left @ right)[0], products.mean(dim=0))
    name = data.train[0]
    noise, own = random_equal_norm(tiny.pool, 0)([name]), tiny.pool.at([name])
    for key, (b, a) in own.items():
        assert float(noise[key].norm()) == pytest.approx(float((b @ a).norm()), rel=1e-5)


def test_the_ridge_network_is_kernel_ridge_and_starts_training_from_the_mean(tiny):
    split = tiny.splits()[0]
    data = tiny.data(split)
    options = tiny.study.coefficients.model_copy(update={"penalties": [0.3]})
    network = ridge_network(data, options, tiny.validation, split.validation)
    torch.testing.assert_close(
        network.coefficients(split.test), data.kernel.coefficients(data.text(split.test), 0.3), atol=1e-8, rtol=1e-6
    )
    still = options.model_copy(update={"lr": 1e-12})
    mean = delta_network(data, still, tiny.validation, split.validation, 0).coefficients(split.test)
    torch.testing.assert_close(mean, torch.full_like(mean, 1 / len(data.train)), atol=1e-6, rtol=0)


def test_the_teachers_themselves_are_what_supervision_by_deltas_asks_for(tiny):
    data = tiny.data(tiny.splits()[0])
    count = len(data.train)
    for probes, wanted in data.lessons:
        found = probes.supervise(tiny.model, data.weighted(torch.eye(count)), count)
        assert float(delta_loss(found, wanted, wanted.square().sum(dim=1).mean())) < 1e-8
    assert sum(len(probes.batch) for probes, _ in data.lessons) == len(tiny.probes.batch) // 2


@pytest.mark.parametrize("weights", [False, True])
def test_training_on_deltas_comes_nearer_to_the_teachers(tiny, weights):
    split = tiny.splits()[0]
    data = tiny.data(split)
    count = len(data.train)
    options = tiny.study.coefficients.model_copy(
        update={"penalties": [1e-6], "steps": 40, "every": 40, "lr": 0.2, "batch": count}
    )
    probes, wanted = data.seen, deltas_of(tiny.model, data.seen, data.train, data.pool.at, supervise=True)

    def error(coefficients) -> float:
        return float((probes.supervise(tiny.model, data.weighted(coefficients), count) - wanted).square().sum())

    # The penalty and the step are chosen by letters, which mean nothing here: take the last one.
    better = iter(range(99))
    scorer = SimpleNamespace(letters=lambda *_: next(better))
    network = delta_network(data, options, scorer, split.validation, 0, weights=weights)
    trained = 1 / count + data.kernel.train @ network.matrix
    assert [row["step"] for row in network.log] == [0.0, 40.0]
    before = error(torch.full((count, count), 1 / count))
    assert error(trained) < 0.5 * before


def test_sums_in_factors_are_sums_of_products():
    factors = random_factors(base(), 4)
    coefficients = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    for key, (left, right) in combined(factors, coefficients).items():
        dense = torch.einsum("cn,noi->coi", coefficients, factors[key][0] @ factors[key][1])
        torch.testing.assert_close(left @ right, dense, atol=1e-5, rtol=1e-4)
    sums = combined(factors, coefficients)
    small, whole = cut(sums, 3), cut({k: b @ a for k, (b, a) in sums.items()}, 3)
    for key in factors:
        one, other = (c[key][0] @ c[key][1] for c in (small, whole))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_inner_products_form_no_product():
    factors = random_factors(base(), 4)
    flat = torch.cat([(b @ a).flatten(1) for b, a in factors.values()], dim=1)
    torch.testing.assert_close(inner_products(factors, factors).sum(dim=0), flat @ flat.T, atol=1e-3, rtol=1e-4)
    unit = torch.nn.functional.normalize(flat, dim=1)
    torch.testing.assert_close(likeness(factors), unit @ unit.T, atol=1e-5, rtol=1e-4)


def test_a_cut_is_the_best_of_its_rank():
    change = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    left, right = cut({"m": change}, 2)["m"]
    values = torch.linalg.svdvals(change)
    torch.testing.assert_close((change - left @ right).flatten(1).norm(dim=1), values[:, 2:].norm(dim=1))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_what_is_generated_is_saved_and_served_by_plain_peft(tiny, decoder, supervision, tmp_path):
    peft = pytest.importorskip("peft")
    scores, choices, checks, pool = generate(tiny, decoder, supervision)
    assert pool.names == tiny.tasks.names("test")
    assert set(scores["group"]) == {"generator", "shuffled"}
    assert len(choices) >= 2
    assert not checks["explosion"]
    name = pool.names[0]
    export(pool, name, tiny.model, tmp_path)
    x = torch.randint(4, 16, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), adapted(tiny.model, pool.at([name])):
        expected = tiny.model(input_ids=x).logits
    served = peft.PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    torch.testing.assert_close(served(input_ids=x).logits, expected, atol=1e-5, rtol=1e-5)


def test_unknown_generators_and_adapters_are_one_line(tiny, tmp_path):
    split = tiny.splits()[0]
    with pytest.raises(ConfigError, match="'oracle' by 'weights' is not allowed"):
        train_generator(tiny, tiny.data(split), split, "oracle", "weights")
    with pytest.raises(ConfigError, match="'nobody' is not in the pool"):
        export(tiny.pool, "nobody", tiny.model, tmp_path)
    with pytest.raises(ModelError, match="another base"):
        export(tiny.pool, tiny.pool.names[0], base(1), tmp_path)


def test_degenerate_answers_are_seen(tiny):
    split = tiny.splits()[0]
    data, names = tiny.data(split), split.test
    teachers = tiny.teacher_deltas(names)

    def checked(scale: float, rows: list[int]) -> dict:
        factors = {k: (scale * b[rows], a[rows]) for k, (b, a) in tiny.pool.at(names).items()}
        made = Pool(names, factors, tiny.pool.base)
        found = tiny.row(data, names, made.at, teachers=teachers, split="", group="", method="")
        return check(tiny, data, made, found, found)

    own = list(range(len(names)))
    assert checked(1e-4, own)["zero"]
    assert checked(50.0, own)["explosion"]
    assert checked(float("nan"), own)["explosion"]
    assert checked(1.0, [0] * len(names))["collapse"]
    fine = checked(1.0, own)
    assert not fine["zero"]
    assert not fine["explosion"]


# ---- stages ------------------------------------------------------------------------------------------------------


def test_the_stages_give_whole_tables(tiny, tmp_path):
    deltas, pooling, gates = measure_deltas(tiny, tmp_path / "deltas.safetensors")
    assert len(deltas) == len(tiny.pool)
    assert set(pooling["position"]) == {"answer", "prompt_end", "neutral"}
    assert set(gates["holds"]) == {"prompted", "bare", "teachers", "reliability"}
    assert not gates["holds"]["prompted"]  # this base never learned
    joint = Pool(["joint", "joint_prompted"], random_factors(tiny.model, 2, seed=5), tiny.pool.base)
    references = compare_references(tiny, joint)
    scores, found = compare_retrieval(tiny)
    tests = tiny.tasks.names("test")
    for table in (references, scores):
        first = table[table["split"] == "combinations"]
        assert (first.groupby("method")["task"].nunique() == len(tests)).all()
        assert first["exact"].between(0, 1).all()
    assert found["reciprocal_rank"].between(0, 1).all()
    # Without the test tasks in the index their own adapters are never found; with them all are, at some place.
    assert (found[found["index"] == "training"]["reciprocal_rank"] == 0).all()
    assert (found[found["index"] != "training"]["reciprocal_rank"] > 0).all()


def test_the_merge_table_has_every_rule_for_both_pools(tiny):
    members = tiny.tasks.names("train")
    own = Pool(members, random_factors(tiny.model, len(members), seed=8), tiny.pool.base)
    table = compare_merges(tiny, own)
    assert set(table["pool"]) == {"shared A_0", "own A_0"}
    assert len(table) == 2 * len(RULES) * len(tiny.tasks.names("test"))
    exact = table[(table["rule"] == "linear") & (table["space"] == "product") & (table["rank"] == 0)]
    assert exact["cosine_to_sum"].min() == pytest.approx(1.0, abs=1e-5)
    assert exact["norm_to_sum"].max() == pytest.approx(1.0, abs=1e-5)


def test_a_rule_of_factors_averages_them(tiny):
    members = tiny.tasks.names("train")
    factors = random_factors(tiny.model, len(members), seed=8)
    same_right = {k: (left, right[:1].expand_as(right)) for k, (left, right) in factors.items()}
    bench = dataclasses.replace(tiny, pool=Pool(members, same_right, tiny.pool.base))
    table = compare_merges(bench, Pool(members, factors, tiny.pool.base))
    table = table[(table["space"] == "factor") & (table["rule"] == "linear")].set_index("pool")
    # With one A the mean of the factors is the mean of the products; with an A each it is much smaller.
    np.testing.assert_allclose(table.loc["shared A_0", ["cosine_to_sum", "norm_to_sum"]].astype(float), 1.0, atol=1e-4)
    assert (table.loc["own A_0", "norm_to_sum"] < 1).all()
