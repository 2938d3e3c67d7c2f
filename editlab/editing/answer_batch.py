"""Facts to be trained on: rewrite prompts with their new objects, run once up to the lowest edited block.

What lies below that block never changes, so a step runs it and those above alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.data.requests import EditRequest
from editlab.editing.keys import TOKENS_PER_PASS
from editlab.errors import ConfigError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture
from editlab.networks.loading import tokenizer_of
from editlab.networks.prefix import run_prompts, suffix_mask
from editlab.networks.tokenization import Encoder, check_lengths


@dataclasses.dataclass(frozen=True)
class AnswerBatch:
    """n facts, E tokens of new objects.

    Attributes:
        first: the lowest edited block.
        rows: by fact, the token ids that the model is fed.
        hidden: ``(n, length, d)`` inputs of that block, right-padded.
        row, position, token: ``(E,)`` the fact of a token, the position that predicts it, and its id.
        lengths: ``(n,)`` tokens of a fact's new object.
        weights: ``(n,)`` weight of a fact in the loss.
    """

    architecture: Architecture
    first: int
    rows: list[list[int]]
    hidden: Tensor
    row: Tensor
    position: Tensor
    token: Tensor
    lengths: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        requests: Sequence[EditRequest],
        first: int,
        weights: Tensor | None = None,
        *,
        stop_token: bool = False,
    ) -> AnswerBatch:
        """The facts of some requests.

        Args:
            weights: ``(n,)``; None: all one.
            stop_token: the tokenizer's end of text follows every new object.

        Raises:
            ConfigError: the tokenizer has no such token.
        """
        tokenizer = tokenizer_of(architecture.model)
        encoder = Encoder(tokenizer)
        pairs = encoder.pairs([r.rewrite_prompt for r in requests], [r.target_new for r in requests])
        end = [_stop(tokenizer)] if stop_token else []
        prompts, goals = [pair.prompt for pair in pairs], [pair.target + end for pair in pairs]
        rows = [p + g[:-1] for p, g in zip(prompts, goals, strict=True)]
        check_lengths(rows, architecture.model)
        hidden = _block_inputs(architecture, rows, first, encoder.pad_id)
        entries = [
            (i, len(p) - 1 + j, t) for i, (p, g) in enumerate(zip(prompts, goals, strict=True)) for j, t in enumerate(g)
        ]
        row, position, token = (torch.tensor(c, device=hidden.device) for c in zip(*entries, strict=True))
        weighed = torch.ones(len(rows)) if weights is None else weights.float().cpu()
        lengths = torch.tensor([len(g) for g in goals])
        return cls(architecture, first, rows, hidden, row, position, token, lengths, weighed)

    def select(self, facts: Sequence[int]) -> AnswerBatch:
        """Some of the facts, in this order, no longer than the longest of them."""
        chosen = torch.tensor(list(facts))
        number = torch.full((len(self.rows),), -1)
        number[chosen] = torch.arange(len(chosen))
        row = number.to(self.row.device)[self.row]
        kept = row >= 0
        rows = [self.rows[i] for i in facts]
        hidden = self.hidden[chosen.to(self.hidden.device), : max(map(len, rows))]
        place, token = self.position[kept], self.token[kept]
        lengths, weights = self.lengths[chosen], self.weights[chosen]
        return AnswerBatch(self.architecture, self.first, rows, hidden, row[kept], place, token, lengths, weights)

    def loss(self) -> Tensor:
        """Mean over facts, by weight, of the mean cross-entropy of a new object's tokens."""
        mask, positions, weight = self._constants
        hidden = self.architecture.run_blocks(self.hidden, self.first, mask, positions)
        logits = self.architecture.logits(hidden[self.row, self.position])
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nll = F.cross_entropy(precise, self.token, reduction="none")
        return (nll * weight).sum()

    @functools.cached_property
    def _constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """Attention mask, positions ``(n, length)``, and the weight of every token in the loss ``(E,)``."""
        count, length, device = *self.hidden.shape[:2], self.hidden.device
        zero = torch.zeros(count, dtype=torch.long, device=device)
        mask = suffix_mask(zero, 0, length, self.hidden.dtype)
        weights = self.weights.to(torch.promote_types(self.hidden.dtype, torch.float32))
        per_fact = weights / weights.sum() / self.lengths
        return mask, torch.arange(length, device=device).expand(count, -1), per_fact.to(device)[self.row]


def _stop(tokenizer: object) -> int:
    found = getattr(tokenizer, "eos_token_id", None)
    if not isinstance(found, int):
        raise ConfigError("stop_token: true is not allowed; the tokenizer has no end-of-text token; use false")
    return found


def _block_inputs(architecture: Architecture, rows: list[list[int]], layer: int, pad_id: int) -> Tensor:
    """``(n, longest, d)``, as many rows at once as a pass takes."""
    longest = max(map(len, rows))
    step, parts = max(1, TOKENS_PER_PASS // longest), []
    for start in range(0, len(rows), step):
        with capture(inputs={"hidden": architecture.block(layer)}) as states:
            run_prompts(architecture, rows[start : start + step], pad_id, cache_from=None)
        parts.append(F.pad(states["hidden"], (0, 0, 0, longest - states["hidden"].shape[1])))
    return torch.cat(parts)
