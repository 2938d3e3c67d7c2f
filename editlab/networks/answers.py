"""Prompts and their answers as batches: teacher-forced logits, greedy answers, and hidden states where the answer is formed.

Prompts are padded on the left and answers on the right, so that every answer starts in the same column. Positions count
real tokens alone: padding changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editlab.errors import DataError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture

Pair = tuple[str, str]
"""A prompt and its answer."""
IGNORED = -100
"""Label of padding, as torch's cross-entropy knows it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Rows of prompts with answers.

    Attributes:
        prompts: (rows, P) token ids, padded on the left.
        real: (rows, P) True where a prompt has a token; None where no prompt is padded.
        answers: (rows, Q) token ids, padded on the right with :data:`IGNORED`.
    """

    prompts: Tensor
    real: Tensor | None
    answers: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(self.prompts[rows], None if self.real is None else self.real[rows], self.answers[rows])

    def with_answers(self, answers: Tensor) -> Batch:
        """The same prompts with other answers."""
        return Batch(self.prompts, self.real, answers)


def encode(tokenizer: Any, pairs: Sequence[Pair], *, end: bool = False) -> Batch:
    """Token ids of prompts and answers.

    Args:
        end: close each answer with the end token.

    Raises:
        DataError: no pairs, or a prompt or answer without a token.
    """
    if not pairs:
        raise DataError("no examples to encode; one or more are needed")
    prompts = tokenizer([p for p, _ in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer([a for _, a in pairs], add_special_tokens=False)["input_ids"]
    for (prompt, answer), *ids in zip(pairs, prompts, answers, strict=True):
        if not all(ids):
            raise DataError(f"example {prompt[:40]!r} -> {answer[:40]!r}: prompt and answer must hold a token each")
    if end:
        answers = [[*ids, tokenizer.eos_token_id] for ids in answers]
    width = max(map(len, prompts))
    length = max(map(len, answers))
    filled = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompts])
    real = torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in prompts])
    labels = torch.tensor([ids + [IGNORED] * (length - len(ids)) for ids in answers])
    return Batch(filled, None if bool(real.all()) else real, labels)


def _inputs(model: Any, batch: Batch, follow: Tensor) -> dict[str, Any]:
    """What the model is called with for the prompts and the columns ``follow`` behind them, on its device."""
    device = Architecture(model).device
    ids = torch.cat([batch.prompts, follow.clamp(min=0)], dim=1).to(device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if batch.real is not None:
        mask = torch.cat([batch.real, torch.ones_like(follow, dtype=torch.bool)], dim=1).long().to(device)
        inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    return inputs


def answer_logits(model: Any, batch: Batch) -> Tensor:
    """Logits (rows, Q, vocabulary) of each answer token, given the prompt and the answer before it."""
    inputs = _inputs(model, batch, batch.answers[:, :-1])
    return model(**inputs, logits_to_keep=batch.answers.shape[1]).logits


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of each row (rows,), averaged over its answer tokens."""
    logits = answer_logits(model, batch).float()
    labels = batch.answers.to(logits.device)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    ).reshape(labels.shape)
    return each.sum(dim=1) / (labels != IGNORED).sum(dim=1)


def answer_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states (rows, Q, d) after the final norm, at the positions from which the answer's tokens are predicted."""
    architecture = Architecture(model)
    with capture(outputs={"states": architecture.final_norm}) as found:
        model(**_inputs(model, batch, batch.answers[:, :-1]), logits_to_keep=1)
    return found["states"][:, -batch.answers.shape[1] :].float().to(batch.prompts.device)


@torch.no_grad()
def greedy(model: Any, batch: Batch, length: int | None = None) -> Tensor:
    """Greedy answers (rows, length), by default as long as the batch's own."""
    steps = batch.answers.shape[1] if length is None else length
    inputs = _inputs(model, batch, batch.answers[:, :0]) | {"use_cache": True}
    found: list[Tensor] = []
    for _ in range(steps):
        output = model(**inputs, logits_to_keep=1)
        found.append(output.logits[:, -1].argmax(dim=-1, keepdim=True))
        following = {"input_ids": found[-1], "past_key_values": output.past_key_values, "use_cache": True}
        if "attention_mask" in inputs:
            mask = torch.cat([inputs["attention_mask"], torch.ones_like(found[-1])], dim=1)
            following |= {"attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        inputs = following
    return torch.cat(found, dim=1).to(batch.answers.device)


@torch.no_grad()
def sampled(model: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """Answers (rows, Q) drawn from the model itself, token by token."""
    answers = batch.answers[:, :0]
    for _ in range(batch.answers.shape[1]):
        logits = model(**_inputs(model, batch, answers), logits_to_keep=1).logits[:, -1].float().cpu()
        drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
        answers = torch.cat([answers, drawn.to(answers)], dim=1)
    return answers


def correct(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Exact match (rows,) and share of right tokens (rows,) of answers against labels, padding left out."""
    asked = labels != IGNORED
    right = (answers == labels) | ~asked
    return right.all(dim=1), ((answers == labels) & asked).sum(dim=1) / asked.sum(dim=1)
