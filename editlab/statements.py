"""Statements as training rows: tokenised once, drawn in a seeded order, grouped by length, completed by a model.

A statement is a (prompt, completion) pair. A row holds its tokens, alone or after a short context, then a full stop and
the end-of-text token, and says from which position on the next token is learned: after the prompt for most rows, from
the start for some, so that the model can also write. Neutral sentences fill rows as long as the model's context.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editlab.errors import DataError
from editlab.hooks import frozen
from editlab.models import tokenizer_of
from editlab.randomness import python_rng
from editlab.tokenization import Encoder, pad

if TYPE_CHECKING:
    from editlab.substrate import SubstrateOptions

Statement = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One training row: tokens, and the first position whose next token is learned."""

    ids: list[int]
    first: int


class TrainingRows:
    """Tokenised statements and neutral text, and the rows drawn from them."""

    def __init__(
        self, statements: Sequence[Statement], neutral: Sequence[str], encoder: Encoder, options: SubstrateOptions
    ) -> None:
        self.options = options
        self.pad_id = encoder.pad_id
        self.rng = python_rng("substrate rows", options.seed)
        ending = [*encoder.tokenizer(".").input_ids, encoder.tokenizer.eos_token_id]
        self.bare = encoder.prompts([prompt for prompt, _ in statements])
        self.spaced = encoder.prompts([f" {prompt}" for prompt, _ in statements])
        self.completions = [ids + ending for ids in encoder.targets([completion for _, completion in statements])]
        self.neutral = encoder.prompts([f" {sentence}" for sentence in neutral])
        fragments = [" ".join(s.rstrip(".").split()[: (5, 10)[i % 2]]) + "." for i, s in enumerate(neutral)]
        self.contexts = encoder.prompts(fragments) or [[]]
        self.order = curriculum_order([prompt for prompt, _ in statements])
        self.queue: list[int] = []
        self.share = 0.0
        longest = max(map(len, self.spaced)) + max(map(len, self.completions)) + max(map(len, self.contexts))
        if longest > options.context:
            self._check_lengths()

    def _check_lengths(self) -> None:
        room = self.options.context - max(map(len, self.contexts))
        for prompt, completion in zip(self.spaced, self.completions, strict=True):
            if len(prompt) + len(completion) > room:
                raise DataError(
                    f"substrate: a statement with its context has {len(prompt) + len(completion)} tokens; "
                    f"context {self.options.context} leaves room for {room}: raise it"
                )

    def draw(self, share: float) -> list[Row]:
        """Rows of one step, sorted by length: each statement of the curriculum's share once before any comes twice."""
        rows = [self._statement(self._next(share)) for _ in range(self.options.batch)]
        tokens = sum(len(row.ids) for row in rows) * self.options.neutral_share
        while self.neutral and tokens >= self.options.context * self.rng.random():
            rows.append(self._passage())
            tokens -= self.options.context
        return sorted(rows, key=lambda row: len(row.ids))

    def _next(self, share: float) -> int:
        if not self.queue or share > self.share * 1.1 or (share == 1 and self.share < 1):
            self.queue = self.order[: max(1, round(share * len(self.order)))]
            self.rng.shuffle(self.queue)
            self.share = share
        return self.queue.pop()

    def _statement(self, index: int) -> Row:
        prompt = self.bare[index]
        if self.rng.random() < self.options.context_share:
            prompt = self.contexts[self.rng.randrange(len(self.contexts))] + self.spaced[index]
        first = 0 if self.rng.random() < self.options.prompt_share else len(prompt) - 1
        return Row(prompt + self.completions[index], first)

    def _passage(self) -> Row:
        """Neutral sentences one after another, after an end-of-text token, cut at the context's length."""
        ids = [self.completions[0][-1]]
        while len(ids) < self.options.context:
            ids += self.neutral[self.rng.randrange(len(self.neutral))]
        return Row(ids[: self.options.context], 0)


def curriculum_order(prompts: Sequence[str]) -> list[int]:
    """Indices of the prompts, grouped by their rarest word in order of its appearance: about one subject a group."""
    counts = Counter(word for prompt in prompts for word in prompt.split())
    seen: dict[str, int] = {}
    groups = [
        seen.setdefault(min(prompt.split(), key=counts.__getitem__, default=""), index)
        for index, prompt in enumerate(prompts)
    ]
    return sorted(range(len(prompts)), key=groups.__getitem__)


def predictions(model: Any, rows: Sequence[Row], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(n, vocabulary)``, next tokens ``(n,)`` and row numbers ``(n,)`` of the learned positions.

    Padding is on the right and needs no mask in a causal model; the head runs only where something is learned.
    """
    ids, mask = pad([row.ids for row in rows], pad_id, next(model.parameters()).device)
    first = torch.tensor([row.first for row in rows], device=ids.device)
    learned = mask[:, 1:].bool() & (torch.arange(ids.shape[1] - 1, device=ids.device) >= first[:, None])
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return model.get_output_embeddings()(hidden[learned]), ids[:, 1:][learned], learned.nonzero()[:, 0]


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
    prompts = encoder.prompts([contexts[i % len(contexts)].replace("{}", p, 1) for i, (p, _) in enumerate(statements)])
    targets = encoder.targets([completion for _, completion in statements])
    rows = [Row(p + t, len(p) - 1) for p, t in zip(prompts, targets, strict=True)]
    right = 0
    with frozen(model):
        for group in grouped(sorted(rows, key=lambda row: len(row.ids)), batch_tokens):
            logits, following, index = predictions(model, group, encoder.pad_id)
            wrong = logits.argmax(-1) != following
            right += len(group) - len(index[wrong].unique())
    return right / max(1, len(rows))
