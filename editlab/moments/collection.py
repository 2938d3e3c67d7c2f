"""Second moments of keys: what the input of an edited map looks like over ordinary text.

ROME, MEMIT and their kin weigh an update by ``C = E[k k^T]`` (d_in, d_in), the uncentred second moment of the input of
a layer's MLP output projection over the tokens of a corpus: directions that text uses often are expensive to change
(Meng et al., 2022, arXiv 2202.05262, eq. 2; 2210.07229, section 4.2). The estimate streams: each batch adds ``K^T K``
of its tokens (float32 product, float64 sum on the device of the layer), for all layers in one pass that stops after the highest.
Every token of a text counts, special tokens included, as in MEMIT's published statistics; padding never does.
The sums depend on the texts, their order and the batch size only, so a run that was interrupted and resumed from its
partial file equals an undisturbed one bit for bit.
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

from editlab.algebra.second_moment import SecondMoment
from editlab.config.preparation import Statistics
from editlab.errors import ArtifactError, ConfigError, DataError, NumericalError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen, run
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import pad

logger = logging.getLogger(__name__)

SORT_WINDOW = 512
"""Texts that are tokenised together, and rows that are sorted by length so that batches hold little padding."""

Row = tuple[int, ...]


def collect_second_moments(
    model: Any,
    texts: Iterable[str],
    layers: Sequence[int],
    options: Statistics | None = None,
    *,
    tokens: int | None = None,
    batch_tokens: int = 4096,
    partial: str | Path | None = None,
    save_every: int = 20,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Second moment of the input of each layer's MLP output projection, all layers in one pass.

    Args:
        model: causal language model with its tokenizer as ``model.tokenizer``.
        texts: corpus, read in order until the budget is spent; a text longer than ``options.max_length`` tokens (at most
            the model's context) is cut into windows of that length.
        options: its budget is ``tokens_per_dimension`` times the largest d_in: with fewer tokens than d_in, ``C`` is
            singular. A shorter corpus is used whole; ``count`` of the result says how many tokens there were. With
            ``samples`` the budget is so many texts, the first window of each, as published.
        tokens: exact token budget in place of that.
        batch_tokens: tokens (with padding) a forward pass.
        partial: file to which the sums go every ``save_every`` batches and from which an interrupted run of the same
            model, texts and settings continues; another run's file is ignored. The caller removes it at the end.

    Returns:
        {layer: second moment (d_in, d_in), float64, on the CPU}, not factored.

    Raises:
        ModelError: no tokenizer or a layer out of range.
        ConfigError: a budget is not positive.
        DataError: the texts hold no token.
        NumericalError: an activation is NaN or infinite.
    """
    architecture = Architecture(model)
    layers = architecture.check_layers(layers)
    sizes = {layer: architecture.weight_shape(layer)[1] for layer in layers}
    options = options or Statistics()
    samples = options.samples if tokens is None else None
    budget = int(options.tokens_per_dimension * max(sizes.values())) if tokens is None else int(tokens)
    for name, value in (("tokens", budget), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise ConfigError(f"statistics: {name}: {value} is not allowed; it must be 1 or more")
    width = min(options.max_length, getattr(model.config, "max_position_embeddings", None) or options.max_length)
    if samples is None:
        rows = _within_budget(_windows(tokenizer_of(model), texts, width), budget)
    else:
        rows, budget = _samples(_windows(tokenizer_of(model), texts, width, first_only=True), samples), 0
    sums = _Sums.start(architecture, sizes, partial, (budget, samples or 0, width, batch_tokens))
    with _bar(budget or None, progress) as bar, frozen(model):
        for batch in sums.skip_done(_batches(rows, batch_tokens), bar.update):
            sums.add(batch, _products(architecture, layers, batch))
            bar.update(sum(map(len, batch)))
            if partial is not None and sums.batches % save_every == 0:
                sums.save(partial)
                logger.info("second moments: %d tokens of %s", sums.count, budget or f"{samples} samples")
    if not sums.count:
        raise DataError("statistics: the texts hold no token to collect second moments over")
    return {layer: SecondMoment((sums.sums.pop(layer) / sums.count).cpu(), sums.count) for layer in layers}


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


def _products(architecture: Architecture, layers: Sequence[int], rows: Sequence[Row]) -> dict[int, Tensor]:
    """``K^T K`` (d_in, d_in) over the real tokens of one batch, by layer: a float32 product on the layer's device."""
    tokenizer = tokenizer_of(architecture.model)
    ids, mask = pad(rows, int(tokenizer.pad_token_id or 0), architecture.device)
    projections = {layer: architecture.projection(layer) for layer in layers}
    with torch.no_grad(), capture(inputs=projections, stop_after=projections[layers[-1]]) as captured:
        run(architecture.model, input_ids=ids, attention_mask=mask, use_cache=False)
    products = {}
    for layer in layers:
        keys = captured.pop(layer)
        keys = keys[mask.to(keys.device).bool()].float()
        products[layer] = keys.T @ keys
        if not bool(products[layer].isfinite().all()):
            raise NumericalError(f"statistics: the activations of layer {layer} hold NaN or infinite values")
    return products


def _bar(budget: int | None, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=budget, desc="second moments", unit=" tokens", disable=None if progress else True)


@dataclasses.dataclass
class _Sums:
    """Running sums over batches, with a chained checksum of what went in: a partial file fits only its own run."""

    sums: dict[int, Tensor]
    digest: str
    count: int = 0
    batches: int = 0
    done: int = 0  # batches in the partial file that this run continues
    expected: str = ""  # checksum after those batches

    @classmethod
    def start(
        cls, architecture: Architecture, sizes: Mapping[int, int], partial: str | Path | None, settings: tuple[int, ...]
    ) -> _Sums:
        places = {layer: architecture.weight(layer).device for layer in sizes}
        zeros = {k: torch.zeros(d_in, d_in, dtype=torch.float64, device=places[k]) for k, d_in in sizes.items()}
        fresh = cls(zeros, _fingerprint(architecture.model, (sorted(sizes), settings)))
        if partial is None or not Path(partial).is_file():
            return fresh
        try:
            tensors, metadata = load_tensors(partial)
            found = {layer: tensors[f"sum.{layer}"].to(places[layer]) for layer in sizes}
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

    def add(self, batch: Sequence[Row], products: Mapping[int, Tensor]) -> None:
        self._note(batch)
        self.count += sum(map(len, batch))
        for layer, product in products.items():
            self.sums[layer] += product

    def save(self, path: str | Path) -> None:
        metadata = {"count": self.count, "batches": self.batches, "digest": self.digest, "start": self.start_digest}
        save_tensors(path, {f"sum.{layer}": total for layer, total in self.sums.items()}, metadata)


def _fingerprint(model: Any, settings: Any) -> str:
    """Checksum of the settings, the model's configuration and up to 256 values of each of its parameters."""
    digest = hashlib.sha256(repr(settings).encode() + str(model.config.to_json_string()).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)].to("cpu", torch.float64)
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def mix_keys(groups: Sequence[Tensor]) -> Tensor:
    """Groups of keys, each (d_in, n_g), as one matrix whose ``K K^T`` is the mean of their second moments.

    A site that is edited (the classification token, a subject's last token) is one key among hundreds of a text or an image;
    counted like all others it would be diluted. In a mixture every group has the same weight, whatever its size.
    """
    return torch.cat([group.double() / (len(groups) * group.shape[1]) ** 0.5 for group in groups], dim=1)
