"""Fine-tuning breadth first: epochs over all facts at once, off the directions in which the loss on text is steep.

Trained to convergence one after another, facts undo each other; in ordinary epochs over all of them they do not (LocFT-BF,
arXiv 2509.22072). What the model says about everything else is held by the curvature of its loss at the edited maps, K-FAC's
``A (x) B`` (:mod:`editlab.algebra.curvature`): the gradient loses its part along the steep directions, and so does the step that
Adam makes of it, since a projected gradient divided entry by entry leaves the subspace again (CrispEdit, 2602.15823, projects
the gradient alone). With an energy of 0 nothing is removed: plain Adam.

In a stream a batch is trained on together with the replayed facts, from where the maps stand and with an optimiser of its own;
afterwards its facts' tokens join both factors, so that later steps stay off them too (CrispEdit-Seq).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editlab.algebra.curvature import Steep
from editlab.config.finetuning import FineTuningInEpochs
from editlab.data.requests import EditRequest
from editlab.editing.answer_batch import AnswerBatch
from editlab.editing.events import Event, LayerEvent
from editlab.editing.finetune import proposed, trained
from editlab.editing.proposal import Columns, Proposal
from editlab.editing.proposer import Proposer
from editlab.editing.replay import ReplayItem
from editlab.errors import NumericalError
from editlab.moments.curvature import curvature_sums
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.randomness import derive_seed, python_rng, torch_rng

logger = logging.getLogger(__name__)

TOKENS_AT_ONCE = 2048
"""Tokens of edited facts (with padding) in one pass forward and backward."""
STALE = 0.25
"""Relative change of a map above which CrispEdit collects its statistics anew; here a line is logged."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the epochs found.

    Attributes:
        deltas: by layer, the change of the map ``(d_out, d_in)`` float64.
        loss: mean over the facts in the last epoch.
        epochs: how many there were.
        rows: by request, the token ids that the model was fed.
    """

    deltas: dict[int, Tensor]
    loss: float
    epochs: int
    rows: list[list[int]]


def finetune_in_epochs(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    options: FineTuningInEpochs,
    weights: Tensor | None = None,
    steep: Mapping[int, Steep] | None = None,
    seed: int = 0,
) -> Trained:
    """Train the edited maps on the requests; the model is left as it was.

    Args:
        weights: ``(n,)`` of the requests in the loss; those of weight 0 are left out.
        steep: by layer, what its steps stay off.
        seed: of the order of the facts in every epoch.

    Raises:
        NumericalError: the loss is not finite any more.
        ConfigError: a stop token is asked for, and the tokenizer has none.
    """
    architecture = Architecture(model)
    with frozen(model):
        batch = AnswerBatch.of(architecture, requests, min(layers), weights, stop_token=options.stop_token)
        facts = [i for i in range(len(requests)) if float(batch.weights[i]) > 0]
        with trained(architecture, layers) as (originals, parameters):
            maps = _Maps(architecture, torch.optim.Adam(parameters, lr=options.lr), steep or {})
            epochs, mean = 0, math.inf
            while epochs < options.epochs and not mean < options.stop_loss:
                order = list(facts)
                python_rng("epoch", seed, epochs).shuffle(order)
                mean = _epoch(maps, batch, order, options, skip=epochs > 0)
                epochs += 1
            deltas = {k: architecture.weight(k).double() - w.double() for k, w in originals.items()}
    return Trained(deltas, mean, epochs, batch.rows)


def _epoch(maps: _Maps, batch: AnswerBatch, order: Sequence[int], options: FineTuningInEpochs, *, skip: bool) -> float:
    """One step a mini-batch, none where ``skip`` and its loss is below that of the options; the mean loss over the facts.

    A mini-batch counts as much as its facts weigh against the mean of all.
    """
    total, usual = 0.0, batch.weights[list(order)].mean()
    for start in range(0, len(order), options.mini_batch):
        chosen = order[start : start + options.mini_batch]
        loss = batch.select(chosen).loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericalError("fine-tuning diverged: the loss is NaN or infinite")
        total += value * len(chosen)
        if not (skip and value < options.stop_loss):
            maps.step(loss * float(batch.weights[chosen].mean() / usual))
    return total / len(order)


@dataclasses.dataclass(frozen=True)
class _Maps:
    """The maps in training, their optimiser and what their steps stay off."""

    architecture: Architecture
    optimizer: torch.optim.Optimizer
    steep: Mapping[int, Steep]

    def step(self, loss: Tensor) -> None:
        """One step down the loss; both gradient and step lose their part along the steep directions."""
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for layer, steep in self.steep.items():
                gradient = self._gradient(layer)
                gradient.copy_(steep.off(gradient))
            before = {layer: self.architecture.weight(layer).clone() for layer in self.steep}
            self.optimizer.step()
            for layer, steep in self.steep.items():
                weight = self.architecture.weight(layer)
                weight.copy_(before[layer] + steep.off(weight - before[layer]))

    def _gradient(self, layer: int) -> Tensor:
        """``(d_out, d_in)``: a view on what the parameter has."""
        gradient = self.architecture.projection(layer).weight.grad
        assert isinstance(gradient, Tensor)
        return gradient.T if self.architecture.is_transposed(layer) else gradient


def propose_in_epochs(
    proposer: Proposer, requests: list[EditRequest], replayed: list[ReplayItem], event: Event
) -> Proposal:
    """The update of a batch on the maps; replayed facts are trained on too.

    Raises:
        NumericalError: the training diverged.
    """
    recipe, everyone = proposer.recipe, requests + [item.request for item in replayed]
    assert isinstance(recipe, FineTuningInEpochs)
    steep = _steep(proposer, recipe)
    weights = proposer.column_weights(len(requests), len(replayed))
    seed = derive_seed("epochs", proposer.seed, event.batch)
    found = finetune_in_epochs(proposer.model, everyone, proposer.layers, recipe, weights, steep, seed)
    columns = Columns(everyone, None, None, len(requests), [found.loss] * len(requests))
    proposal = proposed(proposer, columns, found.deltas, event)
    event.passes, moved = found.epochs, _moved(proposer)
    assert event.layers is not None
    for layer, entry in event.layers.items():
        shares = {"steep_share": steep[int(layer)].share} if steep else {}
        event.layers[layer] = LayerEvent(**{**entry.record(), **shares, "moved": moved[int(layer)]})
    if recipe.reads_curvature:
        _warn_stale(event.batch, moved)
        _remember(proposer, found.rows[: len(requests)], event.batch)
    return proposal


def _steep(proposer: Proposer, recipe: FineTuningInEpochs) -> dict[int, Steep]:
    """By layer, what steps stay off: of the text and of the facts of earlier batches."""
    found: dict[int, Steep] = {}
    for layer, curvature in proposer.curvature.items():
        sums = proposer.facts_curvature.get(layer)
        whole = curvature if sums is None else curvature.joined(sums, recipe.fact_weight)
        steep = whole.steep(recipe.energy, proposer.weights[layer].dtype)
        found |= {} if steep is None else {layer: steep}
    return found


def _remember(proposer: Proposer, rows: Sequence[Sequence[int]], batch: int) -> None:
    """The facts of a batch, on the edited model, join the curvature that later ones see."""
    recipe = proposer.recipe
    assert isinstance(recipe, FineTuningInEpochs)
    if not recipe.fact_weight:
        return
    draws = torch_rng("curvature of facts", proposer.seed, batch)
    architecture, step = Architecture(proposer.model), max(1, TOKENS_AT_ONCE // max(map(len, rows)))
    for start in range(0, len(rows), step):
        added = curvature_sums(architecture, proposer.layers, rows[start : start + step], draws)
        for layer, sums in added.items():
            earlier = proposer.facts_curvature.get(layer)
            proposer.facts_curvature[layer] = sums if earlier is None else earlier + sums


def _moved(proposer: Proposer) -> dict[int, float]:
    """By layer, |W - W before the stream| / |W before the stream|."""
    originals = proposer.originals
    return {k: float((w - originals[k]).norm() / originals[k].norm()) for k, w in proposer.weights.items()}


def _warn_stale(batch: int, moved: Mapping[int, float]) -> None:
    for layer, share in moved.items():
        if share > STALE:
            logger.info(
                "ft_epochs: batch %d: layer %d has moved by %.0f %%; its curvature is that of the model before the stream",
                batch,
                layer,
                100 * share,
            )
