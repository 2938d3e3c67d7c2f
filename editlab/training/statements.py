"""Statements as training rows: tokenised once, drawn in a seeded order, grouped by length, completed by a model.

A statement is a (prompt, completion) pair. A row holds its tokens, alone or after a short context, then a full stop and
the end-of-text token, and says from which position on the next token is learned: after the prompt for most rows, from
the start for some, so that the model can also write. Neutral sentences fill rows as long as the model's context.

In most rows what follows the subject may look at the subject's *last* token alone, not at its earlier ones. Large models
recall facts there (ROME, section 2: the early site), and editing methods write there; a small model trained in minutes
would otherwise read the pieces of a name one by one from wherever it needs the fact.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.config.models import Substrate
from editlab.errors import DataError
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, pad
from editlab.randomness import python_rng

Statement = tuple[str, str]

CONTEXT_TOKENS = (2, 16)
"""Shortest and longest context before a statement: around the prefixes of 5 and 10 tokens that editing uses."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One training row.

    Attributes:
        ids: tokens.
        first: first position whose next token is learned.
        hidden: (start, end): tokens ``start .. end - 1`` cannot be seen from after ``end``; None: all can.
    """

    ids: list[int]
    first: int
    hidden: tuple[int, int] | None = None


class TrainingRows:
    """Tokenised statements and neutral text, and the rows drawn from them."""

    def __init__(
        self,
        statements: Sequence[Statement],
        neutral: Sequence[str],
        encoder: Encoder,
        options: Substrate,
        subjects: Sequence[str] = (),
    ) -> None:
        self.options = options
        self.pad_id = encoder.pad_id
        self.rng = python_rng("substrate rows", options.seed)
        stop = list(encoder.tokenizer(".").input_ids)
        ending = [*stop, encoder.tokenizer.eos_token_id]
        pairs = encoder.pairs([prompt for prompt, _ in statements], [completion for _, completion in statements])
        self.bare = [pair.prompt for pair in pairs]
        self.spaced = encoder.prompts([f" {prompt}" for prompt, _ in statements])
        self.completions = [pair.target + ending for pair in pairs]
        self.neutral = encoder.prompts([f" {sentence}" for sentence in neutral])
        openings = encoder.prompts(list(neutral))
        lengths = range(CONTEXT_TOKENS[0], CONTEXT_TOKENS[1] + 1)
        self.contexts = [ids[: lengths[i % len(lengths)]] + stop for i, ids in enumerate(openings)] or [[]]
        # A name that opens a text may have other tokens than the same name after a space.
        self.bare_spans = subject_spans(encoder, [prompt for prompt, _ in statements], subjects)
        self.spaced_spans = subject_spans(encoder, [f" {prompt}" for prompt, _ in statements], subjects)
        self.queue: list[int] = []
        self._check_lengths(statements)

    def _check_lengths(self, statements: Sequence[Statement]) -> None:
        for (text, _), prompt, completion in zip(statements, self.bare, self.completions, strict=True):
            if len(prompt) + len(completion) > self.options.context:
                raise DataError(
                    f"substrate: the statement {text[:60]!r}... has {len(prompt) + len(completion)} tokens; "
                    f"context: {self.options.context} is too short for it"
                )

    def draw(self) -> list[Row]:
        """Rows of one step, sorted by length: each statement once before any comes twice."""
        rows = [self._statement(self._next()) for _ in range(self.options.batch)]
        tokens = sum(len(row.ids) for row in rows) * self.options.neutral_share
        while self.neutral and tokens >= self.options.context * self.rng.random():
            rows.append(self._passage())
            tokens -= self.options.context
        return sorted(rows, key=lambda row: len(row.ids))

    def state(self) -> dict[str, Any]:
        """Where the draws are, JSON-serialisable."""
        return {"rng": self.rng.getstate(), "queue": self.queue}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Draw on from a :meth:`state`."""
        version, words, gauss = state["rng"]
        self.rng.setstate((version, tuple(words), gauss))
        self.queue = list(state["queue"])

    def _next(self) -> int:
        if not self.queue:
            self.queue = list(range(len(self.completions)))
            self.rng.shuffle(self.queue)
        return self.queue.pop()

    def _statement(self, index: int) -> Row:
        prompt, span, completion = self.bare[index], self.bare_spans[index], self.completions[index]
        if self.rng.random() < self.options.context_share:
            longer = self.rng.choice(self.contexts) + self.spaced[index]
            if len(longer) + len(completion) <= self.options.context:
                prompt, span = longer, self.spaced_spans[index]
        first = 0 if self.rng.random() < self.options.prompt_share else len(prompt) - 1
        hidden = None
        if span is not None and self.rng.random() < self.options.subject_end_share:
            hidden = (len(prompt) - span[0], len(prompt) - span[1])
        return Row(prompt + completion, first, hidden)

    def _passage(self) -> Row:
        """Neutral sentences one after another, after an end-of-text token, cut at the context's length."""
        ids = [self.completions[0][-1]]
        while len(ids) < self.options.context:
            ids += self.rng.choice(self.neutral)
        return Row(ids[: self.options.context], 0)


def subject_spans(encoder: Encoder, prompts: Sequence[str], subjects: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where each prompt names its subject: first and last token, counted from the prompt's end; None without a name or
    where the name is one token."""
    if not subjects:
        return [None] * len(prompts)
    name = re.compile("|".join(re.escape(s) for s in sorted(set(subjects), key=len, reverse=True)))
    found = [name.search(prompt) for prompt in prompts]
    spans: list[tuple[int, int] | None] = []
    for match, row in zip(found, encoder.rows(prompts), strict=True):
        inside = row.span(match.start(), match.end()) if match else []
        spans.append((len(row.prompt) - inside[0], len(row.prompt) - inside[-1]) if len(inside) > 1 else None)
    return spans


def predictions(model: Any, rows: Sequence[Row], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(n, vocabulary)``, next tokens ``(n,)`` and row numbers ``(n,)`` of the learned positions.

    Padding is on the right and needs no mask in a causal model; the head runs only where something is learned.
    """
    ids, mask = pad([row.ids for row in rows], pad_id, next(model.parameters()).device)
    first = torch.tensor([row.first for row in rows], device=ids.device)
    learned = mask[:, 1:].bool() & (torch.arange(ids.shape[1] - 1, device=ids.device) >= first[:, None])
    attention = _attention(rows, ids.shape[1], next(model.parameters()))
    hidden = model.base_model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state[:, :-1]
    return model.get_output_embeddings()(hidden[learned]), ids[:, 1:][learned], learned.nonzero()[:, 0]


def _attention(rows: Sequence[Row], length: int, like: Tensor) -> Tensor | None:
    """Additive causal mask ``(rows, 1, length, length)`` with the hidden tokens of each row; None where nothing is."""
    if all(row.hidden is None for row in rows):
        return None
    visible = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for i, row in enumerate(rows):
        if row.hidden is not None:
            start, end = row.hidden
            visible[i, end + 1 :, start:end] = False
    mask = torch.zeros(len(rows), 1, length, length, dtype=like.dtype)
    return mask.masked_fill_(~visible[:, None], torch.finfo(like.dtype).min).to(like.device)


def grouped(rows: Sequence[Row], batch_tokens: int, waste: float = 0.1) -> Iterator[list[Row]]:
    """Cut rows sorted by length into groups with at most ``batch_tokens`` and little padding."""
    group: list[Row] = []
    real = 0
    for row in rows:
        padded = len(row.ids) * (len(group) + 1)
        if group and (padded > batch_tokens or (len(group) >= 16 and padded > (real + len(row.ids)) * (1 + waste))):
            yield group
            group, real = [], 0
        group.append(row)
        real += len(row.ids)
    if group:
        yield group


@torch.no_grad()
def recall(
    model: Any, statements: Sequence[Statement], *, contexts: Sequence[str] = ("{}",), batch_tokens: int = 16384
) -> float:
    """Share of statements whose completion's tokens are all the most probable ones.

    Args:
        contexts: templates with one ``{}`` put around the prompts in turn, e.g. ``"Some words. {}"``.
    """
    encoder = Encoder(tokenizer_of(model))
    prompts = [contexts[i % len(contexts)].replace("{}", p, 1) for i, (p, _) in enumerate(statements)]
    pairs = encoder.pairs(prompts, [completion for _, completion in statements])
    rows = [Row(pair.prompt + pair.target, len(pair.prompt) - 1) for pair in pairs]
    right = 0
    with frozen(model):
        for group in grouped(sorted(rows, key=lambda row: len(row.ids)), batch_tokens):
            logits, following, index = predictions(model, group, encoder.pad_id)
            wrong = logits.argmax(-1) != following
            right += len(group) - len(index[wrong].unique())
    return right / max(1, len(rows))
