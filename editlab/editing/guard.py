"""The trust guard: what :mod:`trust` and :mod:`greedy` decide, carried out on the session's model.

It looks at the model before a batch, puts a layer's update on in steps where the recipe is greedy, judges the
candidate, and says what to do. It never raises: an error of its own keeps the edit and is written into the event.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from editlab.algebra.problem import Problem
from editlab.config.recipe import Greedy, Trust
from editlab.data.requests import EditRequest
from editlab.editing.events import Event, GreedyStep
from editlab.editing.greedy import Score, run_steps
from editlab.editing.proposal import Change, Proposal
from editlab.editing.proposer import Installer, Proposer, Solve, install_at_once
from editlab.editing.snapshot import Snapshot, put_back
from editlab.editing.trust import Before, Judgement, TrustMonitor, distance_trust
from editlab.errors import ConfigError, NumericalError


class TrustGuard:
    """What a recipe asks for beside the solve; does nothing where it asks for nothing.

    Args:
        proposer: the session's, unedited at this moment.
        probes: held-out records.

    Raises:
        ConfigError: the recipe needs probes and there are none.
    """

    def __init__(self, proposer: Proposer, probes: Sequence[EditRequest]) -> None:
        recipe = proposer.recipe
        self.proposer, self.trust, self.greedy = proposer, recipe.trust, recipe.greedy
        self.monitor: TrustMonitor | None = None
        if self.trust is not None or self.greedy is not None:
            by_distance = self.greedy is not None and self.greedy.use_distance_only
            options = self.trust or Trust.model_validate({"distance_only": by_distance})
            p = proposer
            with p.stopwatch.stage("trust"):
                self.monitor = TrustMonitor(p.model, options, p.weights, p.moments, p.contexts, probes, p.seed, p.asked)
        self.base: Before | None = None

    @property
    def install(self) -> Installer:
        """How the recipe wants an update put on the model."""
        if self.greedy is None:
            return install_at_once
        return self._in_steps if self.greedy.steps > 1 else _in_one_step

    def check(self, requests: Iterable[EditRequest]) -> None:
        """Raise :class:`ConfigError` when a probe is also evaluated on these requests."""
        if self.monitor is not None:
            self.monitor.check(requests)

    def before(self, requests: Sequence[EditRequest], event: Event) -> None:
        """Measure the side before a batch."""
        self.base = None
        if self.monitor is not None:
            with self._protected(event), self.proposer.stopwatch.stage("trust"):
                self.base = self.monitor.before(requests)

    def decide(self, proposal: Proposal, before: Snapshot, event: Event) -> Proposal:
        """Judge the candidate on the model and carry out what is decided.

        Args:
            before: the model without the candidate.

        Returns:
            What is on the model now: all of the candidate, that of the trusted facts, or a smaller scale of it; where the
            event is not kept, nothing is.
        """
        judgement = self._judge(proposal, event)
        kept = self._trusted(proposal, judgement)
        if kept is not None:
            self.proposer.take_back(before)
            everyone = proposal.columns
            proposal = self.proposer.propose(everyone.subset(kept), event, self.install)
            event.left_out = [r.case_id for i, r in enumerate(everyone.requests[: everyone.new]) if i not in kept]
            self._only(kept[: proposal.columns.new])
            event.decision = "accepted"
            judgement = self._judge(proposal, event)
        if judgement is not None and judgement.scale < 1.0:
            self.proposer.take_back(before)
            if judgement.decision == "scaled":
                proposal = self.proposer.scaled(proposal, judgement.scale)
        self.settle(judgement)
        return proposal

    def settle(self, judgement: Judgement | None) -> None:
        """The batch is over; None: nobody judged it."""
        if self.monitor is None:
            return
        if judgement is None or self.base is None:
            self.monitor.forget()
        else:
            self.monitor.settle(judgement, self.base)

    def _judge(self, proposal: Proposal, event: Event) -> Judgement | None:
        """Judge the candidate on the model; None: there is no trust, or it failed, and the batch stays."""
        if self.trust is None or self.monitor is None or self.base is None:
            return None
        new = proposal.columns.requests[: proposal.columns.new]
        with self._protected(event), self.proposer.stopwatch.stage("trust"):
            judgement = self.monitor.judge(new, self.base, proposal.change, proposal.problems)
            if self.trust.judge == "label":
                judgement = _by_label(judgement, event)
            judgement.write(event)
            return judgement
        return None

    def _trusted(self, proposal: Proposal, judgement: Judgement | None) -> list[int] | None:
        """Positions of the columns to solve for again without facts of too little trust; None: keep all."""
        if judgement is None or judgement.per_fact is None or self.trust is None:
            return None
        new, total = proposal.columns.new, len(proposal.columns.requests)
        kept = [i for i in range(new) if judgement.per_fact[i] >= self.trust.low]
        return [*kept, *range(new, total)] if 0 < len(kept) < new else None

    def _only(self, kept: Sequence[int]) -> None:
        """The side before the batch, for the facts that are left."""
        if self.base is not None:
            self.base = self.base.subset(kept)

    @contextlib.contextmanager
    def _protected(self, event: Event) -> Iterator[None]:
        """Whatever goes wrong inside is an entry of the event, never the end of the stream."""
        try:
            yield
        except Exception as error:
            self.base = None
            event.trust_error = f"{type(error).__name__}: {error}".splitlines()[0][:300]

    def _in_steps(self, proposer: Proposer, proposal: Proposal, layer: int, solve: Solve) -> dict[str, Any]:
        assert self.greedy is not None
        steps = run_steps(self.greedy, _LayerSteps(self, self.greedy, proposal, layer, solve))
        return {"greedy": steps}


def _by_label(judgement: Judgement, event: Event) -> Judgement:
    """Roll back what lowers the composite on evaluation probes, whatever the score says."""
    if event.without is None or event.applied is None:
        raise ConfigError("trust: the judge label needs labels; set label_cases")
    harmful = event.applied["composite"] < event.without["composite"]
    return dataclasses.replace(judgement, decision="rolled_back" if harmful else "accepted", scale=float(not harmful))


def _in_one_step(proposer: Proposer, proposal: Proposal, layer: int, solve: Solve) -> dict[str, Any]:
    """The plain edit, with the fields that greedy events have."""
    found = install_at_once(proposer, proposal, layer, solve)
    step = {"greedy_step": 1, "greedy_scale": 1.0, "greedy_accept": True, "greedy_reason": "single_step"}
    return {"greedy": [GreedyStep(**step, **found)]} | found


class _LayerSteps:
    """The moves of one layer's greedy steps (:class:`editlab.editing.greedy.Moves`)."""

    def __init__(self, guard: TrustGuard, options: Greedy, proposal: Proposal, layer: int, solve: Solve) -> None:
        self.guard, self.options, self.proposal, self.layer, self.solve = guard, options, proposal, layer, solve
        self.proposer = guard.proposer
        self.solved: tuple[Change, Problem] = solve()
        self.fresh = True
        self.state: tuple[Tensor, Any, Change | None] | None = None

    def apply(self, scale: float, whole: bool) -> dict[str, Any]:
        proposer = self.proposer
        if self.options.recompute and not self.fresh:
            self.solved = self.solve()
        self.fresh = False
        update, problem = self.solved
        weight = proposer.weights[self.layer]
        self.state = (weight.clone(), proposer.store.snapshot(), self.proposal.change.get(self.layer))
        with proposer.stopwatch.stage("solve"):
            return proposer.put(self.proposal, self.layer, update.scaled(scale), problem, whole=whole)

    def undo(self) -> None:
        assert self.state is not None
        weight, store, change = self.state
        put_back({self.layer: self.proposer.weights[self.layer]}, {self.layer: weight})
        self.proposer.store.restore(store)
        if change is None:
            self.proposal.change.pop(self.layer, None)
        else:
            self.proposal.change[self.layer] = change

    def score(self) -> Score:
        with self.proposer.stopwatch.stage("trust"):
            return self._distance_score() if self.options.use_distance_only else self._probe_score()

    def _distance_score(self) -> Score:
        """How much of what was asked of this layer is done; trust from distances."""
        monitor = self.guard.monitor
        assert monitor is not None
        changes = {k: v for k, v in self.proposal.change.items() if k == self.layer}
        problems = {self.layer: self.proposal.problems[self.layer]}
        terms = monitor.distances(changes, problems, self.proposal.columns.new)
        new, old = terms["new_edit_distance"], terms["old_edit_distance"]
        goodness = 1.0 - new / old if old > 0 else 0.0
        trust = distance_trust(terms, monitor.options) if changes else 1.0
        return Score(goodness, trust, monitor.options.threshold)

    def _probe_score(self) -> Score:
        """Composite of success and preservation on the probes; trust against the model before the batch."""
        guard, monitor = self.guard, self.guard.monitor
        if monitor is None or guard.base is None:
            raise NumericalError("greedy: the probes could not be measured before the batch")
        new = self.proposal.columns.requests[: self.proposal.columns.new]
        judgement = monitor.judge(new, guard.base, self.proposal.change, self.proposal.problems)
        return Score(monitor.composite(), judgement.trust, judgement.threshold)

    def raise_rank(self) -> bool:
        raiser: Callable[[int], bool] | None = getattr(self.proposer.store, "raise_rank", None)
        return raiser is not None and raiser(self.layer)
