"""What some recipes do once, after the last batch of a stream: restrain the total change, or train a small LoRA on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from editlab.algebra.linalg import Factors
from editlab.algebra.postprocess import restrain_total_on_top
from editlab.algebra.problem import Problem
from editlab.data.requests import EditRequest
from editlab.editing.proposal import Columns, Proposal
from editlab.editing.proposer import Proposer


def finish(proposer: Proposer, edited: Sequence[EditRequest], texts: Sequence[str], rank: int) -> dict[str, Any] | None:
    """What the recipe asks for after the last batch; None: nothing.

    Args:
        edited: the facts of the stream.
        texts: held-out sentences of the KL term of a posthoc LoRA, which has this ``rank``.
    """
    with proposer.stopwatch.stage("solve"):
        if proposer.recipe.restrained_at_end:
            return restrain_total(proposer)
        return train_on_top(proposer, edited, texts, rank) if proposer.recipe.backend == "posthoc" else None


def restrain_total(proposer: Proposer) -> dict[str, Any]:
    """The restraint that the published PRUNE applies once, to the total change."""
    found = {}
    for layer, weight in proposer.weights.items():
        d_out, d_in = weight.shape
        problem = Problem(
            keys=torch.zeros(d_in, 1, device=weight.device),
            residual=torch.zeros(d_out, 1, device=weight.device),
            weight=weight.double(),
            original=proposer.originals[layer].double(),
        )
        none = Factors.zeros(d_out, d_in).to(device=weight.device)
        update, found[str(layer)] = restrain_total_on_top(none, problem)
        proposer.put(Proposal(Columns.none()), layer, update)
    return found


def train_on_top(proposer: Proposer, edited: Sequence[EditRequest], texts: Sequence[str], rank: int) -> dict[str, Any]:
    """A small LoRA, trained on the edited facts."""
    from editlab.editing.posthoc import train_posthoc

    options = proposer.recipe.posthoc
    added, found = train_posthoc(proposer.model, proposer.layers, edited, texts, rank, options, proposer.seed)
    for layer, factors in added.items():
        proposer.put(Proposal(Columns.none()), layer, factors)
    return found
