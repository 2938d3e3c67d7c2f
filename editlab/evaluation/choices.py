"""Four-choice questions: which choice a model prefers, read from letters or from statements.

*Letter* scoring compares the logits of the four letters right after ``Answer:``. *Cloze* scoring compares the
log-probabilities of the four choices after a statement ("Ada Berg was born in") and needs no skill with letters: it tells
a forgotten fact from a forgotten format. A model that answers one letter to everything has the accuracy of chance but
may still rank the questions; *calibrated* accuracy takes out what a letter has over a whole file, and the entropy of the
letters shows the collapse (Deeb and Roger, 2024, arXiv 2410.08827, and its code).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from editlab.data.questions import LETTERS, Question, letter_prompt
from editlab.errors import DataError, ModelError
from editlab.evaluation.scoring import pack, score_targets
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.prefix import run_prompts

MAX_PROMPT = 512
LetterRule = Literal["after_prompt", "line_start"]


@dataclasses.dataclass(frozen=True)
class ChoiceScores:
    """Scores of questions: ``values`` (n, 4) float64, higher is preferred; ``answers`` (n,) the right choices."""

    values: NDArray[np.float64]
    answers: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether the right choice has the highest score; a model broken to NaN is never right."""
        return _best(self.values) == self.answers

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def calibrated_accuracy(self) -> float:
        """Accuracy after each letter's mean over these questions is subtracted. It looks at all questions at once: for a
        report of 40 questions or more, never for the choice of a single one."""
        return float((_best(self.values - self.values.mean(axis=0)) == self.answers).mean())

    @property
    def letter_entropy(self) -> float:
        """Entropy of the letters answered, in bits: 2 when each is answered equally often, 0 when one is always."""
        best = _best(self.values)
        shares = np.bincount(best[best >= 0], minlength=len(LETTERS)) / max(1, int((best >= 0).sum()))
        return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum()) + 0.0

    def take(self, indices: Sequence[int]) -> ChoiceScores:
        """The scores of some of the questions."""
        return ChoiceScores(self.values[list(indices)], self.answers[list(indices)])


def _best(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The preferred choice of each row, -1 where a score is NaN."""
    broken = np.isnan(values).any(axis=1)
    return np.where(broken, -1, np.where(np.isnan(values), -np.inf, values).argmax(axis=1))


def letter_ids(tokenizer: Any, prompt: str, rule: LetterRule = "after_prompt") -> list[int]:
    """Token ids of the letters A to D.

    With ``after_prompt`` the first token of ``prompt + " A"`` after what it shares with ``prompt``: the token that learned
    text has there, in byte-level vocabularies the one with its leading space. ``line_start`` is the published code's first
    token of ``"A. "``, another token in such vocabularies.

    Raises:
        ModelError: two letters have the same token.
    """
    if rule == "line_start":
        found = [tokenizer(f"{letter}. ", add_special_tokens=False).input_ids[0] for letter in LETTERS]
    else:
        base = list(tokenizer(prompt).input_ids)
        rows = [list(tokenizer(f"{prompt} {letter}").input_ids) for letter in LETTERS]
        shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(base, rows[0], strict=False))))
        found = [row[shared] for row in rows if len(row) > shared]
    if len(set(found)) < len(LETTERS):
        raise ModelError(f"letters: tokens {found} of A, B, C, D are not four different ones under this tokenizer")
    return [int(i) for i in found]


def score_letters(
    model: Any,
    questions: Sequence[Question],
    *,
    examples: Sequence[Question] = (),
    rule: LetterRule = "after_prompt",
    max_tokens: int = 4096,
) -> ChoiceScores:
    """Logits of the four letters at the last position of each prompt, in batches of similar length.

    Prompts longer than 512 tokens (or the model's context) lose their beginning, as in the published code.

    Raises:
        DataError: no questions. ModelError: letters that share a token, or a model without tokenizer.
    """
    if not questions:
        raise DataError("score_letters: no questions")
    tokenizer = tokenizer_of(model)
    prompts = [letter_prompt(q, examples) for q in questions]
    limit = min(MAX_PROMPT, getattr(model.config, "max_position_embeddings", None) or MAX_PROMPT)
    rows = [list(ids)[-limit:] for ids in tokenizer(prompts).input_ids]
    letters = letter_ids(tokenizer, prompts[0], rule)
    values = np.zeros((len(rows), len(LETTERS)))
    with frozen(model), torch.no_grad():
        architecture = Architecture(model)
        for batch in pack([len(row) for row in rows], max_tokens):
            states = run_prompts(
                architecture, [rows[i] for i in batch], int(tokenizer.pad_token_id or 0), cache_from=None
            )
            last = states.last_hidden[torch.arange(len(batch), device=architecture.device), states.lengths - 1]
            values[batch] = architecture.head(last)[:, letters].double().cpu().numpy()
    return ChoiceScores(values, _answers(questions))


def score_cloze(
    model: Any, questions: Sequence[Question], *, examples: Sequence[Question] = (), max_tokens: int = 4096
) -> ChoiceScores:
    """Log-probability (summed over tokens) of each choice after the statement, or after the bare question and ``Answer:``.

    Completed examples, if any, stand before it, a line each.

    Raises:
        DataError: no questions.
    """
    if not questions:
        raise DataError("score_cloze: no questions")
    shown = "".join(f"{opening(example)} {example.right}.\n" for example in examples)
    starts = [shown + opening(q) for q in questions]
    pairs = [(start, choice) for start, q in zip(starts, questions, strict=True) for choice in q.choices]
    scores = score_targets(model, pairs, max_tokens=max_tokens)
    total = np.where(np.isfinite(scores.log_prob), scores.log_prob * scores.tokens, np.nan)
    return ChoiceScores(total.reshape(len(questions), len(LETTERS)), _answers(questions))


def opening(question: Question) -> str:
    """What stands before an answer: the statement, or the bare question and ``Answer:``."""
    return f"{question.question}\nAnswer:" if question.statement is None else question.statement


def _answers(questions: Sequence[Question]) -> NDArray[np.int64]:
    return np.array([q.answer for q in questions], dtype=np.int64)
