"""Objectives of unlearning: what a step descends, whichever parameters move.

An objective gives two terms, one of a batch to forget and one of a batch to retain; the caller adds them with the retain
coefficient. ``reference`` is the model before unlearning: the same network with the moved parameters put back
(:meth:`Trainable.as_before`), so no second copy is held. The retain term always sees true texts.

A new objective is a function here with a line in :data:`OBJECTIVES`, its options in :mod:`editlab.config.unlearning`, a recipe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from editlab.config import unlearning as config
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, run
from editlab.randomness import torch_rng
from editlab.training import losses
from editlab.training.batches import Batch
from editlab.training.parametrisation import Trainable


@dataclasses.dataclass
class Context:
    """What an objective may look at.

    Attributes:
        options: its section.
        trainable: the model, its parameters that move, and what they were.
        averaging: ``masked`` or ``included``, see :mod:`editlab.training.losses`.
        control: RMU's control vector ``(d,)`` and the layer that it steers, made by :func:`prepare`.
    """

    options: Any
    trainable: Trainable
    averaging: losses.Averaging = "masked"
    control: Tensor | None = None
    layer: int = 0

    def logits(self, batch: Batch) -> Tensor:
        return self.trainable.model(**batch.inputs).logits

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of a batch."""
        return losses.token_loss(self.logits(batch), batch.ids, batch.learned, self.averaging)

    def activations(self, batch: Batch) -> Tensor:
        """Output of the steered block ``(n, T, d)``; what is above it does not run."""
        block = _architecture(self.trainable).block(self.layer)
        with capture(outputs={"block": block}, stop_after=block) as found:
            run(self.trainable.model, **batch.inputs)
        return found["block"]


Terms = tuple[Tensor, Tensor]
Objective = Callable[[Context, Batch, Batch], Terms]


def _architecture(trainable: Trainable) -> Architecture:
    model: Any = trainable.model
    return Architecture(model.base_model.model if trainable.is_lora else model)


def steered_layer(options: config.Steering, layers: int) -> int:
    """RMU's layer: as configured, or 7/32 of the depth, at least 2 (layer 7 of 32 in the published recipe)."""
    return min(layers - 1, max(2, round(7 / 32 * layers)) if options.layer is None else options.layer)


def gradient_difference(context: Context, forget: Batch, retain: Batch) -> Terms:
    """``-CE(forget)``, clipped if asked for; ``CE(retain)``."""
    loss = context.loss(forget)
    if context.options.clip is not None:
        vocabulary = context.trainable.model.config.vocab_size  # type: ignore[union-attr]
        loss = loss.clamp(max=context.options.clip * math.log(vocabulary))  # type: ignore[arg-type]
    return -loss, context.loss(retain)


def wrong_answers(context: Context, forget: Batch, retain: Batch) -> Terms:
    """``CE`` of texts with wrong answers (WHP: another each time, FWF: always the same); ``CE(retain)``."""
    return context.loss(forget), context.loss(retain)


def grad_diff(context: Context, forget: Batch, retain: Batch) -> Terms:
    """``-gamma NLL(forget)``; the likelihood of retain texts, or their divergence from the model before."""
    away = -context.options.gamma * context.loss(forget)
    if context.options.retain_loss == "nll":
        return away, context.loss(retain)
    with context.trainable.as_before():
        reference = context.logits(retain)
    divergence = losses.token_kl(reference[:, :-1], context.logits(retain)[:, :-1])
    return away, losses.average(divergence, retain.learned[:, 1:], context.averaging)


def negative_preference(context: Context, forget: Batch, retain: Batch) -> Terms:
    """``gamma`` times NPO, the likelihoods summed over a text; ``CE(retain)``."""
    with context.trainable.as_before():
        reference = losses.row_nll(context.logits(forget), forget.ids, forget.learned)
    nll = losses.row_nll(context.logits(forget), forget.ids, forget.learned)
    return context.options.gamma * losses.npo(nll, reference, context.options.beta), context.loss(retain)


def simple_preference(context: Context, forget: Batch, retain: Batch) -> Terms:
    """``gamma`` times SimNPO; ``CE(retain)``."""
    nll = losses.row_nll(context.logits(forget), forget.ids, forget.learned)
    tokens = forget.learned[:, 1:].sum(1)
    away = losses.simnpo(nll, tokens, context.options.beta, context.options.delta)
    return context.options.gamma * away, context.loss(retain)


def steering(context: Context, forget: Batch, retain: Batch) -> Terms:
    """``MSE(h(forget), c u)``; ``MSE(h(retain), h_before(retain))`` at the steered layer."""
    assert context.control is not None
    with context.trainable.as_before():
        before = context.activations(retain)
    moved = context.activations(forget)
    target = context.control.to(moved).expand_as(moved)
    return (
        losses.squared_error(moved, target, forget.mask, context.averaging),
        losses.squared_error(context.activations(retain), before, retain.mask, context.averaging),
    )


OBJECTIVES: dict[str, Objective] = {
    "gd": gradient_difference,
    "whp": wrong_answers,
    "fwf": wrong_answers,
    "rmu": steering,
    "graddiff": grad_diff,
    "npo": negative_preference,
    "simnpo": simple_preference,
}
"""By the name of the options; RepSelect takes no steps of this kind (:mod:`editlab.training.repselect`)."""

FORMS = {"whp": "whp", "fwf": "fwf"}
"""Which texts an objective forgets on; the others on true ones."""

REPELLING = ("gd", "graddiff")
"""Objectives without a lower bound: they need the guard against divergence."""


def prepare(options: Any, trainable: Trainable, averaging: losses.Averaging, seed: int, sample: Batch) -> Context:
    """The context of an objective; for RMU with its control vector.

    Args:
        sample: texts to forget, on which the mean activation norm is measured (``relative``).
    """
    context = Context(options, trainable, averaging)
    if isinstance(options, config.Steering):
        context.layer = steered_layer(options, _architecture(trainable).num_layers)
        with torch.no_grad():
            states = context.activations(sample)
            scale = float(states[sample.mask].norm(dim=-1).mean()) if options.relative else 1.0
        generator = torch_rng("steering", seed)
        context.control = options.steering * scale * losses.steering_vector(states.shape[-1], generator)
    return context
