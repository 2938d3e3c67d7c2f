"""The random control: noise on every map, with the norms that another method's updates had in the same stream."""

from __future__ import annotations

from collections.abc import Mapping

from editlab.algebra.solvers import noise
from editlab.data.requests import EditRequest
from editlab.editing.events import Event, LayerEvent
from editlab.editing.proposal import Columns, Proposal
from editlab.editing.proposer import Proposer
from editlab.randomness import derive_seed


def propose_noise(
    proposer: Proposer, requests: list[EditRequest], norms: Mapping[int, float], event: Event
) -> Proposal:
    """Noise on every map.

    Args:
        norms: by layer, that of the other method's update of this batch.
    """
    proposal = Proposal(Columns(requests, None, None, len(requests), [0.0] * len(requests)))
    event.layers = {}
    for layer, weight in proposer.weights.items():
        seed, norm = derive_seed("solve", proposer.seed, event.batch, layer), norms.get(layer, 0.0)
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        found = proposer.put(proposal, layer, noise(shape, len(requests), norm, seed))
        event.layers[str(layer)] = LayerEvent(update_norm=norm, **found)
    return proposal
