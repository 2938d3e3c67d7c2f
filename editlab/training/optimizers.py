"""Optimisers by name, with a rate that rises over the first steps and is constant afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from editlab.config.unlearning import Descent


def optimizer_of(options: Descent) -> Callable[..., torch.optim.Optimizer]:
    """What :func:`editlab.training.retraining.finetune` takes: ``make(parameters, lr=lr)`` gives the optimiser.

    Lion (betas 0.9 and 0.99; Chen et al., 2023, arXiv 2302.06675), AdamW or plain SGD.
    """

    def make(parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        made = _plain(list(parameters), options, lr)
        made_steps = [0]

        def warm(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            made_steps[0] += 1
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, made_steps[0] / max(1, options.warmup))

        made.register_step_pre_hook(warm)
        return made

    return make


def _plain(parameters: list[Tensor], options: Descent, lr: float) -> torch.optim.Optimizer:
    if options.optimizer == "lion":
        from lion_pytorch import Lion

        return Lion(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=options.weight_decay)
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=options.weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=options.weight_decay, fused=True)
