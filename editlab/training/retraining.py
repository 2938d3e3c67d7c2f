"""Retraining on some facts (RTT): fine-tune a model on the true objects of a part of the facts, for as long as a block lasts.

What comes back of the *other* facts tells whether knowledge had been removed or only hidden (Deeb and Roger, 2024,
arXiv 2410.08827). What is retrained, and what is scored before and after, is the business of each study.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editlab.data.requests import EditRequest
from editlab.errors import DataError
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, pad
from editlab.randomness import python_rng


@dataclasses.dataclass(frozen=True)
class RttOptions:
    """How much is retrained, and how.

    Attributes:
        share: of the edited facts that are retrained.
        epochs: passes over them.
        batch: facts a step.
        lr: of Adam on all weights.
        seed: of the split and of the order.
    """

    share: float = 0.5
    epochs: int = 10
    batch: int = 32
    lr: float = 3e-4
    seed: int = 0


def split(edited: Sequence[EditRequest], options: RttOptions) -> tuple[list[EditRequest], list[EditRequest]]:
    """(retrained, held out): a seeded split of the edited facts."""
    count = round(options.share * len(edited))
    if not 0 < count < len(edited):
        raise DataError(f"rtt: {len(edited)} edited facts cannot be split at share {options.share}; give more facts")
    order = list(edited)
    python_rng("rtt", options.seed).shuffle(order)
    return order[:count], order[count:]


@contextlib.contextmanager
def retrained_on(model: nn.Module, facts: Sequence[EditRequest], options: RttOptions) -> Iterator[nn.Module]:
    """The model fine-tuned on the true objects of the facts; on leaving, every weight is back bit for bit."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        _train(model, facts, options)
        yield model
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])
                parameter.requires_grad_(trainable[name])
                parameter.grad = None


def _train(model: nn.Module, facts: Sequence[EditRequest], options: RttOptions) -> None:
    encoder = Encoder(tokenizer_of(model))
    pairs = encoder.pairs([r.rewrite_prompt for r in facts], [r.target_true for r in facts])
    prompts, targets = [pair.prompt for pair in pairs], [pair.target for pair in pairs]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    for epoch in range(options.epochs):
        order = list(range(len(facts)))
        python_rng("rtt order", options.seed, epoch).shuffle(order)
        for start in range(0, len(order), options.batch):
            chosen = order[start : start + options.batch]
            loss = _loss(model, [prompts[i] for i in chosen], [targets[i] for i in chosen], encoder.pad_id)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _loss(model: nn.Module, prompts: list[list[int]], targets: list[list[int]], pad_id: int) -> Tensor:
    """Mean negative log-likelihood of the targets' tokens."""
    rows = [p + t for p, t in zip(prompts, targets, strict=True)]
    ids, mask = pad(rows, pad_id, next(model.parameters()).device)
    labels = torch.full_like(ids, -100)
    for k, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        labels[k, len(prompt) : len(row)] = ids[k, len(prompt) : len(row)]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
