"""Token rows with the span that a loss counts: what of a question or a text is learned, or unlearned.

Names follow the published code (Deeb and Roger, 2024): ``corpus`` is a text as a whole, ``letter`` the letter after
``Answer:``, ``letter_answer`` the letter and the choice, ``question_letter_answer`` everything from the question on,
``question_answer`` the question and its right choice without options, ``number`` the last run of tokens with a digit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from editlab.data.questions import LETTERS, Question, answer_text, letter_prompt
from editlab.errors import DataError
from editlab.networks.tokenization import pad
from editlab.randomness import python_rng
from editlab.training.retraining import TokenRow

QuestionLoss = Literal["letter", "letter_answer", "question_letter_answer", "question_answer"]
TextLoss = Literal["corpus", "number"]
MAX_CHARACTERS = 2000
"""Longest text that is read, as in the published code."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Right-padded rows: ``ids``, ``mask`` (real tokens) and ``learned`` (those that a loss counts), all ``(n, T)``."""

    ids: Tensor
    mask: Tensor
    learned: Tensor

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of the model."""
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), "use_cache": False}


def collate(rows: Sequence[TokenRow], pad_id: int, device: torch.device | str) -> Batch:
    """Rows as one batch; the first token of a row is never learned, because nothing predicts it."""
    ids, mask = pad([list(row.ids) for row in rows], pad_id, device)
    learned, _ = pad([[0, *map(int, row.learned[1:])] for row in rows], 0, device)
    return Batch(ids, mask.bool(), learned.bool())


def _row(ids: Sequence[int], start: int, stop: int) -> TokenRow:
    """Tokens ``start .. stop - 1`` are learned, but never the first."""
    return TokenRow(list(ids), [max(1, start) <= i < stop for i in range(len(ids))])


def text_rows(
    tokenizer: Any, texts: Sequence[str], loss: TextLoss = "corpus", *, max_length: int = 512
) -> list[TokenRow]:
    """A row a text, cut to 2,000 characters and ``max_length`` tokens (the end is lost).

    Raises:
        DataError: a text has fewer than two tokens.
    """
    rows = []
    for text in texts:
        ids = tuple(tokenizer(text[:MAX_CHARACTERS]).input_ids[:max_length])
        if len(ids) < 2:
            raise DataError(f"text {text[:60]!r} has fewer than two tokens")
        start, stop = (1, len(ids)) if loss == "corpus" else _number(tokenizer, ids)
        rows.append(_row(ids, start, stop))
    return rows


def _number(tokenizer: Any, ids: Sequence[int]) -> tuple[int, int]:
    """The last run of tokens that contain a digit, (0, 0) where there is none."""
    digits = [any(c.isdigit() for c in tokenizer.decode([i])) for i in ids]
    stop = max((i + 1 for i, digit in enumerate(digits) if digit), default=0)
    start = stop
    while start > 0 and digits[start - 1]:
        start -= 1
    return start, stop


def question_rows(
    tokenizer: Any,
    questions: Sequence[Question],
    loss: QuestionLoss = "question_letter_answer",
    *,
    max_length: int = 512,
    end: bool = False,
) -> list[TokenRow]:
    """A row a question with its right answer; of too long ones the beginning is lost, as when they are scored.

    Args:
        end: an end-of-text token follows and is learned.
    """
    rows = []
    for question in questions:
        prompt = question.question if loss == "question_answer" else letter_prompt(question)
        answer = f" {question.right}" if loss == "question_answer" else answer_text(question)
        rows.append(answered_row(tokenizer, prompt, answer, loss, max_length=max_length, end=end))
    return rows


def answered_row(
    tokenizer: Any, prompt: str, answer: str, loss: str = "letter_answer", *, max_length: int = 512, end: bool = False
) -> TokenRow:
    """Prompt and answer as one text, tokenised together; the span of ``loss`` in it."""
    before = list(tokenizer(prompt).input_ids)
    ids = list(tokenizer(prompt + answer).input_ids) + ([tokenizer.eos_token_id] if end else [])
    first = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
    starts = {"question_letter_answer": 1, "question_answer": 1}
    start = starts.get(loss, first)
    stop = first + 1 if loss == "letter" else len(ids)
    cut = max(0, len(ids) - max_length)
    return _row(ids[cut:], start - cut, stop - cut)


def redrawn(question: Question, pool: Sequence[str], *coordinates: object) -> Question:
    """The question with other wrong choices from ``pool`` and in another order, from a generator of the coordinates."""
    rng = python_rng("redrawn", *coordinates)
    wrong = rng.sample(sorted({c for c in pool if c != question.right}), len(LETTERS) - 1)
    answer = rng.randrange(len(LETTERS))
    return dataclasses.replace(question, choices=(*wrong[:answer], question.right, *wrong[answer:]), answer=answer)


def epochs_of(count: int, batch: int, *coordinates: object) -> Iterator[list[int]]:
    """Batches of indices without end: every item once in a seeded order, then again in another one.

    The last batch of a pass is filled from the next, so a long set is used whole and a short one comes again.
    """
    if not count:
        return
    queue: list[int] = []
    for lap in range(10**9):
        order = list(range(count))
        python_rng("order", *coordinates, lap).shuffle(order)
        queue += order
        while len(queue) >= batch:
            yield queue[:batch]
            queue = queue[batch:]
