"""LoRA factors as tokens of one size, and back (Drag-and-Drop LLMs): what a decoder can emit for any architecture.

A (r, d_in) and B^T (r, d_out) of each map are cut along their long side into chunks; a chunk is one token. It is
standardised with its own mean and deviation, which are written as ``mean * 8`` and ``log(0.9 deviation + 0.1) + 1.6``
into two more rows and two more columns. Cells that a short chunk does not fill are NaN, and count nowhere. Back, the
copies of the pair are averaged and the maps inverted: slicing and arithmetic alone, so gradients pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

Factored = Mapping[str, tuple[Tensor, Tensor]]
_FLOOR = 1e-8  # of a deviation: a factor that is zero has none


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where the numbers of a token stand: columns ``start .. stop - 1`` of A, or of B transposed."""

    module: str
    side: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the adapters of one architecture and rank are cut, found once from a template.

    Attributes:
        rank: r.
        chunk: columns of a token.
        slots: one a token, in order.
    """

    rank: int
    chunk: int
    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, factors: Factored, chunk: int) -> Layout:
        """From stacked factors, B (C, d_out, r) and A (C, r, d_in) by module name."""
        slots = [
            Slot(name, side, start, min(start + chunk, length))
            for name, (left, right) in factors.items()
            for side, length in ((0, left.shape[1]), (1, right.shape[2]))
            for start in range(0, length, chunk)
        ]
        rank = next(iter(factors.values()))[1].shape[1]
        return cls(rank, chunk, tuple(slots))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(tokens, rows, columns)."""
        return len(self.slots), self.rank + 2, self.chunk + 2

    def encode(self, factors: Factored) -> Tensor:
        """Tokens (C, T, r + 2, chunk + 2) of stacked adapters."""
        count = next(iter(factors.values()))[0].shape[0]
        tokens = torch.full((count, *self.shape), torch.nan)
        for place, slot in enumerate(self.slots):
            left, right = factors[slot.module]
            part = (left.transpose(1, 2) if slot.side == 0 else right)[:, :, slot.start : slot.stop].float()
            mean = part.mean(dim=(1, 2), keepdim=True)
            deviation = part.std(dim=(1, 2), keepdim=True, correction=0).clamp(min=_FLOOR)
            width = slot.stop - slot.start
            tokens[:, place, : self.rank, :width] = (part - mean) / deviation
            codes = (mean * 8, torch.log(0.9 * deviation + 0.1) + 1.6)
            for i, code in enumerate(codes):
                tokens[:, place, self.rank + i, :] = code[:, :, 0]
                tokens[:, place, : self.rank, self.chunk + i] = code[:, :, 0]
        return tokens

    def decode(self, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Stacked factors, B (C, d_out, r) and A (C, r, d_in) by module name, from tokens."""
        parts: dict[tuple[str, int], list[Tensor]] = {}
        rank, chunk = self.rank, self.chunk
        codes = [
            torch.cat([tokens[:, :, rank + i, :], tokens[:, :, :rank, chunk + i]], dim=2).mean(dim=2) for i in range(2)
        ]
        means = codes[0] / 8
        deviations = ((torch.exp(codes[1] - 1.6) - 0.1) / 0.9).clamp(min=0.0)
        for place, slot in enumerate(self.slots):
            values = tokens[:, place, :rank, : slot.stop - slot.start]
            found = values * deviations[:, place, None, None] + means[:, place, None, None]
            parts.setdefault((slot.module, slot.side), []).append(found)
        joined = {key: torch.cat(found, dim=2) for key, found in parts.items()}
        return {name: (joined[name, 0].transpose(1, 2), joined[name, 1]) for name, side in joined if side == 0}


def token_loss(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean over the cells that are there of ``w_t (found - wanted)^2`` for tokens (C, T, rows, columns), weights (T,)."""
    there = ~wanted.isnan()
    error = torch.where(there, found - wanted.nan_to_num(), 0.0).square() * weights[:, None, None]
    return error.sum() / there.sum()


def token_weights(tokens: Tensor) -> Tensor:
    """How much each token differs between adapters: its deviation over them (C, T, ...), normalised to mean 1, (T,)."""
    there = ~tokens[0].isnan()
    deviation = torch.where(there, tokens.nan_to_num().std(dim=0, correction=0), 0.0)
    each = deviation.sum(dim=(1, 2)) / there.sum(dim=(1, 2))
    return each / each.mean() if float(each.mean()) > 0 else torch.ones_like(each)
