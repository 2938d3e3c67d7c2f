"""Second moments of keys: what the input of an edited map looks like over ordinary text.

ROME, MEMIT and their kin weigh an update by ``C = E[k k^T]`` (d_in, d_in), the uncentred second moment of the input of
a layer's MLP output projection over the tokens of a corpus: directions that text uses often are expensive to change
(Meng et al., 2022, arXiv 2202.05262, eq. 2; 2210.07229, section 4.2). The estimate streams: each batch adds ``K^T K``
of its tokens (float32 product, float64 sum on the device of the layer), for all layers in one pass that stops after the highest.
Every token of a text counts, special tokens included, as in MEMIT's published statistics; padding never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.second_moment import SecondMoment
from editlab.config.preparation import Statistics
from editlab.errors import NumericalError
from editlab.moments.passes import Pass, Row
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, run
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import pad


def collect_second_moments(
    model: Any,
    texts: Iterable[str],
    layers: Sequence[int],
    options: Statistics | None = None,
    *,
    tokens: int | None = None,
    batch_tokens: int = 4096,
    partial: str | Path | None = None,
    save_every: int = 20,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Second moment of the input of each layer's MLP output projection, all layers in one pass.

    Args:
        model: causal language model with its tokenizer as ``model.tokenizer``.
        texts: corpus, read in order until the budget is spent; a text longer than ``options.max_length`` tokens (at most
            the model's context) is cut into windows of that length.
        options: its budget is ``tokens_per_dimension`` times the largest d_in: with fewer tokens than d_in, ``C`` is
            singular. A shorter corpus is used whole; ``count`` of the result says how many tokens there were. With
            ``samples`` the budget is so many texts, the first window of each, as published.
        tokens: exact token budget in place of that.
        batch_tokens: tokens (with padding) a forward pass.
        partial: file to which the sums go every ``save_every`` batches and from which an interrupted run of the same
            model, texts and settings continues; another run's file is ignored. The caller removes it at the end.

    Returns:
        {layer: second moment (d_in, d_in), float64, on the CPU}, not factored.

    Raises:
        ModelError: no tokenizer or a layer out of range.
        ConfigError: a budget is not positive.
        DataError: the texts hold no token.
        NumericalError: an activation is NaN or infinite.
    """
    architecture = Architecture(model)
    layers = architecture.check_layers(layers)
    sizes = {layer: architecture.weight_shape(layer)[1] for layer in layers}
    zeros = {str(k): zero_sum(architecture, k, d_in) for k, d_in in sizes.items()}
    reading = Pass(options or Statistics(), tokens, batch_tokens, partial, save_every, progress)

    def products(rows: Sequence[Row], _number: int) -> Mapping[str, Tensor]:
        return {str(layer): product for layer, product in _products(architecture, layers, rows).items()}

    sums, count = reading.sums("second moments", model, texts, max(sizes.values()), zeros, products)
    return {layer: SecondMoment((sums.pop(str(layer)) / count).cpu(), count) for layer in layers}


def zero_sum(architecture: Architecture, layer: int, size: int) -> Tensor:
    """(size, size) float64 zeros on the device of a layer."""
    return torch.zeros(size, size, dtype=torch.float64, device=architecture.weight(layer).device)


def _products(architecture: Architecture, layers: Sequence[int], rows: Sequence[Row]) -> dict[int, Tensor]:
    """``K^T K`` (d_in, d_in) over the real tokens of one batch, by layer: a float32 product on the layer's device."""
    tokenizer = tokenizer_of(architecture.model)
    ids, mask = pad(rows, int(tokenizer.pad_token_id or 0), architecture.device)
    projections = {layer: architecture.projection(layer) for layer in layers}
    with torch.no_grad(), capture(inputs=projections, stop_after=projections[layers[-1]]) as captured:
        run(architecture.model, input_ids=ids, attention_mask=mask, use_cache=False)
    products = {}
    for layer in layers:
        keys = captured.pop(layer)
        keys = keys[mask.to(keys.device).bool()].float()
        products[layer] = keys.T @ keys
        if not bool(products[layer].isfinite().all()):
            raise NumericalError(f"statistics: the activations of layer {layer} hold NaN or infinite values")
    return products


def mix_keys(groups: Sequence[Tensor]) -> Tensor:
    """Groups of keys, each (d_in, n_g), as one matrix whose ``K K^T`` is the mean of their second moments.

    A site that is edited (the classification token, a subject's last token) is one key among hundreds of a text or an image;
    counted like all others it would be diluted. In a mixture every group has the same weight, whatever its size.
    """
    return torch.cat([group.double() / (len(groups) * group.shape[1]) ** 0.5 for group in groups], dim=1)
