"""Text to token rows: where a prompt ends and its target begins, where the subject ends, and padding.

Tokenizers differ in where a space goes. GPT-2's tokens carry a *leading* space (target `` Paris``), SentencePiece adds
one before a text by itself, in some the space *trails* the word before it (prompt ``... in ``, target ``Paris``), and a
few do two of these at once. One rule serves all of them: the row of a prompt and its target is that of the *running
text* ``"{prompt} {target}"``, tokenised whole and cut where the target's first character is (the offsets say where). A
space that is a token of its own belongs to the target, as it does in the published code. The rule is checked on every
row: a token that holds the end of the prompt and the start of the target, or a target that its tokens do not spell,
is an error and never a score.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editlab.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE_PROMPTS = ("The mother tongue of the man is", "They live in", "She plays the")
_PROBE_TARGETS = ("French", "London", "piano", "red house")
_FILLER = "the"  # stands where the target of a prompt is not known yet
_UNWRITTEN = {"Mn", "Cc", "Cf", "Zs", "Zl", "Zp"}  # marks, controls and spaces: normalisers may drop them


@dataclasses.dataclass(frozen=True)
class PairTokens:
    """The tokens of one prompt with its target.

    Attributes:
        prompt: token ids, a BOS first where the tokenizer puts one.
        target: token ids of the target; nothing follows them.
        offsets: (start, end) of the prompt's tokens in its characters.
    """

    prompt: list[int]
    target: list[int]
    offsets: list[tuple[int, int]]

    def span(self, start: int, end: int) -> list[int]:
        """Positions of the prompt's tokens that hold some of its characters ``start`` .. ``end - 1``."""
        return [i for i, (a, b) in enumerate(self.offsets) if a < end and b > start and b > a]


class Encoder:
    """Encodes prompts and targets for one tokenizer; create one where needed, it holds no state between calls."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.pad_id = int(tokenizer.pad_token_id or 0)
        limit = tokenizer.model_max_length
        self.max_length = int(limit) if limit and limit < 1_000_000 else None

    @property
    def name(self) -> str:
        """What errors call the tokenizer."""
        return str(getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__)

    def check(self) -> None:
        """Raise :class:`ModelError` when the rule of running text does not hold on plain English."""
        self._cut([(prompt, target) for prompt in _PROBE_PROMPTS for target in _PROBE_TARGETS])

    def pairs(self, prompts: Sequence[str], targets: Sequence[str]) -> list[PairTokens]:
        """Token rows of prompts with their targets, each as in the running text ``"{prompt} {target}"``.

        Args:
            prompts: without a trailing space.
            targets: as many; a leading space is dropped.

        Raises:
            DataError: a target is blank, or holds characters that the tokenizer does not know.
            ModelError: a token holds the end of a prompt and the start of its target.
        """
        targets = [target.strip() for target in targets]
        for target in targets:
            if not target:
                raise DataError(f"target {target!r} has no tokens: it is blank, and at least one word is needed")
        rows = self._cut(list(zip(prompts, targets, strict=True)))
        checked: set[tuple[str, tuple[int, ...]]] = set()
        for target, row in zip(targets, rows, strict=True):
            key = (target, tuple(row.target))
            if key not in checked:
                self._check_spelling(target, row.target)
                checked.add(key)
        return rows

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts to which any words may be added, with a BOS where the tokenizer puts one."""
        return [row.prompt for row in self.rows(texts)]

    def rows(self, texts: Sequence[str]) -> list[PairTokens]:
        """As :meth:`prompts`, with the offsets; the target is that of a word which stands for all others."""
        return self._cut([(text, _FILLER) for text in texts])

    def lookups(
        self, templates: Sequence[str], subjects: Sequence[str], targets: Sequence[str] | None = None
    ) -> tuple[list[PairTokens], list[int]]:
        """Fill each template's ``{}`` and find the last token of the subject placed there.

        Found through offsets, so a subject that also occurs elsewhere in the prompt does not confuse it.

        Args:
            targets: what follows each prompt; None where only the prompts matter.

        Returns:
            rows of the filled templates, and the index of the subject's last token in each prompt.

        Raises:
            DataError: no token holds the subject; else as :meth:`pairs`.
        """
        texts, spans = [], []
        for template, subject in zip(templates, subjects, strict=True):
            start = template.index("{}")
            texts.append(template.replace("{}", subject, 1))
            spans.append((start, start + len(subject.rstrip())))
        rows = self.rows(texts) if targets is None else self.pairs(texts, targets)
        positions = []
        for text, span, row in zip(texts, spans, rows, strict=True):
            inside = row.span(*span)
            if not inside:
                raise DataError(f"subject not found among the tokens of {text[:80]!r}")
            positions.append(inside[-1])
        return rows, positions

    def _cut(self, pairs: Sequence[tuple[str, str]]) -> list[PairTokens]:
        if not pairs:
            return []
        encoded = self.tokenizer(
            [f"{prompt} {target}" for prompt, target in pairs],
            add_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        encodings = encoded.encodings
        if encodings is None:
            raise ModelError(f"tokenizer {self.name}: it must be a fast one (tokenizer.json): offsets are needed")
        return [self._cut_one(*pair, encoding) for pair, encoding in zip(pairs, encodings, strict=True)]

    def _cut_one(self, prompt: str, target: str, encoding: Any) -> PairTokens:
        ids, offsets, special = encoding.ids, encoding.offsets, encoding.special_tokens_mask
        end = len(ids)
        while end and special[end - 1]:  # an end-of-text token that the tokenizer puts after a text
            end -= 1
        start = len(prompt) + 1  # of the target's first character
        cut = next((i for i in range(end) if offsets[i][1] > start and not special[i]), end)
        if cut == end:
            raise DataError(f"target {target[:80]!r} has no tokens under the tokenizer {self.name}")
        if offsets[cut][0] < len(prompt):
            piece = f"{prompt} {target}"[slice(*offsets[cut])]
            raise ModelError(
                f"tokenizer {self.name}: its token {piece[:40]!r} holds the end of the prompt {prompt[-60:]!r} and the start "
                f"of {target[:40]!r}; no cut between prompt and target is right"
            )
        # The space, where it is a token of its own. Trimmed offsets put a space at its own end, and at 0 in an empty prompt.
        first, last = len(prompt), start if prompt else 0
        while cut and not special[cut - 1] and offsets[cut - 1][0] >= first and offsets[cut - 1][1] >= last:
            cut -= 1
        return PairTokens(ids[:cut], ids[cut:end], offsets[:cut])

    def _check_spelling(self, target: str, ids: list[int]) -> None:
        """The round trip: the tokens of a target spell it, but for case, accents and spaces that were normalised."""
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        found = _letters(str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)))
        if found == _letters(target) or (normalizer and found == _letters(normalizer.normalize_str(target))):
            return
        unknown = self.tokenizer.unk_token_id
        reason = "holds characters that are unknown to" if unknown in ids else "is not what its tokens spell under"
        raise DataError(f"target {target[:80]!r} {reason} the tokenizer {self.name} (they spell {found[:80]!r})")


def _letters(text: str) -> str:
    """A text without its spaces, marks and case."""
    plain: Iterable[str] = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in plain if c != "▁" and unicodedata.category(c) not in _UNWRITTEN)


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
    """Raise :class:`ModelError` when a row is longer than the model's context; names how the longest one begins."""
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(rows, key=len, default=())
    if limit and len(longest) > limit:
        start = " ".join(model.tokenizer.decode(list(longest[:20])).split())
        raise ModelError(
            f"a prompt has {len(longest)} tokens; the model's context holds {limit} (it begins with {start[:60]!r})"
        )
