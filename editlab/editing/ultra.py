"""Edits from one backward pass: keys and output gradients where an answer is predicted (UltraEdit, arXiv 2505.14679).

No subject, no target vector. For every edited map the inputs ``h`` and the gradients ``v`` of the loss with respect to its
outputs are taken at the positions that predict a token of the new object. Both are normalised feature by feature over all rows
that the stream has seen (:mod:`editlab.algebra.normaliser`), and ``-lr |h^|^2 v^`` is what the map is asked to gain on ``h``: a
residual like any other, solved with the raw keys. All maps are solved from the same pass. With several passes the next one
sees the edited maps.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.algebra.normaliser import LEAST_EIGENVALUE, Normaliser
from editlab.algebra.problem import Problem
from editlab.algebra.solvers import solve
from editlab.config.solvers import Ultra
from editlab.data.requests import EditRequest
from editlab.editing.events import Event, LayerEvent
from editlab.editing.keys import TOKENS_PER_PASS
from editlab.editing.proposal import Columns, Proposal
from editlab.editing.proposer import Proposer, whole_norms
from editlab.editing.replay import ReplayItem
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import capture, frozen, output_gains
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder, PairTokens, check_lengths, pad

logger = logging.getLogger(__name__)

KNOWN = 0.01
"""Nats below which a fact counts as answered already: its gradient is all but zero, and normalised like any other."""


@dataclasses.dataclass(frozen=True)
class AnswerRows:
    """One row a token of the new objects, fact after fact.

    Attributes:
        keys, gradients: by layer, ``(N, d_in)`` and ``(N, d_out)`` float64.
        fact: ``(N,)`` whose row it is.
        losses: ``(N,)`` their cross-entropy.
        loss: mean over facts of the mean cross-entropy of their tokens.
        known: share of the new facts whose own is below :data:`KNOWN`.
    """

    keys: dict[int, Tensor]
    gradients: dict[int, Tensor]
    fact: Tensor
    losses: Tensor
    loss: float
    known: float


def answer_rows(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    layers: Sequence[int],
    mini_batch: int | None,
    new: int | None = None,
) -> AnswerRows:
    """Keys and output gradients of the maps at the positions that predict the new objects.

    Args:
        mini_batch: facts whose tokens share one mean loss, as published; None: the loss is a sum over facts of the mean over
            their tokens, so that a fact's gradient does not depend on its company.
        new: facts before the replayed ones, which share no mini-batch with them; by default all.
    """
    encoder = Encoder(tokenizer_of(model))
    pairs = encoder.pairs([r.rewrite_prompt for r in requests], [r.target_new for r in requests])
    rows = [pair.prompt + pair.target[:-1] for pair in pairs]
    check_lengths(rows, model)
    lengths = [len(pair.target) for pair in pairs]
    count = len(lengths) if new is None else new
    weights = _token_weights(lengths[:count], mini_batch) + _token_weights(lengths[count:], mini_batch)
    parts: dict[int, tuple[dict[int, Tensor], dict[int, Tensor], Tensor]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    step = max(1, TOKENS_PER_PASS // max(map(len, rows)))
    for start in range(0, len(order), step):
        chunk = order[start : start + step]
        found = _backward(Architecture(model), [pairs[i] for i in chunk], [weights[i] for i in chunk], layers, encoder)
        for number, split in zip(chunk, found, strict=True):
            parts[number] = split
    whole = [parts[i] for i in range(len(rows))]
    means = torch.stack([losses.mean() for _, _, losses in whole])
    return AnswerRows(
        keys={k: torch.cat([keys[k] for keys, _, _ in whole]) for k in layers},
        gradients={k: torch.cat([gradients[k] for _, gradients, _ in whole]) for k in layers},
        fact=torch.tensor([i for i, pair in enumerate(pairs) for _ in pair.target]),
        losses=torch.cat([losses for _, _, losses in whole]),
        loss=float(means.mean()),
        known=float((means[:count] < KNOWN).double().mean()),
    )


def _token_weights(lengths: Sequence[int], mini_batch: int | None) -> list[float]:
    """By fact, the weight of each of its tokens in the loss."""
    if mini_batch is None:
        return [1.0 / length for length in lengths]
    totals = [sum(lengths[start : start + mini_batch]) for start in range(0, len(lengths), mini_batch)]
    return [1.0 / totals[i // mini_batch] for i in range(len(lengths))]


def _backward(
    architecture: Architecture,
    pairs: Sequence[PairTokens],
    weights: Sequence[float],
    layers: Sequence[int],
    encoder: Encoder,
) -> list[tuple[dict[int, Tensor], dict[int, Tensor], Tensor]]:
    """By fact: keys, gradients and losses of its tokens, from one pass forward and one backward."""
    model = architecture.model
    ids, mask = pad([pair.prompt + pair.target[:-1] for pair in pairs], encoder.pad_id, architecture.device)
    entries = [(i, len(p.prompt) - 1 + j, t, weights[i]) for i, p in enumerate(pairs) for j, t in enumerate(p.target)]
    row, place, token = (torch.tensor([e[k] for e in entries], device=ids.device) for k in range(3))
    projections = {layer: architecture.projection(layer) for layer in layers}
    base: Any = model.base_model
    with frozen(model), torch.enable_grad(), capture(inputs=projections) as keys, output_gains(projections) as gains:
        hidden = base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = architecture.head(hidden[row.to(hidden.device), place.to(hidden.device)])
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(precise, token.to(logits.device), reduction="none")
        total = (losses * torch.tensor([e[3] for e in entries], dtype=losses.dtype, device=losses.device)).sum()
        gradients = dict(zip(layers, torch.autograd.grad(total, [gains[k] for k in layers]), strict=True))
    sizes = [len(pair.target) for pair in pairs]

    def read(states: Tensor) -> list[Tensor]:
        return list(states.detach()[row.to(states.device), place.to(states.device)].double().split(sizes))

    key, gradient = ({k: read(states[k]) for k in layers} for states in (keys, gradients))
    split = losses.detach().double().split(sizes)
    return [({k: key[k][i] for k in layers}, {k: gradient[k][i] for k in layers}, split[i]) for i in range(len(pairs))]


def propose_by_gradients(
    proposer: Proposer, requests: list[EditRequest], replayed: list[ReplayItem], event: Event
) -> Proposal:
    """The update of a batch on the maps; replayed facts are further rows."""
    recipe, everyone = proposer.recipe, requests + [item.request for item in replayed]
    assert isinstance(recipe, Ultra)
    proposal = Proposal(Columns(everyone, None, None, len(requests), [0.0] * len(requests)))
    for number in range(recipe.passes):
        with proposer.stopwatch.stage("keys"):
            rows = answer_rows(proposer.model, everyone, proposer.layers, recipe.mini_batch, len(requests))
        last = number + 1 == recipe.passes
        event.layers = {str(k): _update(proposer, proposal, rows, k, remember=last) for k in proposer.layers}
        event.loss, event.passes = rows.loss, number + 1
        if number == 0:
            event.known = rows.known
    whole_norms(proposal, event)
    return proposal


def _update(proposer: Proposer, proposal: Proposal, rows: AnswerRows, layer: int, *, remember: bool) -> LayerEvent:
    recipe, keys, gradients = proposer.recipe, rows.keys[layer], rows.gradients[layer]
    assert isinstance(recipe, Ultra)
    d_out, d_in = gradients.shape[1], keys.shape[1]
    none = Normaliser.none(d_out, d_in, whiten=recipe.whiten, device=keys.device)
    new = rows.fact < proposal.columns.new  # the replayed ones were seen before
    normaliser = proposer.normalisers.get(layer, none).extended(keys[new], gradients[new])
    proposer.normalisers[layer] = normaliser
    weights = torch.where(new, 1.0, recipe.replay_weight).double() if not bool(new.all()) else None
    moved = (rows.losses >= recipe.known_loss).to(keys)
    residual = _residual(normaliser, keys, gradients, recipe.lr) * moved
    problem = Problem(
        keys=keys.T,
        residual=residual,
        moment=proposer.moments.get(layer),
        weight=proposer.before(proposal, layer),
        column_weights=weights,
        history=proposer.history.get(layer),
    )
    with proposer.stopwatch.stage("solve"):
        solution = solve(problem, recipe)
        found = proposer.put(proposal, layer, solution.factors, problem)
    if remember:
        count = int(new.sum())
        proposal.problems[layer] = Problem(keys.T[:, :count], residual[:, :count])
    clamped = normaliser.gradients.clamped
    if clamped is not None and clamped > 0.5:
        logger.warning(
            "ultra: %.0f %% of the eigenvalues of the whitening of layer %d are below %g, by which it divides in their place: "
            "gradients as small as these are scaled, not whitened",
            100 * clamped,
            layer,
            LEAST_EIGENVALUE,
        )
    whitening = {} if clamped is None else {"clamped": clamped}
    return LayerEvent(**{**solution.diagnostics, **found, **whitening})


def _residual(normaliser: Normaliser, keys: Tensor, gradients: Tensor, lr: float) -> Tensor:
    """``-lr |h^|^2 v^`` as columns ``(d_out, N)``; zero while there is one row, whose deviation is not known."""
    if normaliser.count < 2:
        logger.warning("ultra: only one token has been seen, which gives no deviation; this batch changes nothing")
        return torch.zeros_like(gradients).T
    unit, steps = normaliser.normalised(keys, gradients)
    return (-lr * unit.square().sum(1, keepdim=True) * steps).T.contiguous()
