"""Constrained fine-tuning of the edited maps (FT, FT-L), the baseline of ROME's Table 4.

Adam on the mean NLL of the new objects, over the same weight that the closed forms edit. With ``norm_constraint`` every
entry stays within that distance of its old value (FT-L, arXiv 2012.00363). Blocks below the lowest edited layer never
change, so their output is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.config.solvers import FineTuning
from editlab.data.requests import EditRequest
from editlab.editing.events import Event, LayerEvent
from editlab.editing.proposal import Columns, Proposal
from editlab.editing.proposer import Proposer
from editlab.editing.replay import ReplayItem
from editlab.errors import NumericalError
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen
from editlab.networks.loading import tokenizer_of
from editlab.networks.prefix import run_prompts, suffix_mask
from editlab.networks.tokenization import Encoder, check_lengths


def propose_by_finetuning(
    proposer: Proposer, requests: list[EditRequest], replayed: list[ReplayItem], event: Event
) -> Proposal:
    """The update of a batch on the maps; replayed facts are trained on too.

    Raises:
        NumericalError: the fine-tuning diverged.
    """
    recipe, everyone = proposer.recipe, requests + [item.request for item in replayed]
    assert isinstance(recipe, FineTuning)
    weights = proposer.column_weights(len(requests), len(replayed))
    deltas, loss = finetune(proposer.model, everyone, proposer.layers, recipe, weights)
    return proposed(proposer, Columns(everyone, None, None, len(requests), [loss] * len(requests)), deltas, event)


def proposed(proposer: Proposer, columns: Columns, deltas: dict[int, Tensor], event: Event) -> Proposal:
    """The changes that a fine-tuning found, put on the maps.

    Args:
        columns: with the last loss as that of every new fact.

    Raises:
        NumericalError: the fine-tuning diverged.
    """
    if not all(bool(d.isfinite().all()) for d in deltas.values()):
        raise NumericalError("fine-tuning diverged: the update holds NaN or infinite values")
    proposal = Proposal(columns)
    for layer, delta in deltas.items():
        proposer.put(proposal, layer, Factors.from_dense(delta))
    event.loss = columns.losses[0]
    event.layers = {str(k): LayerEvent(update_norm=float(d.norm())) for k, d in deltas.items()}
    return proposal


def finetune(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    options: FineTuning,
    column_weights: Tensor | None = None,
) -> tuple[dict[int, Tensor], float]:
    """Fine-tune the edited maps on the requests.

    Args:
        column_weights: ``(n,)`` weight of each request in the loss.

    Returns:
        by layer, the change of the weight ``(d_out, d_in)`` float64; and the last loss. The model is left as it was.
    """
    architecture = Architecture(model)
    with frozen(model):
        batch = _Batch(model, architecture, requests, min(layers), column_weights)
        originals = {layer: architecture.weight(layer).clone() for layer in layers}
        parameters = {layer: architecture.projection(layer).weight for layer in layers}
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            optimizer = torch.optim.Adam(list(parameters.values()), lr=options.lr)  # type: ignore[arg-type]
            value = float("nan")
            for _ in range(options.steps):
                loss = batch.loss()
                value = float(loss.detach())
                if value < options.stop_loss:
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if options.norm_constraint is not None:
                    _project(architecture, originals, options.norm_constraint)
            deltas = {k: architecture.weight(k).double() - w.double() for k, w in originals.items()}
        finally:
            with torch.no_grad():
                for layer, weight in originals.items():
                    architecture.weight(layer).copy_(weight)
            for parameter in parameters.values():
                parameter.requires_grad_(False)
                parameter.grad = None
    return deltas, value


def _project(architecture: Architecture, originals: dict[int, Tensor], radius: float) -> None:
    with torch.no_grad():
        for layer, old in originals.items():
            weight = architecture.weight(layer)
            weight.copy_(torch.minimum(torch.maximum(weight, old - radius), old + radius))


class _Batch:
    """The rewrite prompts with their targets, run once up to the lowest edited block."""

    def __init__(
        self,
        model: torch.nn.Module,
        architecture: Architecture,
        requests: Sequence[EditRequest],
        first: int,
        column_weights: Tensor | None,
    ) -> None:
        encoder = Encoder(tokenizer_of(model))
        pairs = encoder.pairs([r.rewrite_prompt for r in requests], [r.target_new for r in requests])
        prompts, goals = [pair.prompt for pair in pairs], [pair.target for pair in pairs]
        rows = [p + g[:-1] for p, g in zip(prompts, goals, strict=True)]
        check_lengths(rows, model)
        self.architecture, self.first = architecture, first
        self.hidden = _block_inputs(architecture, rows, first, encoder.pad_id)
        device = self.hidden.device
        length = self.hidden.shape[1]
        zero = torch.zeros(len(rows), dtype=torch.long, device=device)
        self.mask = suffix_mask(zero, 0, length, self.hidden.dtype)
        self.positions = torch.arange(length, device=device).expand(len(rows), -1)
        entries = [
            (i, len(p) - 1 + j, t) for i, (p, g) in enumerate(zip(prompts, goals, strict=True)) for j, t in enumerate(g)
        ]
        self.row, self.position, self.token = (torch.tensor(c, device=device) for c in zip(*entries, strict=True))
        weights = torch.ones(len(rows)) if column_weights is None else column_weights.float().cpu()
        per_fact = weights / weights.sum() / torch.tensor([len(g) for g in goals])
        self.weight = per_fact.to(device)[self.row]

    def loss(self) -> Tensor:
        hidden = self.architecture.run_blocks(self.hidden, self.first, self.mask, self.positions)
        logits = self.architecture.logits(hidden[self.row, self.position]).float()
        nll = F.cross_entropy(logits, self.token, reduction="none")
        return (nll * self.weight).sum()


def _block_inputs(architecture: Architecture, rows: list[list[int]], layer: int, pad_id: int) -> Tensor:
    with capture(inputs={"hidden": architecture.block(layer)}) as states:
        run_prompts(architecture, rows, pad_id, cache_from=None)
    return states["hidden"]
