"""Functional LoRA: equal to PEFT, many adapters at once equal to one after another, gradients, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model
from tiny_adapters import base, random_factors

from editlab.algebra.linalg import Factors
from editlab.data.letter_tasks import vocabulary
from editlab.edits.peft import read_adapter, write_adapter
from editlab.errors import ArtifactError, ConfigError, ModelError
from editlab.networks.answers import encode, greedy
from editlab.networks.architectures import Architecture
from editlab.networks.lora import adapted, map_shapes, stacked


def ids(rows: int = 4, length: int = 7):
    return torch.randint(len(vocabulary()), (rows, length), generator=torch.Generator().manual_seed(1))


def logits(model, x):
    return model(input_ids=x, use_cache=False).logits


def test_no_change_is_the_base_bit_for_bit():
    model = base()
    zero = {k: (torch.zeros_like(b), a) for k, (b, a) in random_factors(model, 1).items()}
    before = logits(model, ids())
    with adapted(model, zero):
        assert torch.equal(logits(model, ids()), before)


def test_adapters_side_by_side_are_each_one_alone():
    model = base()
    many, x = random_factors(model, 3), ids(6)
    with adapted(model, many):
        together = logits(model, x)
    for i in range(3):
        with adapted(model, {k: (b[i : i + 1], a[i : i + 1]) for k, (b, a) in many.items()}):
            alone = logits(model, x[2 * i : 2 * i + 2])
        torch.testing.assert_close(together[2 * i : 2 * i + 2], alone, atol=1e-5, rtol=1e-5)


def test_dense_changes_are_their_factors():
    model = base()
    factors = random_factors(model, 2)
    with adapted(model, factors):
        expected = logits(model, ids())
    with adapted(model, {k: b @ a for k, (b, a) in factors.items()}):
        torch.testing.assert_close(logits(model, ids()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 40])  # few rows: thin products; many, and no gradient: one product with the sums
@pytest.mark.parametrize("family", ["gpt2", "llama"])  # transposed weights with a bias; neither
def test_with_and_without_gradients_the_same_comes_out(family, rows, dtype):
    model = tiny_model(family).to(dtype)
    x = torch.randint(100, (rows, 6), generator=torch.Generator().manual_seed(2))
    factors = random_factors(model, 2, size=0.1)
    with torch.no_grad():
        plain = logits(model, x)
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    for changes in (factors, {k: b @ a for k, (b, a) in factors.items()}):
        with adapted(model, changes):
            expected = logits(model, x)
            with torch.no_grad():
                torch.testing.assert_close(logits(model, x), expected, atol=tolerance, rtol=tolerance)
                short = logits(model, x[:: rows // 2, :1])  # a row an adapter, as when an answer is continued
                torch.testing.assert_close(short, expected[:: rows // 2, :1], atol=tolerance, rtol=tolerance)
        assert float((expected.detach() - plain).abs().max()) > 0.3
    # Served without any of this: the sums in the weights.
    for i, part in enumerate(x.chunk(2)):
        merged = tiny_model(family).to(dtype)
        for name, module in Architecture(merged).linear_maps().items():
            change = factors[name][0][i] @ factors[name][1][i]
            module.weight.data += (change if isinstance(module, torch.nn.Linear) else change.T).to(dtype)
        torch.testing.assert_close(logits(merged, part), expected.chunk(2)[i], atol=tolerance, rtol=tolerance)


def test_saved_and_served_by_plain_peft_the_logits_are_the_same(tmp_path):
    peft = pytest.importorskip("peft")
    model, x = base(), ids()
    factors = random_factors(model, 1)
    some = dict(list(factors.items())[1::2])  # not every map
    with adapted(model, some):
        expected = logits(model, x)
    write_adapter({k: Factors(b[0], a[0]) for k, (b, a) in some.items()}, tmp_path, model)
    back = read_adapter(tmp_path)
    for k, (b, a) in some.items():
        torch.testing.assert_close(back[k].dense(), b[0] @ a[0])
    served = peft.PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(served, x), expected, atol=1e-5, rtol=1e-5)


def test_a_scale_that_peft_saved_is_folded_in(tmp_path):
    peft = pytest.importorskip("peft")
    model, x = base(), ids()
    names = list(map_shapes(model))[:3]
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=names, alpha_pattern={names[0]: 2}, init_lora_weights=False
    )
    tuned = peft.get_peft_model(model, config).eval()
    expected = logits(tuned, x)
    tuned.save_pretrained(tmp_path)
    read = {k: (f.left, f.right) for k, f in read_adapter(tmp_path).items()}
    fresh = base()
    with adapted(fresh, stacked([read])):
        torch.testing.assert_close(logits(fresh, x), expected, atol=1e-5, rtol=1e-5)


def test_every_factor_gets_a_gradient_and_a_none_where_b_is_zero():
    model = base()
    made = {k: (b.requires_grad_(), a.requires_grad_()) for k, (b, a) in random_factors(model, 2).items()}
    with adapted(model, made):
        logits(model, ids()).square().sum().backward()
    assert all(bool(t.grad.isfinite().all() and t.grad.abs().sum() > 0) for pair in made.values() for t in pair)
    zero = {k: (torch.zeros_like(b).requires_grad_(), a.detach().requires_grad_()) for k, (b, a) in made.items()}
    with adapted(model, zero):
        logits(model, ids()).square().sum().backward()
    assert all(float(b.grad.abs().sum()) > 0 and float(a.grad.abs().sum()) == 0 for b, a in zero.values())


def test_maps_are_given_back_after_an_error():
    model = base()
    name, module = next(iter(Architecture(model).linear_maps().items()))
    module.forward = own = module.forward  # as a library does that moves weights between devices
    before = logits(model, ids())
    with pytest.raises(RuntimeError, match="stop"), adapted(model, random_factors(model, 1)):
        raise RuntimeError("stop")
    assert torch.equal(logits(model, ids()), before)
    changed = {k for k, m in Architecture(model).linear_maps().items() if "forward" in vars(m)}
    assert changed == {name}
    assert module.forward is own


def test_adapters_of_another_base_are_refused():
    model = base()
    factors = random_factors(model, 1)
    name = next(iter(factors))
    with pytest.raises(ModelError, match="no linear map nowhere"), adapted(model, {"nowhere": factors[name]}):
        pass
    with pytest.raises(ModelError, match="another base"), adapted(model, {name: torch.zeros(1, 3, 3)}):
        pass
    with pytest.raises(ModelError, match="cannot be shared out"), adapted(model, random_factors(model, 3)):
        logits(model, ids(4))
    assert not any("forward" in vars(m) for m in model.modules())


def test_an_adapter_that_changes_nothing_or_is_damaged_is_one_line(tmp_path):
    model = base()
    name, (out, d_in) = next(iter(map_shapes(model).items()))
    with pytest.raises(ConfigError, match="changes no weight"):
        write_adapter({name: Factors.zeros(out, d_in)}, tmp_path / "a", model)
    with pytest.raises(ModelError, match="another base"):
        write_adapter({name: Factors.zeros(out + 1, d_in)}, tmp_path / "a", model)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ArtifactError, match="not a readable adapter"):
        read_adapter(tmp_path / "a")
    write_adapter({name: Factors(torch.full((out, 1), torch.nan), torch.ones(1, d_in))}, tmp_path / "b", model)
    with pytest.raises(ArtifactError, match="NaN"):
        read_adapter(tmp_path / "b")


def test_linear_maps_are_those_of_the_blocks_in_order():
    names = list(map_shapes(base()))
    assert len(names) == 2 * 7
    assert len({Architecture(base()).linear_maps()[n] for n in names}) == 14


def test_padding_changes_no_answer():
    model = base()
    pairs = [("| A B =", "C D"), ("reverse the string | A B C D E =", "A"), ("| K =", "L A")]
    whole = encode(model.tokenizer, pairs)
    assert whole.real is not None
    together = greedy(model, whole, 3)
    for i, pair in enumerate(pairs):
        assert torch.equal(greedy(model, encode(model.tokenizer, [pair]), 3)[0], together[i])
