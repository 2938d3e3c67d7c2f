"""Every way of mending errors under one roof: from a recipe to the edits of its draws, or to retrained classifiers.

What chooses (discovery, FT-Train) is given; the test set is not, so nothing here can look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from editlab.config.vision import RECIPE, AlphaEdit, FinetuneErrors, HeadAblation, HeadClosedForm, HeadEwc, Memit
from editlab.edits.edit import Edit
from editlab.errors import ConfigError
from editlab.files.artifacts import write_csv
from editlab.networks.vision import Classifier, load_classifier
from editlab.randomness import set_threads
from editlab.vision import locate as tracing
from editlab.vision.baselines import ablate, finetune, save_weights, unchanged_after, worst_heads
from editlab.vision.head import Head, closed_form, ewc
from editlab.vision.keys import KeyStatistics
from editlab.vision.mlp import MlpEditor
from editlab.vision.pixels import ImageSet, Prefix, read_set
from editlab.vision.samples import Draw, draw_samples

PathLike = str | Path
LAYER_COLUMNS = [
    "draw", "sample", "layer", "residual", "key_share", "null_space_dimension", "condition", "ridge_raised", "update_norm",
    "penalty",
]  # fmt: skip


def chosen_layers(recipe: AlphaEdit | Memit, count: int, statistics: PathLike | None) -> list[int]:
    """The edited layers: the user's list, the best of a ranking, or the last ones.

    Raises:
        ConfigError: the best of a ranking are wanted, and there is none.
    """
    if isinstance(recipe.layers, list):
        return recipe.layers
    used = min(recipe.num_edit_layers, count)
    if recipe.layers == "last":
        return list(range(count - used, count))
    if statistics is None:
        raise ConfigError(f"layers: {recipe.layers!r} needs a ranking of the layers, and none was given")
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
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Make the edits of all draws: ``draw~N.safetensors``, an edit, or all weights where the whole model was trained."""
    set_threads(threads)
    recipe = RECIPE.validate_python(recipe)
    classifier, images, table = load_classifier(model, device), read_set(discovery), pd.read_csv(errors)
    known, solves, logged = KeyStatistics.load(keys), [], []
    make = _maker(classifier, images, known, read_set(ft_train), statistics, recipe, seed)
    before = Prefix(classifier, images).logits().double().softmax(-1)
    for number in draws:
        draw = draw_samples(table, number, max_edits, len(images.classes), getattr(recipe, "control", None))
        with unchanged_after(classifier):
            edit, told = make(draw)
            target = Path(directory, f"draw~{number}.safetensors")
            solves += told
            if edit is None:
                save_weights(classifier, target)
            else:
                edit.save(target)
                edit.apply_(classifier.model)
            after = Prefix(classifier, images.rows(draw.rows)).logits().double().softmax(-1)
        logged.append(_log(draw, images, before[torch.as_tensor(draw.rows)], after))
    write_csv(log, pd.concat(logged, ignore_index=True))
    for row in solves:  # ridges that a solve had to add before its system could be factored: empty where it had none
        row["ridge_raised"] = " ".join(f"{ridge:g}" for ridge in row.get("ridge_raised", []))
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

        def edit_head(draw: Draw) -> tuple[Edit, list[dict[str, Any]]]:
            edit, told = ewc(head, draw, recipe) if isinstance(recipe, HeadEwc) else closed_form(head, draw, recipe)
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
