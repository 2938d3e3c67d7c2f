"""Retraining of edited models (RTT): is an edited-away fact gone, or only covered up?

The edited model is fine-tuned on the *true* objects of a part of the edited facts. If the old objects of the *other*
edited facts come back too, the edit had hidden them and not removed them (the test of unlearning by Deeb and Roger,
2024, arXiv 2410.08827, turned on edits). Three controls tell what the fine-tuning itself does: the unedited model,
treated alike (condition C); the edited model, fine-tuned on objects that were drawn anew, so that it is taught the form of the
answers and no truth (condition N); and facts that were never edited.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from editlab.config.evaluation import Retraining
from editlab.data.requests import EditRequest
from editlab.edits.edit import Edit
from editlab.evaluation.scoring import score_requests
from editlab.randomness import python_rng
from editlab.training.retraining import completion_rows, finetune, restored, split

if TYPE_CHECKING:
    import pandas as pd


def retrain_on_truth(
    model: nn.Module,
    edit: Edit,
    edited: Sequence[EditRequest],
    never_edited: Sequence[EditRequest],
    options: Retraining,
    seed: int,
) -> pd.DataFrame:
    """Retrain the edited and the unedited model, and score the old objects before and after; both come back unchanged.

    Args:
        model: unedited.
        edited: facts that ``edit`` changed.
        never_edited: facts that it did not, with an object that was not asked for as ``target_new``; at most
            ``options.controls`` of them are scored.
        seed: of the split and of the order.

    Returns:
        one row a (model, facts, when, probe): ``model`` edited (B), unedited (C) or redrawn (N: edited, and retrained on
        objects of other facts); ``facts`` retrained, held_out or never_edited; ``when`` before or after;
        ``success`` (old object more likely than the new one), ``accuracy`` (old
        object the most likely of all) and ``n`` facts.

    Raises:
        DataError: too few facts to split.
    """
    import pandas as pd

    retrained, held_out = split(edited, options.share, seed)
    groups = {"retrained": retrained, "held_out": held_out, "never_edited": list(never_edited[: options.controls])}
    rows: list[dict[str, Any]] = []
    truth = [(r.rewrite_prompt, r.target_true) for r in retrained]
    redrawn = redrawn_objects(retrained, seed)
    for name, change, told in (("unedited", None, truth), ("edited", edit, truth), ("redrawn", edit, redrawn)):
        with contextlib.ExitStack() as stack:
            if change is not None:
                stack.enter_context(change.applied(model))
            rows += [{"model": name, "when": "before", **row} for row in _scores(model, groups)]
            stack.enter_context(restored(model))
            rows_told = completion_rows(model, told)
            finetune(model, rows_told, epochs=options.epochs, batch=options.batch, lr=options.lr, seed=seed)
            rows += [{"model": name, "when": "after", **row} for row in _scores(model, groups)]
    return pd.DataFrame(rows)


def redrawn_objects(facts: Sequence[EditRequest], seed: int) -> list[tuple[str, str]]:
    """(prompt, object) with each fact given a wrong object: the true one of another fact, of the same relation if any.

    A fact whose object all facts share keeps none and is left out.
    """
    rng = python_rng("redrawn objects", seed)
    found = []
    for fact in facts:
        alike = sorted({f.target_true for f in facts if f.relation_id == fact.relation_id} - {fact.target_true})
        others = alike or sorted({f.target_true for f in facts} - {fact.target_true})
        if others:
            found.append((fact.rewrite_prompt, rng.choice(others)))
    return found


def _scores(model: nn.Module, groups: dict[str, list[EditRequest]]) -> list[dict[str, Any]]:
    """Scores of the old objects: the requests turned round."""
    rows: list[dict[str, Any]] = []
    for name, facts in groups.items():
        turned = [dataclasses.replace(r, target_new=r.target_true, target_true=r.target_new) for r in facts]
        if not turned:
            continue
        frame = score_requests(model, turned, ("rewrite", "paraphrase"))
        for probe, part in frame.groupby("probe", sort=True):
            means = part.groupby("case_id")[["success", "accuracy"]].mean().mean()
            values = {"success": float(means["success"]), "accuracy": float(means["accuracy"])}
            rows.append({"facts": name, "probe": probe, **values, "n": part["case_id"].nunique()})
    return rows
