"""The vision transformer's adapter: both layouts, tensors or tuples, saved and adapted without silent random weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from editlab.algebra.linalg import Factors
from editlab.config.images import ScratchViT
from editlab.edits.edit import Edit
from editlab.errors import ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.vision import Classifier, adapt_pretrained, load_classifier, make_classifier

SMALL = ScratchViT(source="scratch", image_size=8, patch=4, width=16, layers=2, heads=2, inner=24)
PIXELS = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class FormerLayer(nn.Module):
    """A block as earlier versions of transformers laid it out; returns a tuple."""

    def __init__(self, new: nn.Module) -> None:
        super().__init__()
        self.before, self.after, self.inner = new.layernorm_before, new.layernorm_after, new.attention
        self.attention = nn.Module()
        self.attention.output = nn.Module()
        self.attention.output.dense = new.attention.o_proj
        self.intermediate = new.mlp.fc1
        self.output = nn.Module()
        self.output.dense = new.mlp.fc2

    def forward(self, hidden, *_):
        hidden = hidden + self.inner(self.before(hidden))[0]
        return (hidden + self.output.dense(nn.functional.gelu(self.intermediate(self.after(hidden)))),)


def former(classifier: Classifier) -> Classifier:
    """The same weights in the earlier layout."""
    new, model = classifier.model, nn.Module()
    model.config = new.config
    model.vit = nn.Module()
    model.vit.embeddings, model.vit.layernorm = new.vit.embeddings, new.vit.layernorm
    model.vit.encoder = SimpleModule(nn.ModuleList(FormerLayer(block) for block in new.vit.layers))
    model.classifier = new.classifier
    return Classifier(model)


class SimpleModule(nn.Module):
    def __init__(self, layer: nn.ModuleList) -> None:
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize("layout", [lambda c: c, former], ids=["layers", "encoder.layer"])
def test_the_adapter_computes_what_the_model_computes(layout):
    made = make_classifier(SMALL, ["a", "b", "c"], 1)
    with torch.no_grad():
        expected = made.model(pixel_values=PIXELS).logits
        found = layout(made)
        assert torch.allclose(found(PIXELS), expected, atol=1e-6)
        middle = found.through(found.embed(PIXELS), 0, 1)
        assert torch.allclose(found.logits(found.through(middle, 1)), expected, atol=1e-6)
    assert found.architecture.weight_shape(1) == (16, 24)
    assert found.patch_embeddings(PIXELS).shape == (2, 4, 16)


@pytest.mark.parametrize("layout", [lambda c: c, former], ids=["layers", "encoder.layer"])
@pytest.mark.parametrize(("site", "shape"), [(0, (16, 24)), (2, (3, 16)), (3, (3, 1))])
def test_edits_reach_blocks_head_and_bias_and_come_off_bit_exact(layout, site, shape):
    found = layout(make_classifier(SMALL, ["a", "b", "c"], 1))
    before = found.architecture.weight(site).clone()
    assert before.shape == shape
    # Not ones along the row: what a layer norm gives the head has a mean of zero.
    left, right = (torch.linspace(-1, 2, n).double() for n in shape)
    edit = Edit({site: Factors(left[:, None], right[None, :])})
    with torch.no_grad():
        clean = found(PIXELS)
        with edit.applied(found.model):
            assert torch.allclose(found.architecture.weight(site), before + torch.outer(left, right).float())
            assert not torch.allclose(found(PIXELS), clean)
        assert torch.equal(found(PIXELS), clean)
    assert torch.equal(found.architecture.weight(site), before)


def test_an_edit_of_a_map_that_is_not_there_is_refused():
    found = make_classifier(SMALL, ["a", "b"], 1)
    edit = Edit({4: Factors.zeros(2, 1)})
    with pytest.raises(ModelError, match=r"0\.\.3"), edit.applied(found.model):
        pass
    with pytest.raises(ModelError, match="bias"):
        Architecture(found.model).projection_name(3)


def test_an_edit_is_a_peft_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    found = make_classifier(SMALL, ["a", "b", "c"], 1)
    generator = torch.Generator().manual_seed(0)
    parts = {k: Factors(*(torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((o, 2), (2, i))))
             for k, (o, i) in {0: (16, 24), 2: (3, 16)}.items()}  # fmt: skip
    edit = Edit(parts)
    edit.to_peft(tmp_path, found.model)
    with torch.no_grad(), edit.applied(found.model):
        expected = found(PIXELS)
    adapted = peft.PeftModel.from_pretrained(found.model, tmp_path)
    with torch.no_grad():
        assert torch.allclose(adapted(pixel_values=PIXELS).logits, expected, atol=1e-4)


def test_seeds_alone_decide_the_weights():
    one, same, other = (make_classifier(SMALL, ["a", "b"], s).model.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_only_the_head_is_made_anew(tmp_path):
    made = make_classifier(SMALL, ["a", "b"], 1)
    made.model.save_pretrained(tmp_path)
    three = adapt_pretrained(tmp_path, ["x", "y", "z"], 1)
    assert three.classes == 3
    before, after = made.model.state_dict(), three.model.state_dict()
    changed = {k for k in after if before[k].shape != after[k].shape or not torch.equal(before[k], after[k])}
    assert changed <= {"classifier.weight", "classifier.bias"}
    again = adapt_pretrained(tmp_path, ["x", "y", "z"], 1).model.state_dict()
    assert torch.equal(again["classifier.weight"], after["classifier.weight"])
    two = adapt_pretrained(tmp_path, ["x", "y"], 1).model.state_dict()
    assert not torch.equal(two["classifier.weight"], before["classifier.weight"])
    assert load_classifier(tmp_path).classes == 2


def test_positions_that_would_be_random_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    make_classifier(SMALL, ["a", "b"], 1).model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["vit.embeddings.position_embeddings"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="position_embeddings is missing"):
        adapt_pretrained(tmp_path, ["x", "y", "z"], 1)
    with pytest.raises(ModelError, match="position_embeddings is missing"):
        load_classifier(tmp_path)
    tensors["vit.embeddings.position_embeddings"] = torch.zeros(1, 17, 16)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="position_embeddings"):
        adapt_pretrained(tmp_path, ["x", "y", "z"], 1)


def test_normalisation_of_a_pretrained_model_travels_with_it(tmp_path):
    make_classifier(SMALL, ["a", "b"], 1).model.save_pretrained(tmp_path / "hub")
    file = tmp_path / "hub" / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}))
    adapted = adapt_pretrained(tmp_path / "hub", ["x", "y", "z"], 1)
    adapted.model.save_pretrained(tmp_path / "trained")
    assert load_classifier(tmp_path / "trained").mean == [0.4, 0.4, 0.4]
    assert load_classifier(tmp_path / "trained").deviation == [0.2, 0.2, 0.2]
    file.write_text(json.dumps({"image_mean": [0.4], "image_std": [0.2, 0.2, 0.2]}))
    with pytest.raises(ModelError, match="three numbers"):
        adapt_pretrained(tmp_path / "hub", ["x", "y", "z"], 1)


def test_odd_sizes_are_refused():
    config = ViTConfig(
        image_size=8, patch_size=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(ModelError, match="not a multiple"):
        Classifier(ViTForImageClassification(config))
    pair = ViTConfig(image_size=(8, 4), patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = SimpleNamespace(config=pair)
    from editlab.networks.vision import _whole

    with pytest.raises(ModelError, match="square"):
        _whole(model.config.image_size, "image_size")
