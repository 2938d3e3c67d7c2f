"""Random models of true sizes: their configurations on the meta device, and one small enough to be edited."""

from __future__ import annotations

import json

import pytest
import torch

import editlab
from editlab.config.base import validated
from editlab.config.models import SHAPES, RandomModel
from editlab.data import make_facts
from editlab.errors import ConfigError, ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.loading import fastest_device, load_model
from editlab.training.random_model import write_random_model

FACTS = make_facts(60, seed=1)
TINY = {"model_type": "gpt2", "n_layer": 6, "n_embd": 32, "n_head": 4, "vocab_size": 900, "n_positions": 96}
TRUE = {"gpt2_xl": (1600, 6400), "gptj_6b": (4096, 16384), "llama3_8b": (4096, 14336)}


def described(folder, shape: str, **values):
    folder.mkdir(exist_ok=True)
    options = RandomModel(source="random", dataset="facts", shape=shape, **values)
    write_random_model(folder, options, FACTS)
    return folder, options


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_that_of_the_real_model(shape, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, options = described(tmp_path / "model", shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    architecture = Architecture(model)
    assert architecture.num_layers == options.blocks
    assert architecture.weight_shape(5) == TRUE[shape]
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(options.billions, rel=0.01)
    assert not list(folder.glob("*.safetensors"))


def test_it_is_loaded_in_its_type_the_same_each_time_and_can_be_edited(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    folder, options = described(tmp_path / "model", str(tmp_path / "config.json"), layers=2, vocabulary=600)
    assert (options.blocks, options.billions) == (2, None)
    one, two = (load_model(folder, dtype="bfloat16", device_map="auto") for _ in range(2))
    assert Architecture(one).num_layers == 2
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.equal(a, b)
    other, _ = described(tmp_path / "other", str(tmp_path / "config.json"), layers=2, vocabulary=600, seed=2)
    assert not torch.equal(next(one.parameters()), next(load_model(other, dtype="bfloat16").parameters()))
    moment = {0: torch.eye(128, dtype=torch.float64)}
    edit = editlab.edit(one, FACTS[:2], layers=[0], statistics=moment, steps=2, second_moment_weight=1.0)
    assert edit.norm() > 0


def test_auto_is_the_gpu_with_the_most_free_memory(monkeypatch):
    assert fastest_device() in ("cpu", "cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((5, 9, 7)[index], 10))
    assert fastest_device() == "cuda:1"


def test_what_is_no_shape_is_refused(tmp_path):
    chosen = validated(RandomModel, {"source": "random", "dataset": "facts", "shape": "gpt5"}, "m")
    with pytest.raises(ConfigError, match=r"m\.shape: 'gpt5' is not allowed; one of gpt2_xl"):
        chosen.check_files("m")
    for content, problem in (("[", "not the configuration"), ('{"model_type": "bert"}', "not supported")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=problem):
            described(tmp_path / "model", str(tmp_path / "config.json"))
