"""One pass of a model over a text, batch by batch, with sums that survive an interruption bit for bit.

The sums depend on the texts, their order and the batch size only, so a run that was interrupted and resumed from its
partial file equals an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editlab.config.preparation import Statistics
from editlab.errors import ArtifactError, ConfigError, DataError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.networks.hooks import frozen
from editlab.networks.loading import tokenizer_of

logger = logging.getLogger(__name__)

SORT_WINDOW = 512
"""Texts that are tokenised together, and rows that are sorted by length so that batches hold little padding."""

Row = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Pass:
    """How a text is read.

    Attributes:
        tokens: exact budget; None: that of the options, or so many texts where they say ``samples``.
        batch_tokens: tokens (with padding) a batch.
        partial: file to which the sums go every ``save_every`` batches and from which an interrupted run goes on.
    """

    options: Statistics
    tokens: int | None = None
    batch_tokens: int = 4096
    partial: str | Path | None = None
    save_every: int = 20
    progress: bool = True

    def sums(
        self,
        what: str,
        model: Any,
        texts: Iterable[str],
        dimension: int,
        zeros: Mapping[str, Tensor],
        products: Callable[[Sequence[Row], int], Mapping[str, Tensor]],
    ) -> tuple[dict[str, Tensor], int]:
        """The sums over all batches, and the number of tokens.

        Args:
            what: the name of the bar.
            dimension: d_in, which a budget is a multiple of.
            zeros: where the sums start, by name.
            products: what a batch adds, by name, from its rows and its number.

        Raises:
            ConfigError: a budget is not positive.
            DataError: the texts hold no token.
        """
        options, samples = self.options, self.options.samples if self.tokens is None else None
        budget = int(options.tokens_per_dimension * dimension) if self.tokens is None else int(self.tokens)
        for name, value in (("tokens", budget), ("batch_tokens", self.batch_tokens)):
            if value < 1:
                raise ConfigError(f"statistics: {name}: {value} is not allowed; it must be 1 or more")
        width = min(options.max_length, getattr(model.config, "max_position_embeddings", None) or options.max_length)
        tokenizer = tokenizer_of(model)
        if samples is None:
            rows = _within_budget(_windows(tokenizer, texts, width), budget)
        else:
            rows, budget = _samples(_windows(tokenizer, texts, width, first_only=True), samples), 0
        sums = _Sums.start(model, zeros, self.partial, (budget, samples or 0, width, self.batch_tokens))
        with _bar(what, budget or None, self.progress) as bar, frozen(model):
            for batch in sums.skip_done(_batches(rows, self.batch_tokens), bar.update):
                sums.add(batch, products(batch, sums.batches))
                bar.update(sum(map(len, batch)))
                if self.partial is not None and sums.batches % self.save_every == 0:
                    sums.save(self.partial)
                    logger.info("%s: %d tokens of %s", what, sums.count, budget or f"{samples} samples")
        if not sums.count:
            raise DataError("statistics: the texts hold no token to collect second moments over")
        return sums.sums, sums.count


def _windows(tokenizer: Any, texts: Iterable[str], width: int, *, first_only: bool = False) -> Iterator[Row]:
    """Token rows of at most ``width``, in the order of the texts, tokenised :data:`SORT_WINDOW` texts at a time."""
    stream = iter(texts)
    while chunk := list(islice(stream, SORT_WINDOW)):
        encoded = tokenizer(chunk, add_special_tokens=True, verbose=False).input_ids
        for ids in encoded:
            ends = [0] if first_only and ids else range(0, len(ids), width)
            yield from (tuple(ids[i : i + width]) for i in ends)


def _samples(rows: Iterable[Row], wanted: int) -> Iterator[Row]:
    """So many rows; a warning where there are fewer."""
    count = 0
    for row in islice(rows, wanted):
        count += 1
        yield row
    if count < wanted:
        logger.warning("statistics: the text has %d samples, %d were asked for", count, wanted)


def _within_budget(rows: Iterable[Row], budget: int) -> Iterator[Row]:
    """Rows until exactly ``budget`` tokens are reached; the last one is cut to fit."""
    for row in rows:
        yield row[:budget]
        budget -= len(row)
        if budget <= 0:
            return


def _batches(rows: Iterable[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Groups of rows of similar length, at most ``batch_tokens`` tokens each with padding (one row at least)."""
    stream = iter(rows)
    while window := sorted(islice(stream, SORT_WINDOW), key=len, reverse=True):
        while window:
            size = max(1, batch_tokens // len(window[0]))
            yield window[:size]
            window = window[size:]


def _bar(what: str, budget: int | None, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=budget, desc=what, unit=" tokens", disable=None if progress else True)


@dataclasses.dataclass
class _Sums:
    """Running sums over batches, with a chained checksum of what went in: a partial file fits only its own run."""

    sums: dict[str, Tensor]
    digest: str
    count: int = 0
    batches: int = 0
    done: int = 0  # batches in the partial file that this run continues
    expected: str = ""  # checksum after those batches

    @classmethod
    def start(
        cls, model: Any, zeros: Mapping[str, Tensor], partial: str | Path | None, settings: tuple[int, ...]
    ) -> _Sums:
        fresh = cls(dict(zeros), _fingerprint(model, (sorted(zeros), settings)))
        if partial is None or not Path(partial).is_file():
            return fresh
        try:
            tensors, metadata = load_tensors(partial)
            found = {name: tensors[f"sum.{name}"].to(zero.device) for name, zero in zeros.items()}
            resumed = cls(found, fresh.digest, int(metadata["count"]), 0, int(metadata["batches"]), metadata["digest"])
        except (ArtifactError, KeyError, TypeError, ValueError):
            return fresh
        fits = metadata.get("start") == fresh.digest and all(found[k].shape == zeros[k].shape for k in zeros)
        return resumed if fits and all(bool(s.isfinite().all()) for s in found.values()) else fresh

    def __post_init__(self) -> None:
        self.start_digest = self.digest

    def skip_done(self, batches: Iterator[list[Row]], skipped: Callable[[int], Any]) -> Iterator[list[Row]]:
        """The batches that are still to be added; all of them when the partial file was made from other texts."""
        first = list(islice(batches, self.done))
        for batch in first:
            self._note(batch)
        if self.done and self.digest == self.expected:
            skipped(self.count)
        elif first:
            for total in self.sums.values():
                total.zero_()
            self.digest, self.count, self.batches = self.start_digest, 0, 0
            yield from first
        yield from batches

    def _note(self, batch: Sequence[Row]) -> None:
        self.digest = hashlib.sha256(f"{self.digest}{list(map(tuple, batch))}".encode()).hexdigest()
        self.batches += 1

    def add(self, batch: Sequence[Row], products: Mapping[str, Tensor]) -> None:
        self._note(batch)
        self.count += sum(map(len, batch))
        for name, product in products.items():
            self.sums[name] += product

    def save(self, path: str | Path) -> None:
        metadata = {"count": self.count, "batches": self.batches, "digest": self.digest, "start": self.start_digest}
        save_tensors(path, {f"sum.{name}": total for name, total in self.sums.items()}, metadata)


def _fingerprint(model: Any, settings: Any) -> str:
    """Checksum of the settings, the model's configuration and up to 256 values of each of its parameters."""
    digest = hashlib.sha256(repr(settings).encode() + str(model.config.to_json_string()).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)].to("cpu", torch.float64)
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()
