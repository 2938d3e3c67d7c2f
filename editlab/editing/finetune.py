"""Constrained fine-tuning of the edited maps (FT, FT-L), the baseline of ROME's Table 4.

Adam on the mean NLL of the new objects, over the same weight that the closed forms edit. With ``norm_constraint`` every
entry stays within that distance of its old value (FT-L, arXiv 2012.00363). Blocks below the lowest edited layer never
change, so their output is computed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.config.finetuning import FineTuning
from editlab.data.requests import EditRequest
from editlab.editing.answer_batch import AnswerBatch
from editlab.editing.events import Event, LayerEvent
from editlab.editing.proposal import Columns, Proposal
from editlab.editing.proposer import Proposer
from editlab.editing.replay import ReplayItem
from editlab.editing.snapshot import put_back
from editlab.errors import NumericalError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen


def propose_by_finetuning(
    proposer: Proposer, requests: list[EditRequest], replayed: list[ReplayItem], event: Event
) -> Proposal:
    """The update of a batch on the maps; replayed facts are trained on too.

    Raises:
        NumericalError: the fine-tuning diverged.
    """
    recipe, everyone = proposer.recipe, requests + [item.request for item in replayed]
    assert isinstance(recipe, FineTuning)
    weights = proposer.column_weights(len(requests), len(replayed))
    deltas, loss = finetune(proposer.model, everyone, proposer.layers, recipe, weights)
    return proposed(proposer, Columns(everyone, None, None, len(requests), [loss] * len(requests)), deltas, event)


def proposed(proposer: Proposer, columns: Columns, deltas: dict[int, Tensor], event: Event) -> Proposal:
    """The changes that a fine-tuning found, put on the maps.

    Args:
        columns: with the last loss as that of every new fact.

    Raises:
        NumericalError: the fine-tuning diverged.
    """
    if not all(bool(d.isfinite().all()) for d in deltas.values()):
        raise NumericalError("fine-tuning diverged: the update holds NaN or infinite values")
    proposal = Proposal(columns)
    for layer, delta in deltas.items():
        proposer.put(proposal, layer, Factors.from_dense(delta))
    event.loss = columns.losses[0]
    event.layers = {str(k): LayerEvent(update_norm=float(d.norm())) for k, d in deltas.items()}
    return proposal


def finetune(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    options: FineTuning,
    column_weights: Tensor | None = None,
) -> tuple[dict[int, Tensor], float]:
    """Fine-tune the edited maps on the requests.

    Args:
        column_weights: ``(n,)`` weight of each request in the loss.

    Returns:
        by layer, the change of the weight ``(d_out, d_in)`` float64; and the last loss. The model is left as it was.
    """
    architecture = Architecture(model)
    with frozen(model):
        batch = AnswerBatch.of(architecture, requests, min(layers), column_weights)
        with trained(architecture, layers) as (originals, parameters):
            optimizer = torch.optim.Adam(parameters, lr=options.lr)
            value = float("nan")
            for _ in range(options.steps):
                loss = batch.loss()
                value = float(loss.detach())
                if value < options.stop_loss:
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if options.norm_constraint is not None:
                    _project(architecture, originals, options.norm_constraint)
            deltas = {k: architecture.weight(k).double() - w.double() for k, w in originals.items()}
    return deltas, value


@contextlib.contextmanager
def trained(
    architecture: Architecture, layers: Sequence[int]
) -> Iterator[tuple[dict[int, Tensor], list[torch.nn.Parameter]]]:
    """For the length of the block, the edited maps of a frozen model take gradients; leaving it puts them back bit for bit.

    Yields:
        by layer, the map as it was ``(d_out, d_in)``; and the parameters, layer after layer.
    """
    originals = {layer: architecture.weight(layer).clone() for layer in layers}
    parameters: list[Any] = [architecture.projection(layer).weight for layer in layers]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield originals, parameters
    finally:
        put_back({layer: architecture.weight(layer) for layer in layers}, originals)
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def _project(architecture: Architecture, originals: dict[int, Tensor], radius: float) -> None:
    with torch.no_grad():
        for layer, old in originals.items():
            weight = architecture.weight(layer)
            weight.copy_(torch.minimum(torch.maximum(weight, old - radius), old + radius))
