"""The stages of the study, from files to files: each is what one rule of the workflow does.

What a function is not given it cannot read: none that chooses anything is given the test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from editlab.config.vision import (
    AlphaEdit,
    FinetuneErrors,
    HeadAblation,
    HeadClosedForm,
    HeadEwc,
    HubViT,
    ImageData,
    Locating,
    Memit,
    ScratchViT,
)
from editlab.edits.edit import Edit
from editlab.errors import ArtifactError, one_line
from editlab.files.artifacts import write_csv, write_json
from editlab.networks.vision import Classifier, load_classifier
from editlab.vision import locate as tracing
from editlab.vision.baselines import ablate, finetune, unchanged_after, worst_heads
from editlab.vision.head import Head, closed_form, ewc
from editlab.vision.keys import KeyStatistics, collect_keys
from editlab.vision.mlp import MlpEditor
from editlab.vision.pixels import ImageSet, Prefix, read_set
from editlab.vision.samples import Draw, check_errors, draw_samples, find_errors, right_rows
from editlab.vision.scoring import Scored, heldout_score, score
from editlab.vision.training import check_accuracy, initial_classifier, save_classifier, train

PathLike = str | Path
LAYER_COLUMNS = ["draw", "sample", "layer", "residual", "key_share", "null_space_dimension", "condition", "update_norm"]


def train_stage(
    section: ScratchViT | HubViT,
    data: ImageData,
    name: str,
    ft_train: PathLike,
    ft_val: PathLike,
    seed: int,
    directory: PathLike,
    metrics: PathLike,
    pretrained: PathLike | None = None,
) -> None:
    """Train the classifier of a seed.

    Raises:
        DataError: it does not reach ``min_accuracy`` on FT-Val.
    """
    images, val = read_set(ft_train), read_set(ft_val)
    classifier = initial_classifier(section, images.classes, seed, pretrained)
    table = train(classifier, images, val, section.training, seed)
    check_accuracy(table, data, name)
    save_classifier(classifier, directory)
    write_csv(metrics, table)


def retrain_stage(
    section: ScratchViT | HubViT,
    ft_train: PathLike,
    ft_val: PathLike,
    discovery: PathLike | None,
    errors: PathLike | None,
    draw: int,
    max_edits: int,
    seed: int,
    order_seed: int,
    directory: PathLike,
    pretrained: PathLike | None = None,
) -> None:
    """Train anew from the initial weights of ``seed``: with the edit samples in FT-Train, or (churn) with neither them nor
    the discovery set, and with another order."""
    images = read_set(ft_train)
    extra = None
    if discovery is not None and errors is not None:
        found = read_set(discovery)
        extra = found.rows(draw_samples(pd.read_csv(errors), draw, max_edits, len(images.classes)).rows)
    classifier = initial_classifier(section, images.classes, seed if extra is not None else order_seed, pretrained)
    train(classifier, images, read_set(ft_val), section.training, order_seed, extra)
    save_classifier(classifier, directory)


def errors_stage(model: PathLike, discovery: PathLike, data: ImageData, name: str, target: PathLike) -> None:
    """Find the discovery errors.

    Raises:
        DataError: there are fewer than ``min_errors``.
    """
    table = find_errors(load_classifier(model), read_set(discovery))
    check_errors(table, data, name)
    write_csv(target, table)


def keys_stage(
    model: PathLike, ft_train: PathLike, layers: Sequence[int] | None, samples: int, seed: int, target: PathLike
) -> None:
    """Collect the preserved keys of ``layers`` (None: of all)."""
    classifier, images = load_classifier(model), read_set(ft_train)
    rows = right_rows(classifier, images, seed)
    chosen = range(classifier.num_layers) if layers is None else layers
    collect_keys(classifier, images, rows, list(chosen), samples, seed).save(target)


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
) -> None:
    """Trace discovery errors, try edits layer by layer, and say whether both name the same layer."""
    classifier, images, table = load_classifier(model), read_set(discovery), pd.read_csv(errors)
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
    """Each layer edited alone: discovery errors that were not edited and are fixed, minus right images broken (mean)."""
    editor, known = MlpEditor(classifier, discovery, keys), {"discovery": Scored.of(classifier, discovery)}
    rows = []
    for layer in range(classifier.num_layers):
        values = []
        for number in range(draws):
            draw = draw_samples(errors, number, max_edits, len(discovery.classes))
            edit, _ = editor.edit(draw, [layer], trial)
            with edit.applied(classifier.model):
                after = {"discovery": known["discovery"].after(classifier, layer)}
            values.append(heldout_score(score(known, after, draw, 0.0, None)))
        rows.append(
            {
                "ranking": "trial",
                "part": "mlp",
                "positions": "cls",
                "layer": layer,
                "head": -1,
                "value": float(np.mean(values)),
            }
            | {"ci_low": min(values), "ci_high": max(values), "n": draws, "ranked": True}
        )
    return pd.DataFrame(rows)


def chosen_layers(recipe: AlphaEdit | Memit, count: int, statistics: PathLike | None) -> list[int]:
    """The edited layers: the user's list, the best of a ranking, or the last ones."""
    if isinstance(recipe.layers, list):
        return recipe.layers
    used = min(recipe.num_edit_layers, count)
    if recipe.layers == "last" or statistics is None:
        return list(range(count - used, count))
    return tracing.best_layers(pd.read_csv(statistics), recipe.layers, used)


def edit_stage(
    model: PathLike,
    discovery: PathLike,
    errors: PathLike,
    keys: PathLike,
    ft_train: PathLike,
    statistics: PathLike | None,
    recipe: Any,
    draws: Sequence[int],
    max_edits: int,
    seed: int,
    directory: PathLike,
    log: PathLike,
    layers: PathLike,
) -> None:
    """Make the edits of all draws: ``draw~N.safetensors``, or ``draw~N/`` where the whole model was trained."""
    classifier, images, table = load_classifier(model), read_set(discovery), pd.read_csv(errors)
    known, solves, logged = KeyStatistics.load(keys), [], []
    make = _maker(classifier, images, known, read_set(ft_train), statistics, recipe, seed)
    before = Prefix(classifier, images).logits().double().softmax(-1)
    for number in draws:
        draw = draw_samples(table, number, max_edits, len(images.classes), getattr(recipe, "control", None))
        with unchanged_after(classifier):
            edit, told = make(draw)
            solves += told
            if edit is None:
                save_classifier(classifier, Path(directory, f"draw~{number}"))
            else:
                edit.save(Path(directory, f"draw~{number}.safetensors"))
                edit.apply_(classifier.model)
            after = Prefix(classifier, images.rows(draw.rows)).logits().double().softmax(-1)
        logged.append(_log(draw, images, before[torch.as_tensor(draw.rows)], after))
    write_csv(log, pd.concat(logged, ignore_index=True))
    write_csv(layers, pd.DataFrame(solves, columns=LAYER_COLUMNS))


def _maker(
    classifier: Classifier,
    discovery: ImageSet,
    keys: KeyStatistics,
    ft_train: ImageSet,
    statistics: PathLike | None,
    recipe: Any,
    seed: int,
) -> Any:
    """A function from a draw to (edit, solves); an edit None means that the classifier itself was changed."""
    if isinstance(recipe, AlphaEdit | Memit):
        editor, layers = (
            MlpEditor(classifier, discovery, keys),
            chosen_layers(recipe, classifier.num_layers, statistics),
        )
        return lambda draw: editor.edit(draw, layers, recipe)
    if isinstance(recipe, HeadEwc | HeadClosedForm):
        head = Head.of(classifier, ft_train.rows(keys.rows[: keys.samples].numpy()), discovery)
        solve = ewc if isinstance(recipe, HeadEwc) else closed_form

        def edit_head(draw: Draw) -> tuple[Edit, list[dict[str, Any]]]:
            edit, told = solve(head, draw, recipe)  # type: ignore[operator]
            return edit, [{"draw": draw.number, "sample": -1, "layer": classifier.num_layers, **told}]

        return edit_head

    def change(draw: Draw) -> tuple[None, list[dict[str, Any]]]:
        if isinstance(recipe, HeadAblation):
            ablate(classifier, worst_heads(classifier, discovery, draw, recipe))
        else:
            assert isinstance(recipe, FinetuneErrors)
            finetune(classifier, discovery, draw, recipe, seed)
        return None, []

    return change


def _log(draw: Draw, images: ImageSet, before: torch.Tensor, after: torch.Tensor) -> pd.DataFrame:
    """One row an edit sample."""
    chosen, targets = images.images.rows(draw.rows), torch.as_tensor(draw.targets.copy())[:, None]
    return pd.DataFrame(
        {
            "draw": draw.number,
            "requested": draw.requested,
            "used": len(draw.rows),
            "clipped": draw.clipped,
            "position": draw.rows,
            "index": chosen.index,
            "label": chosen.labels,
            "target": draw.targets,
            "predicted_before": before.argmax(-1).numpy(),
            "predicted_after": after.argmax(-1).numpy(),
            "p_target_before": before.gather(1, targets)[:, 0].numpy(),
            "p_target_after": after.gather(1, targets)[:, 0].numpy(),
        }
    )


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_table(path: PathLike) -> pd.DataFrame:
    """A CSV of this study.

    Raises:
        ArtifactError: missing or damaged.
    """
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable table ({one_line(error)})") from None
