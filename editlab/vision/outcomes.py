"""Score what the edits of a method left behind: every draw on every level, the images that changed, the confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from editlab.config.vision import RECIPE
from editlab.edits.edit import Edit
from editlab.files.artifacts import write_csv
from editlab.networks.vision import Classifier, load_classifier
from editlab.randomness import set_threads
from editlab.vision.baselines import load_weights
from editlab.vision.keys import KeyStatistics
from editlab.vision.pixels import read_set
from editlab.vision.samples import Draw, draw_samples
from editlab.vision.scoring import Scored, confusion, per_class, preserved_set, samples_of, score

PathLike = str | Path


def first_changed(edit: Edit, classifier: Classifier) -> int:
    """The lowest block that an edit changes (the number of blocks for the head): what is below need not run again."""
    return min([*edit.layers, classifier.num_layers])


def open_outcome(path: Path, classifier: Classifier, model: PathLike) -> tuple[Classifier, Edit | None]:
    """What was left for a draw: an edit of the classifier in ``model``, all its weights, or another one's directory.

    Raises:
        ArtifactError: the file is damaged, or holds neither.
        ModelError: the directory is no classifier.
    """
    if path.is_dir():
        return load_classifier(path, classifier.device), None
    other = load_classifier(model, classifier.device)
    return (other, None) if load_weights(other, path) else (classifier, Edit.load(path))


def score_stage(
    model: PathLike,
    outcomes: Sequence[tuple[int, PathLike]],
    discovery: PathLike,
    errors: PathLike,
    test: PathLike,
    ft_train: PathLike,
    keys: PathLike,
    recipe: Any,
    max_edits: int,
    options: Mapping[str, Any],
    coordinates: Mapping[str, Any],
    targets: Mapping[str, PathLike],
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Score the outcomes of all draws.

    Args:
        outcomes: (draw, edit file or model directory); for churn, the one model that stands for no edit.
        options: ``heldout_samples`` and ``ambiguous_gap``.
        coordinates: columns that every row gets (dataset, method, seed).
        targets: where ``table`` (levels), ``cases``, ``classes`` and ``matrices`` go.
    """
    set_threads(threads)
    recipe = RECIPE.validate_python(recipe)
    classifier = load_classifier(model, device)
    statistics, heldout = KeyStatistics.load(keys), int(options["heldout_samples"])
    images = {"discovery": read_set(discovery), "test": read_set(test)}
    images["preserved"] = preserved_set(read_set(ft_train), statistics, samples_of(recipe), heldout)
    sets = {name: Scored.of(classifier, each) for name, each in images.items()}
    found, samples = pd.read_csv(errors), min(samples_of(recipe), statistics.samples)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in targets}
    for number, path in sorted(outcomes):
        edited, edit = open_outcome(Path(path), classifier, model)
        after, draw = _after(sets, edited, edit), None
        if recipe.method != "churn":
            draw = draw_samples(found, number, max_edits, edited.classes, getattr(recipe, "control", None))
        known, about = sets["test"], {**coordinates, "draw": number}
        used = {"requested": max_edits if draw else 0, "used": len(draw.rows) if draw else 0}
        made = {
            "table": score(sets, after, draw, float(options["ambiguous_gap"]), samples),
            "cases": _cases(sets, after, draw),
            "classes": per_class(known.before, after["test"], known.labels, edited.classes),
            "matrices": _matrices(known, after["test"], edited.classes),
        }
        for name, rows in made.items():
            more = {**used, "clipped": bool(draw and draw.clipped)} if name == "table" else {}
            parts[name].append(_with({**about, **more}, rows))
    for name, frames in parts.items():
        write_csv(targets[name], pd.concat(frames, ignore_index=True))


def _after(sets: Mapping[str, Scored], edited: Classifier, edit: Edit | None) -> dict[str, torch.Tensor]:
    if edit is None:
        return {name: known.after(edited, 0) for name, known in sets.items()}
    first = first_changed(edit, edited)
    with edit.applied(edited.model):
        return {name: known.after(edited, first) for name, known in sets.items()}


def _with(about: Mapping[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([pd.DataFrame([dict(about)] * len(rows), index=rows.index), rows], axis=1)


def _cases(sets: Mapping[str, Scored], after: Mapping[str, torch.Tensor], draw: Draw | None) -> pd.DataFrame:
    """Images of discovery and test that were wrong before or after."""
    parts = []
    for name in ("discovery", "test"):
        known = sets[name]
        frame = pd.DataFrame({"position": np.arange(len(known.before)), "index": known.prefix.images.images.index})
        frame = frame.assign(
            set=name, label=known.labels.numpy(), before=known.before.numpy(), after=after[name].numpy()
        )
        frame["edited"] = frame["position"].isin(draw.rows) if draw is not None and name == "discovery" else False
        parts.append(frame[(frame["before"] != frame["label"]) | (frame["after"] != frame["label"]) | frame["edited"]])
    return pd.concat(parts, ignore_index=True)


def _matrices(known: Scored, after: torch.Tensor, classes: int) -> pd.DataFrame:
    """Confusion matrices of the test set, before and after: one row a pair of classes."""
    found = {"before": confusion(known.before, known.labels, classes), "after": confusion(after, known.labels, classes)}
    label, predicted = np.divmod(np.arange(classes**2), classes)
    return pd.DataFrame({"label": label, "predicted": predicted, **{k: v.reshape(-1) for k, v in found.items()}})
