"""Where an error arises: causal tracing over images, and how stable its ranking of layers is.

As for language models (Meng et al. 2022, arXiv 2202.05262, section 2), the patches' embeddings are hidden under noise, and one
clean output at a time is put back: how much of the prediction's probability returns? Noise is Gaussian with ``noise`` x the
standard deviation of the patch projection's output, added after positions, CLS left clean; the same draws for all layers
of a sample. Recovery is normalised by the *mean* drop, ``E[p_restored - p_corrupt] / E[p_clean - p_corrupt]``: single drops can
be near zero. Restoring a whole block at all positions recovers everything by construction, as does the last block at CLS;
they are reported and never ranked. What is ranked is the MLP output at CLS, the site of the edits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from editlab.config.vision import Locating
from editlab.networks.hooks import capture, replace_outputs
from editlab.networks.vision import CLS, Classifier
from editlab.randomness import derive_seed, torch_rng
from editlab.vision.pixels import ImageSet, batch_size

RANKED = ("mlp", "cls")
RESAMPLES = 1000


@dataclass(frozen=True)
class Site:
    """What is restored: a part of a layer (or a window of layers), at CLS or at all positions; of attention maybe one head."""

    part: str
    positions: str
    layer: int
    head: int = -1


def sites(classifier: Classifier, options: Locating) -> list[Site]:
    """All sites that are traced, layers together."""
    layers = range(classifier.num_layers)
    found = [Site(part, where, k) for part in options.parts for where in options.positions for k in layers]
    if options.by_head:
        found += [Site("head", "cls", k, head) for k in layers for head in range(classifier.heads)]
    return found


def trace(classifier: Classifier, images: ImageSet, rows: Sequence[int], options: Locating, seed: int) -> pd.DataFrame:
    """One row a sample and site: sample, part, positions, layer, head, p_clean, p_corrupt, p_restored.

    Args:
        rows: positions of the samples in ``images``; the target is what the classifier predicts for each.
    """
    pixels = images.tensor(classifier, list(rows))
    with torch.no_grad():
        sigma = float(classifier.patch_embeddings(pixels).std())
    records = []
    for position, image in zip(rows, pixels, strict=True):
        found = _trace_one(classifier, image[None], int(position), sigma, options, seed)
        records += [{"sample": int(position), **record} for record in found]
    return pd.DataFrame(records)


def _trace_one(
    classifier: Classifier, image: Tensor, sample: int, sigma: float, options: Locating, seed: int
) -> list[dict[str, Any]]:
    generator = torch_rng("vision trace", seed, sample)
    with torch.no_grad():
        embedded = classifier.embed(image)
        clean = _Clean.of(classifier, embedded)
        target = int(clean.probabilities.argmax())
        noise = torch.randn(options.num_ablations, *embedded.shape[1:], generator=generator).to(embedded)
        noise[:, CLS] = 0.0
        corrupt = embedded + options.noise * sigma * noise

        def probability() -> float:
            parts = corrupt.split(batch_size(classifier))
            return float(
                torch.cat([classifier.logits(classifier.through(p)).softmax(-1) for p in parts])[:, target].mean()
            )

        known = {"p_clean": float(clean.probabilities[target]), "p_corrupt": probability()}
        records = []
        for site in sites(classifier, options):
            with clean.restored(classifier, site, options.window):
                records.append({**vars(site), **known, "p_restored": probability()})
    return records


def window_of(layer: int, window: int, count: int) -> range:
    """``window`` layers around one, fewer at the ends; of an even number one more lies above."""
    return range(max(0, layer - (window - 1) // 2), min(count, layer + window // 2 + 1))


@dataclass(frozen=True, eq=False)
class _Clean:
    """Activations of the clean image by (part, layer), and what the classifier says about it."""

    states: dict[Any, Tensor]
    probabilities: Tensor

    @classmethod
    def of(cls, classifier: Classifier, embedded: Tensor) -> _Clean:
        modules = {(part, k): _module(classifier, part, k) for part in _OUTPUTS for k in range(classifier.num_layers)}
        inputs = {("head", k): classifier.architecture.attention_output(k) for k in range(classifier.num_layers)}
        with capture(inputs=inputs, outputs=modules) as states:
            logits = classifier.logits(classifier.through(embedded))
        return cls(dict(states), logits.softmax(-1)[0])

    @contextlib.contextmanager
    def restored(self, classifier: Classifier, site: Site, window: int) -> Iterator[None]:
        """Inside the block the site gives its clean output."""
        layers = window_of(site.layer, window, classifier.num_layers)
        if site.part == "head":
            size = classifier.width // classifier.heads
            columns = slice(site.head * size, (site.head + 1) * size)
            module = classifier.architecture.attention_output(site.layer)
            with _input_replaced(module, self.states["head", site.layer][:, CLS, columns], columns):
                yield
            return
        chosen = slice(CLS, CLS + 1) if site.positions == "cls" else slice(None)
        edits = {_module(classifier, site.part, k): _put(self.states[site.part, k], chosen) for k in layers}
        with replace_outputs(edits):
            yield


_OUTPUTS = ("mlp", "attention", "block")


def _module(classifier: Classifier, part: str, layer: int) -> nn.Module:
    architecture = classifier.architecture
    find = {"mlp": architecture.projection, "attention": architecture.attention_output, "block": architecture.block}
    return find[part](layer)


def _put(clean: Tensor, positions: slice) -> Callable[[Tensor], Tensor]:
    def replace(output: Tensor) -> Tensor:
        output = output.clone()
        output[:, positions] = clean[:, positions]
        return output

    return replace


@contextlib.contextmanager
def _input_replaced(module: nn.Module, clean: Tensor, columns: slice) -> Iterator[None]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0].clone()
        hidden[:, CLS, columns] = clean
        return (hidden, *args[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def recovery(frame: pd.DataFrame) -> float:
    """``E[p_restored - p_corrupt] / E[p_clean - p_corrupt]``; NaN where noise hides nothing."""
    drop = float((frame["p_clean"] - frame["p_corrupt"]).mean())
    return float((frame["p_restored"] - frame["p_corrupt"]).mean()) / drop if abs(drop) > 1e-9 else float("nan")


def layer_statistics(importance: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row a site: recovery with a bootstrap interval over samples, n, and whether it is what layers are ranked by."""
    samples = np.array(sorted(importance["sample"].unique()))
    drawn = np.random.default_rng(derive_seed("vision recovery", seed)).integers(
        len(samples), size=(resamples, len(samples))
    )
    rows = []
    for (part, positions, layer, head), mine in importance.groupby(["part", "positions", "layer", "head"], sort=True):
        ordered = mine.set_index("sample").loc[samples]
        gain = (ordered["p_restored"] - ordered["p_corrupt"]).to_numpy()
        drop = (ordered["p_clean"] - ordered["p_corrupt"]).to_numpy()
        draws = gain[drawn].mean(1) / np.where(np.abs(drop[drawn].mean(1)) > 1e-9, drop[drawn].mean(1), np.nan)
        low, high = np.nanquantile(draws, [0.025, 0.975]) if np.isfinite(draws).any() else (np.nan, np.nan)
        ranked = (part, positions) == RANKED
        rows.append(
            {
                "ranking": "trace",
                "part": part,
                "positions": positions,
                "layer": layer,
                "head": head,
                "value": recovery(mine),
            }
            | {"ci_low": low, "ci_high": high, "n": len(samples), "ranked": ranked}
        )
    return pd.DataFrame(rows)


def split_half(importance: pd.DataFrame, splits: int, seed: int) -> float:
    """Mean Spearman correlation of the layers' ranking between random halves of the samples."""
    from scipy.stats import spearmanr

    mine = importance[(importance["part"] == RANKED[0]) & (importance["positions"] == RANKED[1])]
    samples = sorted(mine["sample"].unique())
    rng = np.random.default_rng(derive_seed("vision halves", seed))
    found = []
    for _ in range(splits):
        half = set(rng.permutation(samples)[: len(samples) // 2].tolist())
        chosen = mine["sample"].isin(half)
        values = [
            pd.Series({layer: recovery(rows) for layer, rows in part.groupby("layer")})
            for part in (mine[chosen], mine[~chosen])
        ]
        if min(len(v) for v in values) > 1 and all(v.nunique() > 1 for v in values):
            found.append(float(spearmanr(values[0], values[1]).statistic))
    return float(np.mean(found)) if found else float("nan")


def agreement(statistics: pd.DataFrame) -> dict[str, Any]:
    """Whether the trace and the trial edits name the same layer, and how their rankings correlate."""
    from scipy.stats import spearmanr

    ranked = statistics[statistics["ranked"]]
    by = {name: part.set_index("layer")["value"].sort_index() for name, part in ranked.groupby("ranking")}
    if set(by) != {"trace", "trial"}:
        return {}
    constant = any(values.nunique() < 2 for values in by.values()) or len(by["trace"]) < 2
    rho = float("nan") if constant else float(spearmanr(by["trace"], by["trial"]).statistic)
    top = {name: int(best_layers(statistics, name, 1)[0]) for name in ("trace", "trial")}
    return {
        "trace_layer": top["trace"],
        "trial_layer": top["trial"],
        "same_layer": top["trace"] == top["trial"],
        "spearman": rho,
    }


def best_layers(statistics: pd.DataFrame, ranking: str, count: int) -> list[int]:
    """The first ``count`` layers of a ranking, ascending; of equal ones the later."""
    mine = statistics[statistics["ranked"] & (statistics["ranking"] == ranking)]
    ordered = mine.sort_values(["value", "layer"], ascending=[False, False])
    return sorted(int(layer) for layer in ordered["layer"][:count])
