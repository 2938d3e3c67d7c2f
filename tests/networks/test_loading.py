"""Models from directories: whole and of a supported family, or refused in one line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import tiny_model
from zoo import across_words

from editlab.errors import ModelError
from editlab.networks.loading import load_model


def saved(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny model's directory, with changes of its config.json."""
    model = tiny_model(family)
    model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    change(folder, **changes)
    return folder


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder)) or "tokenizer" in match


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama", "mistral", "qwen2"])
def test_a_whole_model_is_loaded_as_it_was_saved(tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = load_model(saved(tmp_path, family))
    assert not caplog.records
    for name, weight in tiny_model(family).state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_a_checkpoint_without_all_layers_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path, num_hidden_layers=4), r"9 weights of the model are not in its file.*model\.layers\.3\.")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, intermediate_size=80)
    refused(folder, r"9 weights have another shape.*down_proj.weight is \(32, 64\), config.json says \(32, 80\)")


def test_weights_left_over_are_a_warning_of_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_model(saved(tmp_path, num_hidden_layers=2))
    (record,) = caplog.records
    assert "9 weights of the file are not of this model" in record.getMessage()
    assert "model.layers.2." in record.getMessage()
    assert "\n" not in record.getMessage()


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model = load_model(saved(tmp_path, "gpt2"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_another_config_over_the_weights_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path, model_type="bert", architectures=["BertForMaskedLM"]), "model type 'bert' is not supported")


def test_families_outside_are_refused_before_their_weights_are_read(tmp_path: Path) -> None:
    config = transformers.OPTConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, ffn_dim=32, num_attention_heads=4, word_embed_proj_dim=32
    )
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path)
    refused(tmp_path, "model type 'opt' is not supported; supported: gpt2")


def test_an_image_classifier_is_no_language_model(tmp_path: Path) -> None:
    refused(saved(tmp_path, model_type="vit"), r"model type 'vit' is not supported; supported: gpt2, .*, qwen3$")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    model = tiny_model("llama", vocab_size=390)
    model.save_pretrained(folder)
    refused(folder, "its tokenizer has 400 tokens, the model embeddings for 390")


def test_a_tokenizer_whose_targets_cannot_be_cut_off_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    across_words().save_pretrained(folder)
    refused(folder, "tokenizer .* holds the end of the prompt 'They live in'")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    refused(folder, rf"{name}: a Git LFS pointer.*git lfs pull")
