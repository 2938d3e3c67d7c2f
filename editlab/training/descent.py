"""One training loop: optimiser, warm-up, guards against divergence, a look after every epoch.

Learning facts, unlearning them and retraining differ in the loss of a step alone; each hands a function to :func:`descend`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from editlab.config.unlearning import Descent

OnEpoch = Callable[[int], None]
StepLoss = Callable[[int], dict[str, Tensor]]


@dataclasses.dataclass
class Course:
    """How a training went: mean of each term by epoch, steps made, and why it ended early (None: it did not)."""

    terms: list[dict[str, float]] = dataclasses.field(default_factory=list)
    steps: int = 0
    ended: str | None = None


def make_optimizer(parameters: Iterable[Tensor], options: Descent, lr: float) -> torch.optim.Optimizer:
    """Lion (betas 0.9, 0.99; Chen et al., 2023), AdamW or plain SGD, at rate ``lr``."""
    chosen = list(parameters)
    if options.optimizer == "lion":
        from lion_pytorch import Lion

        return Lion(chosen, lr=lr, betas=(0.9, 0.99), weight_decay=options.weight_decay)
    if options.optimizer == "sgd":
        return torch.optim.SGD(chosen, lr=lr, weight_decay=options.weight_decay)
    return torch.optim.AdamW(chosen, lr=lr, weight_decay=options.weight_decay)


def descend(
    parameters: Iterable[Tensor],
    options: Descent,
    lr: float,
    steps: int,
    step_loss: StepLoss,
    *,
    on_epoch: OnEpoch | None = None,
    on_step: Callable[[int], str | None] | None = None,
    guard: Callable[[dict[str, float]], str | None] | None = None,
) -> Course:
    """``options.epochs`` times ``steps`` updates; the rate rises over the warm-up and is constant afterwards.

    Args:
        parameters: what moves; nothing else keeps a gradient.
        step_loss: the terms of step i (0, 1, ...); the sum of them is descended.
        on_epoch: called with 0 before the first step and with the epoch after each; not after an early end.
        on_step: called after a step with the number of steps made; a text ends the training for that reason.
        guard: looks at the terms of a step; a text ends the training, before the update, for that reason.

    Returns:
        the course. A term that is not finite always ends it, before the update: weights stay finite.
    """
    chosen = [p for p in parameters if p.requires_grad]
    optimizer = make_optimizer(chosen, options, lr)
    course = Course()
    if on_epoch:
        on_epoch(0)
    for epoch in range(1, options.epochs + 1):
        sums: dict[str, float] = {}
        for _ in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (course.steps + 1) / max(1, options.warmup))
            terms = step_loss(course.steps)
            values = {name: float(term.detach()) for name, term in terms.items()}
            course.ended = not_finite(values) or (guard(values) if guard else None)
            if course.ended:
                return course
            optimizer.zero_grad(set_to_none=True)
            sum(terms.values(), start=torch.zeros(())).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            course.steps += 1
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            course.ended = on_step(course.steps) if on_step else None
            if course.ended:
                return course
        course.terms.append({name: total / max(1, steps) for name, total in sums.items()})
        if on_epoch:
            on_epoch(epoch)
    return course


def not_finite(values: dict[str, float]) -> str | None:
    """Which term is NaN or infinite, if one is."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    return f"{broken[0]} is not finite" if broken else None


def snapshot(parameters: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of the values."""
    return {name: p.detach().clone() for name, p in parameters.items()}


@torch.no_grad()
def restore(parameters: dict[str, Any], values: dict[str, Tensor]) -> None:
    """Put copies back, bit for bit."""
    for name, value in values.items():
        parameters[name].copy_(value)
