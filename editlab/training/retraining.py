"""Fine-tuning for as long as a block lasts: retraining on some facts (RTT), the attack that edits and unlearning share.

What comes back of the *other* facts tells whether knowledge had been removed or only hidden (Deeb and Roger, 2024,
arXiv 2410.08827). What is retrained, and what is scored before, along the way and after, is the business of each study:

    retrained, held_out = split(facts, share=0.5, seed=1)
    rows = completion_rows(model, [(f.rewrite_prompt, f.target_true) for f in retrained])
    with restored(model):
        finetune(model, rows, epochs=10, batch=32, lr=3e-4, seed=1, after_epoch=lambda epoch: score(model, held_out))
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editlab.errors import DataError, NumericalError
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, check_lengths, pad
from editlab.randomness import python_rng
from editlab.training.statements import Statement

Fact = TypeVar("Fact")
IGNORED = -100  # a label that cross_entropy passes over


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """One text to learn from.

    Attributes:
        ids: tokens.
        learned: for each token, whether its loss counts; that of the first never does.
    """

    ids: Sequence[int]
    learned: Sequence[bool]


def completion_rows(model: nn.Module, statements: Sequence[Statement]) -> list[TokenRow]:
    """Rows of (prompt, completion) pairs whose completions alone are learned."""
    encoder = Encoder(tokenizer_of(model))
    prompts = encoder.prompts([prompt for prompt, _ in statements])
    completions = encoder.targets([completion for _, completion in statements])
    return [TokenRow(p + c, [False] * len(p) + [True] * len(c)) for p, c in zip(prompts, completions, strict=True)]


def split(facts: Sequence[Fact], share: float, seed: int) -> tuple[list[Fact], list[Fact]]:
    """(retrained, held out): a seeded split of facts.

    Raises:
        DataError: one of the two would be empty.
    """
    count = round(share * len(facts))
    if not 0 < count < len(facts):
        raise DataError(f"rtt: {len(facts)} facts cannot be split at share {share}; give more facts")
    order = list(facts)
    python_rng("rtt", seed).shuffle(order)
    return order[:count], order[count:]


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[nn.Module]:
    """On leaving, every weight is back bit for bit, and as trainable as it was."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        yield model
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])
                parameter.requires_grad_(trainable[name])
                parameter.grad = None


def finetune(
    model: nn.Module,
    rows: Sequence[TokenRow],
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    parameters: Iterable[nn.Parameter] | None = None,
    after_epoch: Callable[[int], Any] | None = None,
) -> list[float]:
    """Fine-tune a causal language model on token rows, in a seeded order; it stays changed (see :func:`restored`).

    The mode of the model (evaluation or training) is left as it is.

    Args:
        optimizer: made as ``optimizer(parameters, lr=lr)``; ``functools.partial`` sets the rest.
        parameters: those that move; default all.
        after_epoch: called with 1, 2, ... after each epoch, e.g. to score the model.

    Returns:
        mean loss of the steps of each epoch.

    Raises:
        DataError: no row, or one in which nothing is learned.
        ModelError: a row is longer than the model's context.
        NumericalError: a loss is NaN or infinite.
    """
    if not rows or not all(any(row.learned[1:]) for row in rows):
        raise DataError("retraining: every row needs a token to learn, and there must be one row at least")
    check_lengths([row.ids for row in rows], model)
    pad_id = Encoder(tokenizer_of(model)).pad_id
    moving = list(model.parameters() if parameters is None else parameters)
    for parameter in moving:
        parameter.requires_grad_(True)
    steps, losses = optimizer(moving, lr=lr), []
    for epoch in range(epochs):
        order = list(range(len(rows)))
        python_rng("rtt order", seed, epoch).shuffle(order)
        found = []
        for start in range(0, len(order), batch):
            loss = token_loss(model, [rows[i] for i in order[start : start + batch]], pad_id)
            steps.zero_grad()
            loss.backward()
            steps.step()
            found.append(float(loss.detach()))
        losses.append(sum(found) / len(found))
        if not math.isfinite(losses[-1]):
            raise NumericalError(f"retraining: the loss of epoch {epoch + 1} is {losses[-1]}; lower lr ({lr})")
        if after_epoch is not None:
            after_epoch(epoch + 1)
    return losses


def token_loss(model: nn.Module, rows: Sequence[TokenRow], pad_id: int) -> Tensor:
    """Mean negative log-likelihood of the learned tokens of all rows; padding never counts."""
    device = next(model.parameters()).device
    ids, mask = pad([list(row.ids) for row in rows], pad_id, device)
    learned, _ = pad([list(map(int, row.learned)) for row in rows], 0, device)
    labels = ids.masked_fill(learned == 0, IGNORED)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
