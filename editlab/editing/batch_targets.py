"""The targets of a batch as a recipe wants them: on which weights, holding what, at what length; and what its event says."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from editlab.config.recipe import Recipe
from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest, read_json
from editlab.data.subject_prompts import ESSENCE, SubjectPrompts
from editlab.editing.anchor import anchor_length, anchored
from editlab.editing.events import TargetsEvent
from editlab.editing.keys import compute_values
from editlab.editing.snapshot import put_back
from editlab.editing.stress import Stress
from editlab.editing.targets import Targets, optimize_targets
from editlab.networks.hooks import restored

if TYPE_CHECKING:
    from editlab.editing.proposer import Proposer

logger = logging.getLogger(__name__)


def optimized(
    proposer: Proposer,
    requests: Sequence[EditRequest],
    stress: Stress | None = None,
    beside: Sequence[EditRequest] = (),
) -> Targets:
    """Targets at the last edited layer, on the weights that the recipe asks for and at the length that it gives them.

    Args:
        requests: as the recipe looks them up.
        beside: further facts of the solve.
    """
    recipe, layer, site = proposer.recipe, proposer.layers[-1], proposer.recipe.site
    assert isinstance(recipe, TargetOptions)
    find = functools.partial(_found, proposer, requests, stress.options(recipe) if stress else recipe, beside)
    if recipe.rewind or recipe.norm_anchor:
        with restored(proposer.weights):
            put_back(proposer.weights, proposer.originals)
            anchor = compute_values(proposer.model, requests, layer, site).norm(dim=0)
            if recipe.rewind:
                targets, outputs = find()
    if not recipe.rewind:
        targets, outputs = find()
    if recipe.norm_anchor:
        targets = dataclasses.replace(targets, z=targets.z * (anchor / targets.z.norm(dim=0)))
    return targets if outputs is None else anchored(outputs, targets, _anchor_length(proposer))


def _found(
    proposer: Proposer, requests: Sequence[EditRequest], options: TargetOptions, beside: Sequence[EditRequest] = ()
) -> tuple[Targets, Tensor | None]:
    """Targets on the weights as they are, and what the MLP gives there where lengths are anchored to pilot edits."""
    model, layer = proposer.model, proposer.layers[-1]
    others = [prompts or list(ESSENCE) for prompts in proposer.other_relations(requests, beside)]
    site = proposer.recipe.site
    targets = optimize_targets(model, requests, layer, proposer.contexts, options, site=site, others=others)
    return targets, compute_values(model, requests, layer, "mlp") if proposer.pilots else None


def _anchor_length(proposer: Proposer) -> float:
    """The length of the pilot edits' targets on the unedited weights, found once."""
    if proposer.anchor_length is None:
        recipe, pilots = proposer.recipe, proposer.asked(proposer.pilots)
        assert isinstance(recipe, TargetOptions)
        with restored(proposer.weights):
            put_back(proposer.weights, proposer.originals)
            targets, outputs = _found(proposer, pilots, recipe)
        assert outputs is not None
        proposer.anchor_length = anchor_length(outputs, targets)
    return proposer.anchor_length


def held_relations(recipe: Recipe, records: Sequence[EditRequest]) -> SubjectPrompts | None:
    """What else may be asked of subjects, where the recipe holds it or tells a part of it apart: from its table, else from the
    records of the data set."""
    if not (isinstance(recipe, TargetOptions) and (recipe.subject_weight or recipe.subject_share < 1)):
        return None
    table = recipe.subject_relations
    return SubjectPrompts.of_table(read_json(table), table) if table else SubjectPrompts.of_records(records)


def described(proposer: Proposer, requests: Sequence[EditRequest], targets: Targets, *, warn: bool) -> TargetsEvent:
    """What the event of a batch says of its targets.

    Args:
        warn: log a line where no other relation is known of a subject whose relations are held.
    """
    return TargetsEvent(
        steps_mean=float(targets.steps.double().mean()),
        loss_mean=float(targets.loss.mean()),
        norm_mean=float(targets.z.norm(dim=0).mean()),
        unconverged=targets.unconverged,
        skipped=targets.skipped,
        unrelated=_unrelated(proposer, requests, warn=warn) if proposer.recipe.holds_subject else None,
    )


def _unrelated(proposer: Proposer, requests: Sequence[EditRequest], *, warn: bool) -> int:
    """Facts of whose subject no other relation is known to be held."""
    count = sum(not prompts for prompts in proposer.other_relations(requests))
    if count and warn:
        logger.warning(
            "subject_weight: no other relation is known of the subjects of %d of %d facts; what follows %s is held there",
            count,
            len(requests),
            ", ".join(repr(prompt) for prompt in ESSENCE),
        )
    return count
