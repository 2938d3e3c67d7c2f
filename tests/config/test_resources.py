"""What jobs ask of a cluster: it grows with the model, the batch, the edits and the attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editlab.config import resources
from editlab.config.models import HubModel, SubstrateModel
from editlab.config.resources import Resources

SMALL = SubstrateModel(source="substrate", dataset="facts")
LARGE = HubModel(source="hub", id="some/model", dtype="bfloat16", parameters=6e9)
UNKNOWN = HubModel(source="hub", id="some/model")


def entries(**given):
    """The section ``resources`` of a run."""
    return {name: Resources(**values) for name, values in given.items()}


def test_an_entry_is_completed_from_default_and_then_from_the_section():
    found = resources.of_rule(entries(default={"mem_mb": 2000, "gpu": 2}, edit_cell={"mem_mb": 9000}), "edit_cell")
    assert (found.mem_mb, found.gpu, found.runtime) == (9000, 2, Resources().runtime)
    assert resources.of_rule(entries(), "edit_cell") == Resources()


def test_parameters_of_a_substrate_are_those_of_its_architecture():
    for architecture in ("gpt2", "llama"):
        model = SubstrateModel(source="substrate", dataset="facts", architecture=architecture)
        counted = model.billions * 1e9
        assert counted == pytest.approx(parameters(model), rel=0.02)


def parameters(model: SubstrateModel) -> int:
    """Of the network itself, without its biases being asked of the formula."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if model.architecture == "gpt2":
        shape = {"n_layer": model.layers, "n_embd": model.width, "n_head": model.heads, "n_positions": model.context}
        network = GPT2LMHeadModel(GPT2Config(vocab_size=model.vocabulary, **shape))
    else:
        shape = {"num_hidden_layers": model.layers, "hidden_size": model.width, "num_attention_heads": model.heads}
        shape |= {"intermediate_size": 4 * model.width, "tie_word_embeddings": False}
        network = LlamaForCausalLM(LlamaConfig(vocab_size=model.vocabulary, **shape))
    return sum(p.numel() for p in network.parameters())


def test_rules_that_do_not_load_the_model_ask_for_the_entry_alone():
    asked = entries(default={"mem_mb": 1500, "runtime": 30})
    assert resources.memory(asked, "collect_table") == 1500
    assert resources.minutes(asked, "collect_table") == 30
    assert resources.gpus(asked, "collect_table") == 0


def test_a_large_model_asks_for_its_weights_for_time_and_for_a_gpu():
    asked = entries(default={"mem_mb": 1500, "runtime": 30, "model_copies": 3, "runtime_per_billion": 60})
    assert resources.memory(asked, "edit_cell", model=LARGE) == 1500 + 3 * 12_000
    assert resources.minutes(asked, "find_known", model=LARGE) == 30 + 60 * 6
    assert resources.minutes(asked, "edit_cell", model=LARGE, edits=500) == 30 + 60 // 2 + 60 * 6 // 2
    assert resources.minutes(asked, "edit_cell", model=SMALL, edits=2000) == 30 + 2 * 60 + 1  # rounded up
    assert resources.gpus(asked, "edit_cell", model=LARGE) == 1
    assert resources.gpus(entries(default={"gpu_from": None}), "edit_cell", model=LARGE) == 0
    assert resources.gpus(entries(edit_cell={"gpu": 4}), "edit_cell", model=LARGE) == 4


def test_memory_doubles_with_each_attempt_and_grows_with_the_batch():
    asked = entries(default={"mem_mb": 1000, "model_copies": 0, "mem_mb_per_fact": 2.5})
    assert [resources.memory(asked, "edit_cell", n, SMALL, batch=100) for n in (1, 2, 3)] == [1250, 2500, 5000]


@given(batch=st.integers(0, 4096), more=st.integers(1, 4096), attempt=st.integers(1, 4))
def test_more_never_asks_for_less(batch, more, attempt):
    asked = entries()
    small, large = (resources.memory(asked, "edit_cell", attempt, SMALL, n) for n in (batch, batch + more))
    assert small <= large <= resources.memory(asked, "edit_cell", attempt + 1, SMALL, batch + more)
    assert large <= resources.memory(asked, "edit_cell", attempt, LARGE, batch + more)


def test_only_small_models_of_known_size_share_submissions():
    asked = entries()
    assert resources.is_small(asked, "edit_cell", SMALL)
    assert not resources.is_small(asked, "edit_cell", LARGE)
    assert not resources.is_small(asked, "edit_cell", UNKNOWN)
    assert not resources.is_small(entries(edit_cell={"group_below": 0}), "edit_cell", SMALL)


def test_the_size_of_the_weights_follows_their_type():
    sizes = {
        dtype: HubModel(source="hub", id="x", dtype=dtype, parameters=1e9).weights_mb
        for dtype in ("float64", "float32", "bfloat16", "auto")
    }
    assert sizes == {"float64": 8000, "float32": 4000, "bfloat16": 2000, "auto": 4000}
