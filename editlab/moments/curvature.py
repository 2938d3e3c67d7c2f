"""The curvature of a model's loss at its edited maps, collected over a text: both Kronecker factors of all layers in one pass.

The factor of the inputs is the second moment of keys (:mod:`editlab.moments.collection`), the other one that of the gradients
at the outputs. Its labels are drawn from the model's own predictions: with the text's own words the product would be the
empirical Fisher matrix, which is no curvature (K-FAC, arXiv 1503.05671, section 5; CrispEdit, 2602.15823). A token's gradient is
that of the summed loss of its row, over all positions that see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.algebra.curvature import Curvature, CurvatureSums
from editlab.algebra.second_moment import SecondMoment
from editlab.config.preparation import Statistics
from editlab.errors import NumericalError
from editlab.moments.collection import zero_sum
from editlab.moments.passes import Pass, Row
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen, output_gains
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import pad
from editlab.randomness import torch_rng


def collect_curvature(
    model: Any,
    texts: Iterable[str],
    layers: Sequence[int],
    options: Statistics | None = None,
    *,
    tokens: int | None = None,
    batch_tokens: int = 2048,
    partial: str | Path | None = None,
    save_every: int = 20,
    progress: bool = True,
) -> dict[int, Curvature]:
    """Curvature at each layer's MLP output projection. Arguments and errors are those of
    :func:`editlab.moments.collection.collect_second_moments`; a pass goes forward and backward.

    Returns:
        {layer: curvature}, float64, on the CPU.
    """
    architecture = Architecture(model)
    layers = architecture.check_layers(layers)
    shapes = {layer: architecture.weight_shape(layer) for layer in layers}
    zeros = {
        f"{layer}.{name}": zero_sum(architecture, layer, size)
        for layer, (d_out, d_in) in shapes.items()
        for name, size in (("inputs", d_in), ("gradients", d_out))
    }
    reading = Pass(options or Statistics(), tokens, batch_tokens, partial, save_every, progress)

    def products(rows: Sequence[Row], number: int) -> Mapping[str, Tensor]:
        found = curvature_sums(architecture, layers, rows, torch_rng("curvature", number))
        pairs = {k: (sums.inputs, sums.gradients) for k, sums in found.items()}
        return {f"{k}.{name}": pair[i] for k, pair in pairs.items() for i, name in enumerate(("inputs", "gradients"))}

    largest = max(d_in for _, d_in in shapes.values())
    sums, count = reading.sums("curvature", model, texts, largest, zeros, products)
    moments = {name: SecondMoment((sums.pop(name) / count).cpu(), count) for name in list(sums)}
    return {k: Curvature(moments[f"{k}.inputs"], moments[f"{k}.gradients"]) for k in layers}


def curvature_sums(
    architecture: Architecture, layers: Sequence[int], rows: Sequence[Sequence[int]], draws: torch.Generator
) -> dict[int, CurvatureSums]:
    """What the real tokens of some rows add to both factors, by layer: float32 products on the layer's device.

    Args:
        draws: of the labels, on the CPU.

    Raises:
        NumericalError: an activation or a gradient is NaN or infinite.
    """
    model: Any = architecture.model
    ids, mask = pad(rows, int(tokenizer_of(model).pad_token_id or 0), architecture.device)
    projections = {layer: architecture.projection(layer) for layer in layers}
    with frozen(model), torch.enable_grad(), capture(inputs=projections) as keys, output_gains(projections) as gains:
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = architecture.head(hidden[mask.to(hidden.device).bool()]).float()
        loss = F.cross_entropy(logits, sampled(logits.detach(), draws), reduction="sum")
        gradients = dict(zip(layers, torch.autograd.grad(loss, [gains[k] for k in layers]), strict=True))
    return {k: _summed(k, keys[k].detach(), gradients[k], mask) for k in layers}


def sampled(logits: Tensor, draws: torch.Generator) -> Tensor:
    """(n,) a token for each row of logits (n, vocabulary), drawn from their distribution; the draws are made on the CPU."""
    cumulative = logits.softmax(-1).cumsum(-1)
    chance = torch.rand(len(logits), 1, generator=draws).to(cumulative)
    found = torch.searchsorted(cumulative, chance * cumulative[:, -1:], right=True)
    return found[:, 0].clamp_max(logits.shape[-1] - 1)


def _summed(layer: int, keys: Tensor, gradients: Tensor, mask: Tensor) -> CurvatureSums:
    real = mask.to(keys.device).bool()
    inputs, outputs = keys[real].float(), gradients[real].float()
    sums = CurvatureSums((inputs.T @ inputs).double(), (outputs.T @ outputs).double(), len(inputs))
    if not (bool(sums.inputs.isfinite().all()) and bool(sums.gradients.isfinite().all())):
        raise NumericalError(f"curvature: activations or gradients of layer {layer} hold NaN or infinite values")
    return sums
