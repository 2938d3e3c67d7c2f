"""Text to token rows: where the subject ends, which tokens the target has, and padding.

Tokenizers differ in where a space goes. GPT-2's tokens carry a *leading* space (target `` Paris``), SentencePiece adds
it by itself (target ``Paris``), and in some the space *trails* the previous word (prompt ``... in ``, target ``Paris``).
:meth:`Spacing.probe` finds out by asking the tokenizer, never by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editlab.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE_PROMPTS = ("The mother tongue of the man is", "They live in", "She plays the")
_PROBE_TARGETS = ("French", "London", "piano", "red house")


@dataclasses.dataclass(frozen=True)
class Spacing:
    """What to append to a prompt and to put before a target so that their tokens join as in running text."""

    prompt_suffix: str
    target_prefix: str

    @classmethod
    def probe(cls, tokenizer: PreTrainedTokenizerBase) -> Spacing:
        """The first of (leading, self-added, trailing) space under which prompt + target tokens = tokens of the text."""
        candidates = (cls("", " "), cls("", ""), cls(" ", ""))
        scores = []
        for candidate in candidates:
            hits = 0
            for prompt in _PROBE_PROMPTS:
                for target in _PROBE_TARGETS:
                    joined = tokenizer(f"{prompt} {target}").input_ids
                    parts = tokenizer(prompt + candidate.prompt_suffix).input_ids
                    hits += joined == parts + _plain_ids(tokenizer, candidate.target_prefix + target)
            scores.append(hits)
        return candidates[scores.index(max(scores))]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


class Encoder:
    """Encodes prompts and targets for one tokenizer; create one where needed, it holds no state between calls."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.spacing = Spacing.probe(tokenizer)
        self.pad_id = int(tokenizer.pad_token_id or 0)
        limit = tokenizer.model_max_length
        self.max_length = int(limit) if limit and limit < 1_000_000 else None

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, with the tokenizer's special tokens (a BOS where the model wants one)."""
        if not texts:
            return []
        encoded = self.tokenizer([t + self.spacing.prompt_suffix for t in texts], add_special_tokens=True)
        return [list(ids) for ids in encoded.input_ids]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of completions, without special tokens.

        Raises:
            DataError: a target has no tokens.
        """
        if not texts:
            return []
        prefix = self.spacing.target_prefix
        encoded = self.tokenizer([prefix + t.strip() for t in texts], add_special_tokens=False).input_ids
        for text, ids in zip(texts, encoded, strict=True):
            if not ids or not text.strip():
                raise DataError(f"target {text!r} has no tokens under this tokenizer")
        return [list(ids) for ids in encoded]

    def lookups(self, templates: Sequence[str], subjects: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Fill each template's ``{}`` and find the last token of the subject placed there.

        Found through offsets, so a subject that also occurs elsewhere in the prompt does not confuse it.

        Returns:
            token ids of each filled template and the index of the subject's last token in them.
        """
        texts, spans = [], []
        for template, subject in zip(templates, subjects, strict=True):
            start = template.index("{}")
            texts.append(template.replace("{}", subject, 1) + self.spacing.prompt_suffix)
            spans.append((start, start + len(subject.rstrip())))
        encoded = self.tokenizer(texts, add_special_tokens=True, return_offsets_mapping=True)
        positions = []
        for text, (start, end), offsets in zip(texts, spans, encoded.offset_mapping, strict=True):
            inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
            if not inside:
                raise DataError(f"subject not found among the tokens of {text[:80]!r}")
            positions.append(inside[-1])
        return [list(ids) for ids in encoded.input_ids], positions


def pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Right-pad token rows: (ids ``(n, length)``, attention mask ``(n, length)``, both int64)."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)


def check_lengths(rows: Sequence[Sequence[int]], model: Any) -> None:
    """Raise :class:`ModelError` when a row is longer than the model's context."""
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max((len(row) for row in rows), default=0)
    if limit and longest > limit:
        raise ModelError(f"a prompt has {longest} tokens; the model's context holds {limit}")
