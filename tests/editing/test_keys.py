"""Keys and values against the whole model run fact by fact; look-up positions; independence of padding and packing."""

from __future__ import annotations

import functools

import pytest
import reference
import torch
from tiny import FAMILIES, tiny_model, tiny_requests

from editlab.data.requests import EditRequest
from editlab.editing import keys as keys_module
from editlab.editing.keys import (
    CLEAN,
    check_contexts,
    compute_keys,
    compute_values,
    flat,
    lookup_rows,
    lookup_states,
)
from editlab.errors import ConfigError, DataError, ModelError
from editlab.networks.tokenization import Encoder

CONTEXTS = (("{}",), ("Yes. {}", "I think that {}", "In the year 1999, {}"))


@functools.cache
def model_of(family: str):
    return tiny_model(family).double()


def mixed() -> list[EditRequest]:
    return tiny_requests(4) + reference.odd_requests()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=0) / expected.norm(dim=0)).max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2])
def test_keys_average_inside_a_group_then_over_groups(family, layer):
    model, requests = model_of(family), mixed()
    expected = torch.stack([reference.key(model, r, layer, CONTEXTS) for r in requests], 1).double()
    found = compute_keys(model, requests, layer, CONTEXTS)
    assert found.shape == (64, len(requests))
    assert found.dtype == torch.float64
    assert relative(found, expected) < 1e-6
    clean = torch.stack([reference.key(model, r, layer, CLEAN) for r in requests], 1)
    rest = torch.stack([reference.key(model, r, layer, CONTEXTS[1:]) for r in requests], 1)
    assert relative(found, (clean + rest) / 2) < 1e-6  # "{}" alone weighs one half


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rome_weighs_all_contexts_equally(family):
    model, requests = model_of(family), mixed()
    templates = [t for group in CONTEXTS for t in group]
    parts = [torch.stack([reference.key(model, r, 1, ((t,),)) for r in requests], 1) for t in templates]
    assert relative(compute_keys(model, requests, 1, flat(CONTEXTS)), sum(parts) / 4) < 1e-10


@pytest.mark.parametrize("site", ["block", "mlp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_read_on_the_clean_prompt(family, site):
    model, requests = model_of(family), mixed()
    expected = torch.stack([reference.value(model, r, 1, site) for r in requests], 1).double()
    assert relative(compute_values(model, requests, 1, site), expected) < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_padding_and_packing_change_nothing(family, monkeypatch):
    model, requests = model_of(family), mixed()
    together = compute_keys(model, requests, 1, CONTEXTS)
    alone = torch.cat([compute_keys(model, [r], 1, CONTEXTS) for r in requests], 1)
    assert relative(together, alone) < 1e-6
    assert relative(compute_keys(model, requests[::-1], 1, CONTEXTS).flip(1), together) < 1e-6
    monkeypatch.setattr(keys_module, "TOKENS_PER_PASS", 20)
    assert relative(compute_keys(model, requests, 1, CONTEXTS), together) < 1e-6


def test_one_pass_gives_every_state_and_equal_prompts_run_once():
    model, requests = model_of("gpt2"), tiny_requests(3)
    rows = lookup_rows(Encoder(model.tokenizer), [*requests, requests[0]], CONTEXTS)
    assert len(rows.rows) == 3 * 4
    assert float(rows.weight.sum()) == pytest.approx(4.0)
    states = lookup_states(model, rows, keys=[0, 2], blocks=[1], mlps=[2])
    assert {name: tuple(value.shape) for name, value in states.items()} == {
        ("key", 0): (12, 64),
        ("key", 2): (12, 64),
        ("block", 1): (12, 32),
        ("mlp", 2): (12, 32),
    }
    for layer in (0, 2):
        found = rows.average(states["key", layer])
        assert torch.allclose(found[:, :3], compute_keys(model, requests, layer, CONTEXTS), rtol=1e-12)
        assert torch.equal(found[:, 0], found[:, 3])


def test_blocks_above_the_highest_layer_do_not_run():
    model, ran = tiny_model("gpt2"), []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(model.transformer.h)
    ]
    compute_keys(model, tiny_requests(1), 1)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_long_prompt_and_a_lost_subject_are_errors_of_one_line():
    model = model_of("gpt2")
    with pytest.raises(ModelError, match="context holds 128") as caught:
        compute_keys(model, tiny_requests(1), 1, (("{}",), ("word " * 150 + "{}",)))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="subject"):
        compute_keys(model, [EditRequest("1", "{} is", "", "a", "b")], 1)


@pytest.mark.parametrize(
    "contexts",
    [
        None,
        "{}",
        [],
        [[]],
        ["{}"],
        [["{}"], []],
        [["{}"], ["no place"]],
        [["{}"], ["{} {}"]],
        [["{}"], [3]],
        [["Yes. {}"]],
        [["Yes. {}"], ["{}"]],
        5,
        [5],
    ],
    ids=str,
)
def test_bad_contexts_are_errors_of_one_line(contexts):
    with pytest.raises(ConfigError, match=r"^contexts: [^\n]+$"):
        check_contexts(contexts)


def test_contexts_are_kept_as_they_are():
    assert check_contexts([["{}"], ["a {}", "b {}"]]) == (("{}",), ("a {}", "b {}"))
    assert flat(CONTEXTS) == (tuple(t for g in CONTEXTS for t in g),)
