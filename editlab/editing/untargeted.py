"""The update of a batch by a recipe that has no target vectors: by gradients, by fine-tuning, or noise."""

from __future__ import annotations

from collections.abc import Mapping

from editlab.config.finetuning import FineTuningInEpochs
from editlab.config.solvers import Ultra
from editlab.data.requests import EditRequest
from editlab.editing.epochs import propose_in_epochs
from editlab.editing.events import Event
from editlab.editing.finetune import propose_by_finetuning
from editlab.editing.noise import propose_noise
from editlab.editing.proposal import Proposal
from editlab.editing.proposer import Proposer
from editlab.editing.replay import ReplayItem
from editlab.editing.ultra import propose_by_gradients


def propose_without_targets(
    proposer: Proposer,
    requests: list[EditRequest],
    replayed: list[ReplayItem],
    *,
    norms: Mapping[int, float] | None,
    event: Event,
) -> Proposal:
    """The update of a batch on the maps.

    Args:
        norms: by layer, those of the noise that takes its place; None: no noise.

    Raises:
        NumericalError: there is none.
    """
    if norms is None and isinstance(proposer.recipe, Ultra):
        return propose_by_gradients(proposer, requests, replayed, event)
    with proposer.stopwatch.stage("solve"):
        if norms is not None:
            return propose_noise(proposer, requests, norms, event)
        in_epochs = isinstance(proposer.recipe, FineTuningInEpochs)
        finetuned = propose_in_epochs if in_epochs else propose_by_finetuning
        return finetuned(proposer, requests, replayed, event)
