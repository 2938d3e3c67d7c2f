"""Norm-anchor scaling as published (NAS, arXiv 2602.02543): the MLP's part of a target gets the length of clean edits.

``v = m + delta``, with ``m`` what the MLP gives and ``delta`` what the target adds, is rescaled to ``a``, the mean length of v
over pilot edits of the model as it was, without their longest twentieth; what the block adds around the MLP stays as it is.
A fact whose v is longer than ``2 a`` is not edited. (``norm_anchor`` rescales the whole target to its unedited length.)
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from editlab.config.recipe import Recipe
from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest
from editlab.editing.targets import Targets
from editlab.errors import ConfigError

logger = logging.getLogger(__name__)

DROPPED = 0.05
"""Share of the pilot edits that is left out, the longest ones."""
LONGEST = 2.0
"""Length, in anchors, above which a target is given up."""


def pilots_of(recipe: Recipe, tuning: Sequence[EditRequest]) -> list[EditRequest]:
    """The pilot facts of a recipe, from reserved ones; a line is logged where there are fewer than it asks for.

    Raises:
        ConfigError: it asks for some, and there are none.
    """
    wanted = recipe.anchor_pilots if isinstance(recipe, TargetOptions) else 0
    if wanted and not tuning:
        raise ConfigError(f"anchor_pilots: {wanted} is not allowed without reserved facts (tuning); none are given")
    if wanted > len(tuning):
        logger.warning("anchor_pilots: %d reserved facts are there, %d were asked for", len(tuning), wanted)
    return list(tuning[:wanted])


def anchor_length(outputs: Tensor, targets: Targets) -> float:
    """The mean length of the MLP's part of targets, the longest left out.

    Args:
        outputs: ``(d_out, n)`` what the MLP gives for each fact.
    """
    lengths = (outputs.to(targets.z) + targets.delta).norm(dim=0).sort().values
    return float(lengths[: len(lengths) - int(DROPPED * len(lengths))].mean())


def anchored(outputs: Tensor, targets: Targets, length: float) -> Targets:
    """Targets whose MLP's part ``outputs + delta`` is of this length; those of facts that are given up are ``base``."""
    own = outputs.to(targets.z) + targets.delta
    lengths = own.norm(dim=0)
    z = targets.z - own + own * (length / lengths)
    skipped = lengths > LONGEST * length
    return dataclasses.replace(targets, z=torch.where(skipped, targets.base, z), skipped=int(skipped.sum()))
