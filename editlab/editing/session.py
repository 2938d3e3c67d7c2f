"""The editing session: propose an update for a batch, judge it, commit it; then the next batch.

``EditSession`` edits a model batch after batch and gives it back bit for bit when it is left
(:func:`editlab.editing.api.edit` is the one-call form).

*Propose* (:mod:`editlab.editing.proposer`) solves the batch and puts the update on the model. *Judge*
(:mod:`editlab.editing.guard`): it stays, is scaled down, or is taken back. *Commit* remembers what stays: keys for later
solves, facts for replay. A solve that fails with replayed facts is tried without them; one that still fails is
rejected, and the model stays as it was before the batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.config.recipe import Recipe
from editlab.data.requests import EditRequest
from editlab.data.subject_prompts import SubjectPrompts
from editlab.editing.afterwards import finish
from editlab.editing.anchor import pilots_of
from editlab.editing.batch_targets import described
from editlab.editing.checks import check_arguments, required_curvature, required_moments
from editlab.editing.events import Event
from editlab.editing.gated_memory import memory_store
from editlab.editing.guard import TrustGuard
from editlab.editing.keys import CLEAN, Contexts, check_contexts
from editlab.editing.proposal import Proposal
from editlab.editing.proposer import Proposer
from editlab.editing.replay import ReplayBuffer, ReplayItem
from editlab.editing.retrieval import fact_reader
from editlab.editing.snapshot import Snapshot
from editlab.editing.store import make_store
from editlab.editing.stress import Stress
from editlab.editing.targets import Targets
from editlab.editing.untargeted import propose_without_targets
from editlab.edits.edit import Edit
from editlab.edits.peft import peft_target
from editlab.errors import ConfigError, NumericalError
from editlab.evaluation.scoring import rewrite_margins
from editlab.files.timing import Stopwatch
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import restored
from editlab.networks.loading import check_placement
from editlab.networks.precision import edited_in_float32, rounding_losses
from editlab.networks.reading import reading

logger = logging.getLogger(__name__)

Observer = Callable[[Sequence[EditRequest], Sequence[EditRequest]], Mapping[str, float]]


class EditSession:
    """Edits batch after batch; leaving the ``with`` block restores the model bit for bit.

    Args:
        recipe: the method.
        statistics, contexts, probes: see :func:`editlab.editing.api.edit`.
        replay: replayed facts per new fact.
        rank: of the adapters of a LoRA recipe.
        seed: of replay draws and of the random control.
        anchor_texts: held-out sentences for backend posthoc, and for the gate of backend memory.
        tuning: reserved facts, for gates (backend memory, rivals that read) and for ``anchor_pilots``; neither edited nor scored.
        observer: called with (facts asked for, facts edited before) before a batch is solved and again while its whole candidate
            is on the model; what it returns goes into the event, to label decisions.
        norms: by batch and layer, the norms that the random control replays.
        relations: what else may be asked of subjects, for recipes that hold it (``subject_weight``).

    Attributes:
        events: one a batch.
        stopwatch: seconds by stage.
        half: by layer, the type of an edited map that is of half precision outside of the session; in it, maps are float32.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        recipe: Recipe,
        *,
        statistics: Any = None,
        contexts: Contexts = CLEAN,
        replay: float = 0.0,
        rank: int = 0,
        probes: Sequence[EditRequest] = (),
        seed: int = 0,
        anchor_texts: Sequence[str] = (),
        tuning: Sequence[EditRequest] = (),
        observer: Observer | None = None,
        norms: Sequence[Mapping[int, float]] | None = None,
        relations: SubjectPrompts | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.model, self.recipe, self.replay, self.rank, self.seed = model, recipe, replay, rank, seed
        self.architecture = Architecture(model)
        check_placement(model)
        self.layers = check_arguments(recipe, self.architecture, replay, rank)
        self.stopwatch = stopwatch or Stopwatch()
        self.weights = {layer: self.architecture.weight(layer) for layer in self.layers}
        self.buffer = ReplayBuffer(recipe.replay_capacity, recipe.replay_strategy, recipe.replay_eviction, seed)
        self.proposer = Proposer(
            model,
            recipe,
            self.layers,
            check_contexts(contexts),
            required_moments(statistics, recipe, self.layers, self.architecture),
            self.weights,
            make_store(recipe, rank),
            seed,
            self.stopwatch,
            relations=relations or SubjectPrompts(),
            curvature=required_curvature(statistics, recipe, self.layers, self.architecture),
            pilots=pilots_of(recipe, tuning),
        )
        if recipe.backend == "memory":
            with self.stopwatch.stage("keys"):
                self.proposer.store = memory_store(
                    model, self.layers, self.proposer.key_contexts, recipe, tuning, anchor_texts
                )
        self.guard = TrustGuard(self.proposer, probes)
        self.observer, self.anchor_texts, self.norms = observer, list(anchor_texts), norms
        self.edited: list[EditRequest] = []
        self.reader = fact_reader(recipe, self.edited, tuning) if recipe.reads else None
        self.reserved = {request.key for request in tuning} if recipe.reads_reserved else set()
        self.events: list[Event] = []
        self.half: dict[int, torch.dtype] = {}
        self._entered = contextlib.ExitStack()

    @property
    def originals(self) -> dict[int, Tensor]:
        """By layer, the edited map before the first batch."""
        return self.proposer.originals

    def __enter__(self) -> EditSession:
        with contextlib.ExitStack() as stack:
            if self.proposer.memory:
                stack.enter_context(self.proposer.memory.attached())  # no weight changes, whatever its type
            else:
                self.half = stack.enter_context(edited_in_float32(self.architecture, self.layers))
            if self.reader:
                stack.enter_context(reading(self.model, self.reader))
            self._look()
            self.proposer.originals = stack.enter_context(restored(self.weights))
            self._entered = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.__exit__(kind, error, trace)
        self.proposer.originals, self.half = {}, {}
        self._look()

    def _look(self) -> None:
        """See the maps as they are now; everyone shares the dictionary."""
        self.weights.update({layer: self.architecture.weight(layer) for layer in self.layers})

    @property
    def energy_lost(self) -> dict[int, float]:
        """By layer of half precision, the share of the whole change's energy that its own type would lose."""
        return rounding_losses(self.originals, self.weights, self.half)

    def edit(self) -> Edit:
        """Everything committed so far, as one edit."""
        info = {
            "method": self.recipe.solver,
            "recipe": self.recipe.model_dump(mode="json"),
            "layers": self.layers,
            "replay": self.replay,
            "rank": self.rank,
            "seed": self.seed,
            "cases": [case for event in self.events for case in event.edited],
            "target": peft_target(self.architecture, self.layers),
        }
        shapes = {layer: self.architecture.weight_shape(layer) for layer in self.layers}
        if memory := self.proposer.memory:
            held = {layer: m.to(device="cpu") for layer, m in memory.memories.items()}
            return Edit({}, {**info, "gate": dataclasses.asdict(memory.gate)}, held)
        totals = {layer: self.proposer.store.total(layer) for layer in self.layers}
        return Edit({k: Factors.zeros(*shapes[k]) if f is None else f for k, f in totals.items()}, info)

    def step(self, requests: Sequence[EditRequest], stress: Stress | None = None) -> Event:
        """Edit one batch and return its event.

        Args:
            stress: makes the batch harmful, to try trust.

        Raises:
            ConfigError: more facts than the solver takes, a trust probe is one of the facts' evaluation prompts, or a fact is
                one of ``tuning``.
        """
        largest = self.recipe.max_batch
        if largest is not None and len(requests) > largest:
            raise ConfigError(f"batch: {self.recipe.solver} edits {largest} fact at a time, got {len(requests)}")
        if not self.originals:
            raise RuntimeError("the session is not entered: edit inside its with block, which restores the model")
        self.guard.check(requests)
        for request in requests:
            if request.key in self.reserved:
                raise ConfigError(
                    f"tuning: the fact of {request.case_id} is edited, too; gates and lengths must be chosen on other facts"
                )
        batch = stress.requests(requests) if stress else list(requests)
        event = Event(batch=len(self.events), cases=[r.case_id for r in batch], stress=stress.kind if stress else None)
        if self.recipe.reads:
            self.edited += batch
        elif self.recipe.edits:
            before = self.proposer.snapshot()
            try:
                self._edit_batch(batch, requests, before, event, stress)
            except NumericalError as error:
                self.proposer.take_back(before)
                self.guard.settle(None)
                event.decision, event.reason = "rejected", str(error)
            except BaseException:
                self.proposer.take_back(before)
                raise
        if self.half:
            event.energy_lost = {str(k): lost for k, lost in self.energy_lost.items()}
        event.weight_norm = {str(k): float(w.double().norm()) for k, w in self.weights.items()}
        self.events.append(event)
        return event

    def finish(self) -> None:
        """After the last batch: the published PRUNE's restraint of the total change; posthoc LoRA."""
        if not self.events:
            return
        found = finish(self.proposer, self.edited, self.anchor_texts, self.rank)
        if found is not None:
            self.events[-1].finish = found

    def _edit_batch(
        self,
        requests: list[EditRequest],
        wanted: Sequence[EditRequest],
        before: Snapshot,
        event: Event,
        stress: Stress | None,
    ) -> None:
        replayed = self.buffer.sample(self.replay, requests, event.batch)
        event.replayed = len(replayed)
        if self.norms is not None or self.recipe.targets is None:
            norms = self.norms[event.batch] if self.norms is not None else None
            solve = functools.partial(propose_without_targets, self.proposer, requests, norms=norms, event=event)
            self._keep(self._propose(solve, replayed, before, event), event.batch)
            return
        targets = self._targets(requests, event, stress)
        event.without = self._observed(wanted)
        self.guard.before(requests, event)
        columns = functools.partial(self.proposer.columns, requests, targets)
        proposal = self._propose(
            lambda old: self.proposer.propose(columns(old), event, self.guard.install), replayed, before, event
        )
        event.applied = self._observed(wanted)
        proposal = self.guard.decide(proposal, before, event)
        if event.kept:
            self._keep(proposal, event.batch)

    def _targets(self, requests: Sequence[EditRequest], event: Event, stress: Stress | None) -> Targets:
        with self.stopwatch.stage("targets"):
            targets = self.proposer.targets(requests, stress)
            if not bool(targets.z.isfinite().all()):
                raise NumericalError("targets hold NaN or infinite values")
        told = any(earlier.targets and earlier.targets.unrelated for earlier in self.events)
        event.targets = described(self.proposer, requests, targets, warn=not told)
        return targets

    def _propose(
        self,
        solve: Callable[[list[ReplayItem]], Proposal],
        replayed: list[ReplayItem],
        before: Snapshot,
        event: Event,
    ) -> Proposal:
        """The batch's update on the model; without the replayed facts where it cannot be solved with them."""
        try:
            return solve(replayed)
        except NumericalError as error:
            if not replayed:
                raise
            self.proposer.take_back(before)
            event.replayed, event.replay_dropped = 0, str(error)
            return solve([])

    def _keep(self, proposal: Proposal, index: int) -> None:
        """Commit: later batches know the keys and may replay the facts."""
        self.proposer.remember(proposal)
        columns = proposal.columns
        new = columns.requests[: columns.new]
        self.edited += new
        if self.replay:
            z = None if columns.z is None else columns.z[:, : columns.new]
            self.buffer.insert(new, z, self._strengths(new, columns.losses), index)

    def _strengths(self, requests: Sequence[EditRequest], losses: Sequence[float]) -> list[float]:
        """How firmly facts were put in, by the strategy of replay: their margins now, or minus the losses of their targets."""
        if self.recipe.replay_strategy != "priority":
            return [-loss for loss in losses]
        with self.stopwatch.stage("keys"):
            return rewrite_margins(self.model, requests)

    def _observed(self, requests: Sequence[EditRequest]) -> dict[str, float] | None:
        if self.observer is None:
            return None
        with self.stopwatch.stage("label"):
            return dict(self.observer(requests, self.edited))
