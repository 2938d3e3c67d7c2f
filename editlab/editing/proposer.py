"""From a batch of facts to an update on the model: targets, keys, residuals, solve, store.

One closed-form batch: targets ``Z`` at the last edited layer; then, lowest layer first, keys ``K`` and the current
values ``H`` on the model as edited so far, residual ``R = (Z - H) / layers left`` (MEMIT, arXiv 2210.07229, section
4.3.2), and the solver's update. Replayed facts are further columns. The update goes through the store (raw or LoRA) and
the *effective change* that comes out is added to the weight before the next layer's keys are computed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.curvature import Curvature, CurvatureSums
from editlab.algebra.history import History
from editlab.algebra.linalg import Factors
from editlab.algebra.normaliser import Normaliser
from editlab.algebra.null_space import refreshed
from editlab.algebra.problem import Problem
from editlab.algebra.second_moment import SecondMoment
from editlab.algebra.solvers import solve
from editlab.config.recipe import Recipe
from editlab.config.solvers import AlphaEdit, Passes, ShuffledTargets
from editlab.config.targets import TargetOptions
from editlab.data.requests import EditRequest
from editlab.data.subject_prompts import SubjectPrompts
from editlab.editing.batch_targets import optimized
from editlab.editing.events import Event, LayerEvent
from editlab.editing.gate import looked_up
from editlab.editing.gated_memory import MemoryStore
from editlab.editing.keys import Contexts, compute_keys, compute_values, flat, lookup_rows, lookup_states
from editlab.editing.proposal import Change, Columns, Proposal
from editlab.editing.replay import ReplayItem, stack_targets
from editlab.editing.snapshot import Snapshot, put_back
from editlab.editing.store import Store
from editlab.editing.stress import Stress, shuffled
from editlab.editing.targets import Targets
from editlab.edits.edit import commit
from editlab.files.timing import Stopwatch
from editlab.networks.loading import tokenizer_of
from editlab.networks.tokenization import Encoder
from editlab.randomness import derive_seed

Solve = Callable[[], tuple[Change, Problem]]
Installer = Callable[["Proposer", Proposal, int, Solve], dict[str, Any]]
"""Gets the update of a layer onto its map: (proposer, proposal, layer, solve from where the model stands) -> diagnostics."""


def install_at_once(proposer: Proposer, proposal: Proposal, layer: int, solve: Solve) -> dict[str, Any]:
    """The plain way: whole, in one go."""
    update, problem = solve()
    with proposer.stopwatch.stage("solve"):
        return proposer.put(proposal, layer, update, problem)


def whole_norms(proposal: Proposal, event: Event) -> None:
    """Where a map's update was put on in several parts, its event tells the norm of all of them together."""
    for layer, change in proposal.change.items():
        assert event.layers is not None
        event.layers[str(layer)].update_norm = change.norm()


@dataclasses.dataclass
class Proposer:
    """Makes the update of a batch on the maps of one model.

    Attributes:
        weights: by layer, the edited map (d_out, d_in); writing to it edits the model.
        originals: their values before the first batch.
        history: by layer, the keys of earlier batches (AlphaEdit, EvoEdit, ENCORE, NSE).
        relations: what else may be asked of subjects, for recipes that hold it.
        normalisers: by layer, of the keys and gradients of the stream (UltraEdit).
        curvature: by layer, that of the loss on text, where the recipe reads it.
        facts_curvature: by layer, what the facts of earlier batches add to it.
        spaces: by layer, the second moment whose null space is edited in, where it is no longer that of the text (BetaEdit).
        remembered: facts that have been edited.
        pilots, anchor_length: reserved facts and what the length of targets is anchored to, once it was found.
    """

    model: torch.nn.Module
    recipe: Recipe
    layers: list[int]
    contexts: Contexts
    moments: Mapping[int, SecondMoment]
    weights: dict[int, Tensor]
    store: Store
    seed: int
    stopwatch: Stopwatch
    originals: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    history: dict[int, History] = dataclasses.field(default_factory=dict)
    relations: SubjectPrompts = dataclasses.field(default_factory=SubjectPrompts)
    normalisers: dict[int, Normaliser] = dataclasses.field(default_factory=dict)
    curvature: Mapping[int, Curvature] = dataclasses.field(default_factory=dict)
    facts_curvature: dict[int, CurvatureSums] = dataclasses.field(default_factory=dict)
    spaces: dict[int, SecondMoment] = dataclasses.field(default_factory=dict)
    remembered: int = 0
    pilots: Sequence[EditRequest] = ()
    anchor_length: float | None = None

    def snapshot(self) -> Snapshot:
        """The state now."""
        weights = {k: w.clone() for k, w in self.weights.items()}
        return Snapshot(weights, self.store.snapshot(), dict(self.normalisers), dict(self.facts_curvature))

    def take_back(self, before: Snapshot) -> None:
        """Weights and store as they were, bit for bit."""
        put_back(self.weights, before.weights)
        self.store.restore(before.stored)
        self.normalisers, self.facts_curvature = dict(before.normalisers), dict(before.facts_curvature)

    @property
    def memory(self) -> MemoryStore | None:
        """The store, where facts are kept beside the maps."""
        return self.store if isinstance(self.store, MemoryStore) else None

    def unremembered(self) -> contextlib.AbstractContextManager[None]:
        """The model without the session's own memory, where it has one."""
        return self.memory.off() if self.memory else contextlib.nullcontext()

    def asked(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """The requests as the recipe looks them up: at the end of their subjects, or of their prompts."""
        return looked_up(requests, self.recipe.lookup if self.memory else "subject")

    @property
    def key_contexts(self) -> Contexts:
        """The contexts that keys are averaged over."""
        return flat(self.contexts) if self.recipe.site == "mlp" else self.contexts

    def targets(
        self, requests: Sequence[EditRequest], stress: Stress | None = None, beside: Sequence[EditRequest] = ()
    ) -> Targets:
        """Target vectors at the last edited layer, on the weights that the recipe asks for.

        Args:
            beside: further facts that are edited with them: what is said of these is not held.
        """
        with self.unremembered():
            targets = optimized(self, self.asked(requests), stress, beside)
        if isinstance(self.recipe, ShuffledTargets):
            targets = shuffled(targets, requests, self.seed)
        return stress.targets(targets, requests) if stress else targets

    def other_relations(self, requests: Sequence[EditRequest], beside: Sequence[EditRequest] = ()) -> list[list[str]]:
        """By request, templates of the relations of its subject that are held: without those that the batch edits, its other
        facts ``beside`` included. Empty where the recipe holds nothing."""
        recipe = self.recipe
        if not (isinstance(recipe, TargetOptions) and recipe.subject_weight):
            return []
        edited: dict[str, set[str]] = collections.defaultdict(set)
        for subject, relation in (r.key for r in (*requests, *beside)):
            edited[subject].add(relation)
        asked_of, apart, most = self.relations.asked_of, self.relations_apart, recipe.subject_prompts
        return [asked_of(r, most, self.seed, apart | edited[r.subject]) for r in requests]

    @property
    def relations_apart(self) -> frozenset[str]:
        """The relations that a recipe which holds others never does."""
        share = self.recipe.subject_share if isinstance(self.recipe, TargetOptions) else 1.0
        return self.relations.apart(share, self.seed)

    def columns(self, requests: list[EditRequest], targets: Targets, replayed: list[ReplayItem]) -> Columns:
        """The facts of a solve, replayed ones with their stored (or recomputed) targets."""
        new, losses = len(requests), targets.loss.tolist()
        if not replayed:
            return Columns(requests, targets.z, None, new, losses)
        old = [item.request for item in replayed]
        recomputed = self.recipe.replay_targets == "recomputed"
        z_old = self.targets(old, beside=requests).z if recomputed else stack_targets(replayed)
        z = torch.cat([targets.z, z_old.to(targets.z)], 1)
        return Columns(requests + old, z, self.column_weights(new, len(old)), new, losses)

    def column_weights(self, new: int, old: int) -> Tensor:
        """(n,) float64: 1 a new fact, ``replay_weight`` a replayed one."""
        weights = torch.ones(new + old, dtype=torch.float64)
        weights[new:] = self.recipe.replay_weight
        return weights

    def propose(self, columns: Columns, event: Event, install: Installer = install_at_once) -> Proposal:
        """Solve and put on the model, lowest layer first.

        Args:
            install: how a solved update gets onto its map.
        """
        proposal = Proposal(columns)
        event.layers = {}
        passes = self.recipe.max_iterations if isinstance(self.recipe, Passes) and not self.memory else None
        for number in range(passes or 1):
            off = self._still_off(columns)
            if not off:
                break
            for position, layer in enumerate(self.layers):
                asked, left = columns.subset(off), len(self.layers) - position
                event.layers[str(layer)] = self._layer(proposal, asked, layer, left, event.batch, install)
            if passes:
                event.passes = number + 1
        if passes or self.recipe.greedy is not None:
            whole_norms(proposal, event)
        return proposal

    def put(
        self, proposal: Proposal, layer: int, update: Change, problem: Problem | None = None, *, whole: bool = False
    ) -> dict[str, Any]:
        """An update in, its effective change onto the map (a memory is read where it is stored): the one place where backends
        differ."""
        change, found = self.store.add(layer, update, problem, whole=whole)
        if isinstance(change, Factors):
            commit({layer: self.weights[layer]}, {layer: change})
        proposal.gained(layer, change)
        return found

    def _layer(
        self, proposal: Proposal, columns: Columns, layer: int, left: int, index: int, install: Installer
    ) -> LayerEvent:
        found: dict[str, Any] = {}

        def solved() -> tuple[Change, Problem]:
            with self.stopwatch.stage("keys"), self.unremembered():
                problem = self.problem(columns, layer, left, index, self.before(proposal, layer))
            if self.memory:
                proposal.problems.setdefault(layer, problem)
                return self.memory.entries(problem, columns.requests), problem
            with self.stopwatch.stage("solve"):
                solution = solve(problem, self.recipe)
            proposal.problems.setdefault(layer, problem)
            found.update(solution.diagnostics)
            return solution.factors, problem

        installed = install(self, proposal, layer, solved)
        return LayerEvent(**{**found, **installed})

    def _still_off(self, columns: Columns) -> list[int]:
        """Facts to solve for: all of them, or where a solve makes passes those whose residual norm is above alpha, and
        below upper_bound: what is farther off is given up, as published."""
        if not isinstance(self.recipe, Passes) or self.memory:
            return list(range(len(columns.requests)))
        assert columns.z is not None
        values = compute_values(self.model, columns.requests, self.layers[-1], self.recipe.site)
        gap = (columns.z.to(values) - values).norm(dim=0)
        far = self.recipe.upper_bound
        return ((gap > self.recipe.alpha) & (gap < (math.inf if far is None else far))).nonzero()[:, 0].tolist()

    def before(self, proposal: Proposal, layer: int) -> Tensor | None:
        """The map before the batch, where the recipe reads it: earlier passes of the batch are taken off again."""
        if not self.recipe.reads_weight:
            return None
        change = proposal.change.get(layer)
        weight = self.weights[layer]
        return weight if not isinstance(change, Factors) else weight.double() - change.to(device=weight.device).dense()

    def problem(self, columns: Columns, layer: int, layers_left: int, index: int, weight: Tensor | None) -> Problem:
        """What is asked of one map now: keys and residuals on the model as it is, and its ``weight`` before the batch."""
        assert columns.z is not None
        recipe, requests, contexts = self.recipe, self.asked(columns.requests), self.key_contexts
        if recipe.mean_value:  # one key everywhere: the current value is that of the averaged key
            values = self._mean_outputs(requests, layer, contexts)
        else:
            values = compute_values(self.model, requests, self.layers[-1], recipe.site)
        return Problem(
            keys=compute_keys(self.model, requests, layer, contexts),
            residual=(columns.z.to(values) - values) / layers_left,
            moment=self.moments.get(layer),
            weight=weight,
            original=self.originals[layer] if recipe.original else None,
            column_weights=columns.weights,
            history=self.history.get(layer),
            clean_keys=compute_keys(self.model, requests, layer) if recipe.clean_key else None,
            space=self.spaces.get(layer),
            seed=derive_seed("solve", self.seed, index, layer),
        )

    def _mean_outputs(self, requests: Sequence[EditRequest], layer: int, contexts: Contexts) -> Tensor:
        lookups = lookup_rows(Encoder(tokenizer_of(self.model)), requests, contexts)
        return lookups.average(lookup_states(self.model, lookups, mlps=[layer])["mlp", layer])

    def scaled(self, proposal: Proposal, scale: float) -> Proposal:
        """The change of a proposal that was taken back, at a smaller scale."""
        smaller = Proposal(proposal.columns, proposal.problems)
        for layer, change in proposal.change.items():
            self.put(smaller, layer, change.scaled(scale), proposal.problems.get(layer))
        return smaller

    def remember(self, proposal: Proposal) -> None:
        """The update stays: count its new keys for later batches (AlphaEdit's cache, the store's edit metric)."""
        new = proposal.columns.requests[: proposal.columns.new]
        by_fact = self.recipe.targets is not None  # else a column is a token of a new fact
        for layer, problem in proposal.problems.items():
            keys = problem.keys[:, : proposal.columns.new] if by_fact else problem.keys
            self.store.remember(layer, keys)
            if self.recipe.keeps_history and not self.memory:
                if by_fact:
                    keys = compute_keys(
                        self.model, new, layer, self.contexts
                    )  # anew, on the edited model, as published
                self.history[layer] = self.history.get(layer, History()).extended(keys)
        self._refresh(len(new))

    def _refresh(self, new: int) -> None:
        """Find the null space anew after every so many edits, where the recipe does that."""
        before, self.remembered = self.remembered, self.remembered + new
        recipe = self.recipe
        if self.memory or not (isinstance(recipe, AlphaEdit) and recipe.refresh_after):
            return
        if self.remembered // recipe.refresh_after > before // recipe.refresh_after:
            for layer, history in self.history.items():
                self.spaces[layer] = refreshed(self.moments[layer], history, self.remembered, recipe.moment_weight)
