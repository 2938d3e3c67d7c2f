"""The editing session: propose an update for a batch, guard it, commit it; then the next batch.

``EditSession`` edits a model batch after batch and gives it back bit for bit when it is left. :func:`edit` is the
one-call form: it returns an :class:`~editlab.edits.edit.Edit` and leaves the model as it was.

*Propose* (:mod:`editlab.editing.proposal`) solves the batch and puts the update on the model. *Guard* judges it
(:mod:`editlab.editing.trust`): it stays, is scaled down, or is taken back. *Commit* remembers what stays: keys for later
solves, facts for replay. A solve that fails with replayed facts is tried without them; one that still fails is
rejected, and the model stays as it was before the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from editlab.algebra.linalg import Factors
from editlab.config.base import validated
from editlab.config.recipe import Recipe
from editlab.config.solvers import SOLVERS
from editlab.data.requests import EditRequest
from editlab.editing.checks import check_arguments, required_moments
from editlab.editing.guard import Guard
from editlab.editing.keys import Contexts, check_contexts
from editlab.editing.proposal import Columns, Proposal, Proposer, put_back, solver_options
from editlab.editing.replay import ReplayBuffer, ReplayItem
from editlab.editing.store import make_store
from editlab.editing.stress import Stress
from editlab.editing.targets import Targets
from editlab.edits.edit import Edit
from editlab.edits.peft import peft_target
from editlab.errors import ConfigError, NumericalError
from editlab.files.timing import Stopwatch
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import restored

Observer = Callable[[Sequence[EditRequest], Sequence[EditRequest]], Mapping[str, float]]
State = tuple[dict[int, Tensor], Any]
DEFAULT_CONTEXTS: Contexts = (("{}",),)
KEPT = ("accepted", "scaled")  # decisions after which a batch is on the model


def edit(
    model: torch.nn.Module,
    requests: Sequence[EditRequest],
    *,
    method: str = "memit",
    layers: Sequence[int] | None = None,
    statistics: Any = None,
    contexts: Contexts = DEFAULT_CONTEXTS,
    batch: int | None = None,
    replay: float = 0.0,
    rank: int = 0,
    probes: Sequence[EditRequest] = (),
    seed: int = 0,
    progress: bool = False,
    **hyperparameters: Any,
) -> Edit:
    """Edit facts and return the change; the model itself is given back unchanged.

    Args:
        model: a transformers causal language model that carries its tokenizer (:func:`editlab.load_model`).
        requests: the facts (:func:`editlab.load_requests`).
        method: a solver: rome, r_rome, memit, emmet, alphaedit, rect, prune, prune_published, nse, encore, ft,
            random or none.
        layers: edited layers.
        statistics: second moments of the keys: a statistics file, a directory of them, or ``{layer: (d_in, d_in)}``.
        contexts: grouped templates such as ``[["{}"], ["Yes. {}", "I think. {}"]]``.
        batch: facts solved together; default all (ROME: one).
        replay: replayed facts per new fact.
        rank: of the adapter, with ``backend="lora"``.
        probes: held-out records that a ``trust`` guard looks at; not among the requests or their neighbours.
        progress: show a bar of the facts edited so far.
        hyperparameters: fields of :class:`editlab.config.recipe.Recipe`, e.g. ``backend, trust, steps, lr, clamp,
            weight_decay, kl_factor, second_moment_weight, ridge, null_space_threshold, l2``.

    Returns:
        the edit; ``with edit.applied(model): ...`` uses it, ``edit.to_peft(directory)`` exports it.

    Raises:
        ConfigError: unknown method or hyper-parameter, a value that is not allowed, missing statistics.
        NumericalError: a batch was rejected.
    """
    if method not in SOLVERS:
        raise ConfigError(f"method: {method!r} is not allowed; one of {', '.join(SOLVERS)}")
    if layers is None:
        raise ConfigError(f"layers: required; give one or more of 0..{Architecture(model).num_layers - 1}")
    if not requests:
        raise ConfigError("requests: none given; at least one is needed")
    given = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else layers
    recipe = validated(Recipe, {"solver": method, "layers": given, **hyperparameters}, "edit")
    session = EditSession(
        model, recipe, statistics=statistics, contexts=contexts, replay=replay, rank=rank, probes=probes, seed=seed
    )
    with session, tqdm(total=len(requests), unit="fact", desc=method, disable=not progress) as bar:
        for chunk in batches(requests, (session.largest_batch or len(requests)) if batch is None else batch):
            event = session.step(chunk)
            if event["decision"] == "rejected":
                raise NumericalError(f"edit rejected in batch {event['batch']}: {event['reason']}")
            bar.update(len(chunk))
        session.finish()
        return session.edit()


def batches(requests: Sequence[EditRequest], size: int) -> Iterator[list[EditRequest]]:
    """Consecutive batches of ``size`` requests; the last may be smaller.

    Raises:
        ConfigError: ``size`` is not a whole number of at least 1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"batch: {size!r} is not allowed; a whole number >= 1")
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


class EditSession:
    """Edits batch after batch; leaving the ``with`` block restores the model bit for bit.

    Args:
        recipe: the method.
        statistics, contexts, probes: see :func:`edit`.
        replay: replayed facts per new fact.
        rank: of the adapters of a LoRA recipe.
        seed: of replay draws and of the random control.
        anchor_texts: held-out sentences for backend posthoc.
        observer: called with (facts, facts edited before) before a batch is solved and again while its whole candidate
            is on the model; what it returns goes into the event as ``without`` and ``with``, to label decisions.

    Attributes:
        events: one dictionary a batch: decision, diagnostics by layer, norms, replay, trust, reason.
        stopwatch: seconds by stage.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        recipe: Recipe,
        *,
        statistics: Any = None,
        contexts: Contexts = DEFAULT_CONTEXTS,
        replay: float = 0.0,
        rank: int = 0,
        probes: Sequence[EditRequest] = (),
        seed: int = 0,
        anchor_texts: Sequence[str] = (),
        observer: Observer | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.model, self.recipe, self.replay, self.rank, self.seed = model, recipe, replay, rank, seed
        self.architecture, self.traits = Architecture(model), SOLVERS[recipe.solver]
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
            make_store(recipe, rank, solver_options(recipe)),
            seed,
            self.stopwatch,
        )
        self.guard = Guard(self.proposer, probes)
        self.observer, self.anchor_texts = observer, list(anchor_texts)
        self.edited: list[EditRequest] = []
        self.events: list[dict[str, Any]] = []
        self._restored = restored(self.weights)

    @property
    def largest_batch(self) -> int | None:
        return self.traits.max_batch

    @property
    def originals(self) -> dict[int, Tensor]:
        """By layer, the edited map before the first batch."""
        return self.proposer.originals

    def __enter__(self) -> EditSession:
        self.proposer.originals = self._restored.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restored.__exit__(kind, error, trace)
        self.proposer.originals = {}

    def edit(self) -> Edit:
        """Everything committed so far, as one edit."""
        info = {
            "method": self.recipe.solver,
            "recipe": self.recipe.model_dump(mode="json"),
            "layers": self.layers,
            "replay": self.replay,
            "rank": self.rank,
            "seed": self.seed,
            "cases": [case for event in self.events for case in _edited_cases(event)],
            "target": peft_target(self.architecture, self.layers),
        }
        shapes = {layer: self.architecture.weight_shape(layer) for layer in self.layers}
        totals = {layer: self.proposer.store.total(layer) for layer in self.layers}
        return Edit({k: Factors.zeros(*shapes[k]) if f is None else f for k, f in totals.items()}, info)

    def step(self, requests: Sequence[EditRequest], stress: Stress | None = None) -> dict[str, Any]:
        """Edit one batch and return its event; ROME and R-ROME take its facts one after another.

        Args:
            stress: makes the batch harmful, to try the guard.

        Raises:
            ConfigError: more facts than the solver takes, or a trust probe is one of the facts' evaluation prompts.
        """
        if self.largest_batch is not None and len(requests) > self.largest_batch:
            raise ConfigError(
                f"batch: {self.recipe.solver} edits {self.largest_batch} fact at a time, got {len(requests)}"
            )
        if not self.originals:
            raise RuntimeError("the session is not entered: edit inside its with block, which restores the model")
        self.guard.check(requests)
        batch = stress.requests(requests) if stress else list(requests)
        event: dict[str, Any] = {"batch": len(self.events), "cases": [r.case_id for r in batch], "decision": "accepted"}
        if stress:
            event["stress"] = stress.kind
        if self.traits.edits:
            state = self._state()
            try:
                self._edit_batch(batch, state, event, stress)
            except NumericalError as error:
                self._take_back(state)
                self.guard.settle(None)
                event |= {"decision": "rejected", "reason": str(error)}
            except BaseException:
                self._take_back(state)
                raise
        event["weight_norm"] = {str(k): float(w.double().norm()) for k, w in self.weights.items()}
        self.events.append(event)
        return event

    def finish(self) -> None:
        """After the last batch: the published PRUNE's restraint of the total change; posthoc LoRA."""
        if not self.events:
            return
        with self.stopwatch.stage("solve"):
            if self.traits.once_at_end:
                self.events[-1]["finish"] = self.proposer.restrain()
            elif self.recipe.backend == "posthoc":
                self.events[-1]["finish"] = self._train_posthoc()

    def _train_posthoc(self) -> dict[str, Any]:
        from editlab.editing.posthoc import train_posthoc

        added, found = train_posthoc(
            self.model, self.layers, self.edited, self.anchor_texts, self.rank, self.recipe.posthoc, self.seed
        )
        for layer, factors in added.items():
            self.proposer.put(Proposal(Columns.none()), layer, factors)
        return found

    def _edit_batch(
        self, requests: list[EditRequest], state: State, event: dict[str, Any], stress: Stress | None
    ) -> None:
        index = event["batch"]
        replayed = self.buffer.sample(self.replay, requests, index)
        event["replayed"] = len(replayed)
        if self.traits.gradient:
            with self.stopwatch.stage("solve"):
                self._keep(self.proposer.finetune(requests, replayed, event), index)
            return
        targets = self._targets(requests, event, stress)
        self._observe("without", requests, event)
        self.guard.before(requests, event)
        proposal = self._propose(requests, targets, replayed, state, event)
        self._observe("with", requests, event)
        proposal = self._judged(proposal, state, event)
        if event["decision"] in KEPT:
            self._keep(proposal, index)

    def _targets(self, requests: Sequence[EditRequest], event: dict[str, Any], stress: Stress | None) -> Targets:
        with self.stopwatch.stage("targets"):
            targets = self.proposer.targets(requests, stress)
            if not bool(targets.z.isfinite().all()):
                raise NumericalError("targets hold NaN or infinite values")
        event["targets"] = {
            "steps_mean": float(targets.steps.double().mean()),
            "loss_mean": float(targets.loss.mean()),
            "norm_mean": float(targets.z.norm(dim=0).mean()),
        }
        return targets

    def _propose(
        self,
        requests: list[EditRequest],
        targets: Targets,
        replayed: list[ReplayItem],
        state: State,
        event: dict[str, Any],
    ) -> Proposal:
        """The batch's update on the model; without the replayed facts where it cannot be solved with them."""
        try:
            return self.proposer.propose(self.proposer.columns(requests, targets, replayed), event)
        except NumericalError as error:
            if not replayed:
                raise
            self._take_back(state)
            event |= {"replayed": 0, "replay_dropped": str(error)}
            return self.proposer.propose(self.proposer.columns(requests, targets, []), event)

    def _judged(self, proposal: Proposal, state: State, event: dict[str, Any]) -> Proposal:
        """Carry out what the guard decides; the model is left as decided."""
        judgement = self.guard.judge(proposal, event)
        kept = self.guard.trusted(proposal, judgement)
        if kept is not None:
            self._take_back(state)
            everyone, proposal = proposal.columns, self.proposer.propose(proposal.columns.subset(kept), event)
            event["left_out"] = [r.case_id for i, r in enumerate(everyone.requests[: everyone.new]) if i not in kept]
            self.guard.only(kept[: proposal.columns.new])
            event["decision"] = "accepted"
            judgement = self.guard.judge(proposal, event)
        if judgement is not None and judgement.scale < 1.0:
            self._take_back(state)
            if judgement.decision == "scaled":
                proposal = self.proposer.scaled(proposal, judgement.scale)
        self.guard.settle(judgement)
        return proposal

    def _keep(self, proposal: Proposal, index: int) -> None:
        """Commit: later batches know the keys and may replay the facts."""
        self.proposer.remember(proposal)
        columns = proposal.columns
        new = columns.requests[: columns.new]
        self.edited += new
        if self.replay:
            z = None if columns.z is None else columns.z[:, : columns.new]
            self.buffer.insert(new, z, columns.margins, index)

    def _observe(self, when: str, requests: Sequence[EditRequest], event: dict[str, Any]) -> None:
        if self.observer is not None:
            with self.stopwatch.stage("label"):
                event[when] = dict(self.observer(requests, self.edited))

    def _state(self) -> State:
        return {k: w.clone() for k, w in self.weights.items()}, self.proposer.store.snapshot()

    def _take_back(self, state: State) -> None:
        """Weights and store as they were, bit for bit."""
        put_back(self.weights, state[0])
        self.proposer.store.restore(state[1])


def _edited_cases(event: Mapping[str, Any]) -> list[str]:
    """The cases of a batch that are on the model."""
    left_out = event.get("left_out", ())
    return [case for case in event["cases"] if case not in left_out] if event["decision"] in KEPT else []
