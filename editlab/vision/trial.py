"""Locate the layers to edit: the causal trace, and a second ranking that edits each layer alone and looks what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.config.vision import RECIPE, AlphaEdit, Locating, Memit
from editlab.files.artifacts import write_csv, write_json
from editlab.networks.vision import Classifier, load_classifier
from editlab.randomness import set_threads
from editlab.vision import locate as tracing
from editlab.vision.discovery import heldout_score
from editlab.vision.keys import KeyStatistics
from editlab.vision.mlp import MlpEditor
from editlab.vision.pixels import ImageSet, read_set
from editlab.vision.samples import draw_samples
from editlab.vision.scoring import Scored, score

PathLike = str | Path


def locate_stage(
    model: PathLike,
    discovery: PathLike,
    errors: PathLike,
    keys: PathLike,
    options: Locating,
    trial: AlphaEdit | Memit,
    max_edits: int,
    seed: int,
    importance: PathLike,
    statistics: PathLike,
    summary: PathLike,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Trace discovery errors, try edits layer by layer, and say whether both name the same layer."""
    set_threads(threads)
    options = Locating.model_validate(options)
    trial = RECIPE.validate_python(trial)
    classifier, images, table = load_classifier(model, device), read_set(discovery), pd.read_csv(errors)
    rows = draw_samples(table, 0, options.max_samples, len(images.classes)).rows
    traced = tracing.trace(classifier, images, rows.tolist(), options, seed)
    found = tracing.layer_statistics(traced, seed=seed)
    tried = trial_ranking(classifier, images, table, KeyStatistics.load(keys), trial, options.trial_draws, max_edits)
    both = pd.concat([found, tried], ignore_index=True)
    write_csv(importance, traced)
    write_csv(statistics, both)
    halves = tracing.split_half(traced, options.splits, seed)
    write_json(summary, {"split_half": _number(halves), **{k: _number(v) for k, v in tracing.agreement(both).items()}})


def trial_ranking(
    classifier: Classifier,
    discovery: ImageSet,
    errors: pd.DataFrame,
    keys: KeyStatistics,
    trial: AlphaEdit | Memit,
    draws: int,
    max_edits: int,
) -> pd.DataFrame:
    """Each layer edited alone: discovery errors that were not edited and are fixed, minus right images broken.

    Mean over draws with Student's interval; for a single draw without one.
    """
    editor, known = MlpEditor(classifier, discovery, keys), {"discovery": Scored.of(classifier, discovery)}
    rows = []
    for layer in range(classifier.num_layers):
        values = []
        for number in range(draws):
            draw = draw_samples(errors, number, max_edits, len(discovery.classes))
            edit, _ = editor.edit(draw, [layer], trial)
            with edit.applied(classifier.model):
                after = {"discovery": known["discovery"].after(classifier, layer)}
            values.append(heldout_score(score(known, after, draw)))
        low, high = _interval(values)
        rows.append(
            {
                "ranking": "trial",
                "part": "mlp",
                "positions": "cls",
                "layer": layer,
                "head": -1,
                "value": float(np.mean(values)),
            }
            | {"ci_low": low, "ci_high": high, "n": draws, "ranked": True}
        )
    return pd.DataFrame(rows)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval of a mean."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
