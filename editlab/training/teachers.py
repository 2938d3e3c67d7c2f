"""Train LoRA adapters of one frozen model, several side by side through the batched functional LoRA.

The loss is the sum over the adapters of each one's mean loss, and AdamW works entry by entry, so an adapter comes out as it
would alone. All of a pool start from one shared A_0 (or each from its own) and B = 0.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from editlab.config.adapters import Teachers
from editlab.networks.answers import Pair, answer_loss, encode
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.lora import adapted, map_shapes
from editlab.randomness import python_rng, torch_rng
from editlab.training.schedule import trapezoid

Draw = Callable[[random.Random], list[Pair]]
"""The examples of one step of one adapter."""


def first_factors(model: nn.Module, rank: int, *coordinates: object) -> dict[str, Tensor]:
    """A_0 (r, d_in) of every map, uniform as PEFT draws it (Kaiming with a = sqrt 5: within 1 / sqrt(d_in))."""
    generator = torch_rng("adapters", "A_0", *coordinates)
    return {
        name: (2 * torch.rand(rank, d_in, generator=generator) - 1) / d_in**0.5
        for name, (_, d_in) in map_shapes(model).items()
    }


def train_together(
    model: nn.Module,
    draws: Sequence[Draw],
    starts: Sequence[Mapping[str, Tensor]],
    seeds: Sequence[Sequence[object]],
    options: Teachers,
    *,
    steps: int | None = None,
    end: bool = False,
) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Adapters by module name, B (d_out, r) with the scale ``alpha / r`` folded in and A (r, d_in), one for each of ``draws``.

    Args:
        draws: the examples of a step of each adapter; equally many for all.
        starts: A_0 of each.
        seeds: coordinates of each one's stream of examples.
        steps: default ``options.steps``.
        end: answers are closed by the end token.
    """
    device, shapes = Architecture(model).device, map_shapes(model)
    right = {k: torch.stack([s[k] for s in starts]).to(device).requires_grad_() for k in starts[0]}
    left = {
        k: torch.zeros(len(starts), shapes[k][0], a.shape[1], device=device, requires_grad=True)
        for k, a in right.items()
    }
    scale, count = options.alpha / options.rank, steps or options.steps
    optimizer = torch.optim.AdamW([*right.values(), *left.values()], options.lr, weight_decay=0.0)
    rngs = [python_rng("adapters", "teacher", *seed) for seed in seeds]
    with frozen(model):
        for step in range(count):
            factor = trapezoid(step, count, options.warmup, options.decay)
            optimizer.param_groups[0]["lr"] = options.lr * factor
            batch = encode(
                tokenizer_of(model), [pair for d, rng in zip(draws, rngs, strict=True) for pair in d(rng)], end=end
            )
            with adapted(model, {k: (scale * left[k], right[k]) for k in right}):
                loss = answer_loss(model, batch).reshape(len(draws), -1).mean(dim=1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [
        {k: ((scale * left[k][i]).detach().cpu(), right[k][i].detach().cpu()) for k in right} for i in range(len(draws))
    ]
