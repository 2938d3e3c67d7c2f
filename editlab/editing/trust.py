"""Trust: a score in [0, 1] for a batch of edits, and what follows from it: keep, scale down, or take back.

The score compares the model before and after a candidate update on probes that no evaluation uses: the new objects on
the edited facts' rewrite prompts *inside a context* (evaluation asks the bare prompt), and records that are neither
edited nor evaluated. Each term x is squashed to ``1 - exp(-max(0, x) / tau)``; the rise of log p(new object) counts for
the batch, the rest against it: ``trust = w_gain g + sum_i w_i (1 - penalty_i)``, weights normalised to 1. The
*distance-only* variant needs no pass through the model: ``w (1 - new/old)+ + (1 - w) exp(-preservation / tau)``, with
the distance of the map's output from what was asked, before and after, and its change on keys that should stay.

At or above ``threshold`` a batch stays; below ``low`` it is rolled back, bit for bit; in between it is scaled by a
factor that grows linearly from 0 to 1. An error in here never stops a stream: the batch stays, and the event says why.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Problem
from editlab.algebra.second_moment import SecondMoment
from editlab.config.recipe import Trust
from editlab.data.requests import EditRequest
from editlab.editing.events import Decision, Event
from editlab.editing.keys import compute_keys
from editlab.editing.probes import Damage, DamageProbe, GainProbe, check_disjoint
from editlab.editing.proposal import Change
from editlab.errors import ConfigError
from editlab.randomness import python_rng

GAIN, NORM = "edit_success_gain", "update_norm"
REASONS: dict[Decision, str] = {"accepted": "trust_high", "scaled": "trust_between", "rolled_back": "trust_low"}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A decision and what it rests on.

    Attributes:
        decision: ``accepted``, ``scaled`` or ``rolled_back``.
        scale: factor of the update that stays: 1, between, 0.
        trust: the score.
        threshold: what it was held against.
        terms: every term before squashing.
        per_fact: score of each new fact, or None.
    """

    decision: Decision
    scale: float
    trust: float
    threshold: float
    terms: dict[str, float]
    per_fact: list[float] | None = None

    def write(self, event: Event) -> None:
        """Into the event; NaN and infinity become strings, so that the line stays JSON."""
        event.decision, event.reason = self.decision, REASONS[self.decision]
        event.scale, event.rollback = self.scale, self.decision == "rolled_back"
        event.trust, event.threshold = self.trust, self.threshold
        event.terms = {k: v if math.isfinite(v) else str(v) for k, v in self.terms.items()}


def squash(value: float, tau: float) -> float:
    """``1 - exp(-max(0, value) / tau)`` in [0, 1]; NaN, the mark of a broken model, is 1."""
    return 1.0 if math.isnan(value) else 1.0 - math.exp(-max(0.0, value) / tau)


def behaviour_trust(terms: Mapping[str, float], options: Trust) -> float:
    """The score from squashed terms; terms that are absent leave their weight to the others."""
    weights = {k: w for k, w in options.weights.model_dump().items() if w > 0 and k in terms}
    taus, total = options.tau.model_dump(), sum(weights.values())
    score = 0.0
    for name, weight in weights.items():
        value = terms[name]
        good = _gain(value, taus[name]) if name == GAIN else 1.0 - squash(value, taus[name])
        score += weight / total * good
    return score if weights else 1.0


def _gain(value: float, tau: float) -> float:
    return 0.0 if math.isnan(value) else squash(value, tau)


def distance_trust(terms: Mapping[str, float], options: Trust) -> float:
    """The score from distances alone."""
    new, old = terms["new_edit_distance"], terms["old_edit_distance"]
    fit = max(0.0, 1.0 - new / old) if old > 0 and math.isfinite(new) else 0.0
    kept = 1.0 - squash(terms["preservation_distance"], options.tau.preservation_distance)
    return options.distance_weight * fit + (1.0 - options.distance_weight) * kept


def decide(trust: float, threshold: float, options: Trust) -> tuple[Decision, float]:
    """(decision, scale): 1 from the threshold up, 0 below ``low``, linear in between (or 0 where not soft)."""
    if trust >= threshold:
        return "accepted", 1.0
    if options.soft and trust > options.low:
        return "scaled", (trust - options.low) / (threshold - options.low)
    return "rolled_back", 0.0


def threshold_now(scores: Sequence[float], options: Trust) -> float:
    """The fixed threshold, or mean - k standard deviations of the last scores once the window is full."""
    window = options.dynamic_window
    if not window or len(scores) < window:
        return options.threshold
    last = np.asarray(scores[-window:])
    return float(np.clip(last.mean() - options.dynamic_deviations * last.std(), 0.0, 1.0))


class Preservation:
    """How far an update moves the outputs that should stay, relative to their size.

    With kept keys K0: mean |dW k0| / mean |W k0|. Without, over the corpus, from its second moment:
    ``sqrt(tr(dW C dW^T) / tr(W C W^T))``, the same in root mean square.
    """

    def __init__(self, weight: Tensor, kept: Tensor | None, moment: SecondMoment | None) -> None:
        self.kept, self.moment, self.device = kept, moment, weight.device
        self.size = self._size(Factors.from_dense(weight.double()))

    def __call__(self, change: Change) -> float:
        """The distance; 0 where there is nothing to measure with."""
        return self._size(change.to(device=self.device)) / self.size if self.size > 0 else 0.0

    def _size(self, change: Change) -> float:
        if self.kept is not None:
            return float(change.apply(self.kept).norm(dim=0).mean())
        if self.moment is None or not isinstance(change, Factors):
            return 0.0
        outer = change.product
        if outer is None:
            outer = torch.linalg.qr(change.left, mode="r").R @ change.right
        return float((outer @ self.moment.matrix.to(self.device) * outer).sum().clamp(min=0.0).sqrt())


def edit_distances(changes: Mapping[int, Change], problems: Mapping[int, Problem], new: int) -> tuple[Tensor, Tensor]:
    """Per new fact, |W'k - v| and |Wk - v| summed over the layers, ``(new,)`` each: ``|dW k - r|`` and ``|r|``."""
    after, before = torch.zeros(new, dtype=torch.float64), torch.zeros(new, dtype=torch.float64)
    for layer, problem in problems.items():
        residual = problem.residual[:, :new].double().cpu()
        gap = residual
        if layer in changes:
            gap = changes[layer].to(device="cpu").apply(problem.keys[:, :new].double().cpu()) - residual
        after, before = after + gap.norm(dim=0), before + residual.norm(dim=0)
    return after, before


@dataclasses.dataclass(frozen=True)
class Before:
    """The model's side of a comparison, taken before a batch is solved."""

    gain: Tensor | None
    damage: Damage | None
    focus: float | None

    def subset(self, facts: Sequence[int]) -> Before:
        """The same for some of the facts."""
        return self if self.gain is None else dataclasses.replace(self, gain=self.gain[list(facts)])


class TrustMonitor:
    """Judges batches on one model; keeps what it measured after the last accepted one as the next batch's "before".

    Args:
        weights: by layer, the edited maps, unedited at this moment.
        probes: held-out records; needed where the score looks at what the model does.
        contexts: templates around the rewrite prompts.
        seed: of the random rival.
        asked: the records as their keys are looked up.

    Attributes:
        scores: of the batches so far.
        damage_now: the held-out records under the model as it is; None: not known.

    Raises:
        ConfigError: no probes for a score that needs them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        options: Trust,
        weights: Mapping[int, Tensor],
        moments: Mapping[int, SecondMoment],
        contexts: Sequence[Sequence[str]],
        probes: Sequence[EditRequest] = (),
        seed: int = 0,
        asked: Callable[[Sequence[EditRequest]], Sequence[EditRequest]] = list,
    ) -> None:
        if not probes and options.behaves:
            raise ConfigError("trust: needs held-out records that are not edited; give probes, or distance_only: true")
        self.options, self.model, self.probes, self.seed = options, model, list(probes), seed
        self.gain = GainProbe(contexts)
        self.damage = DamageProbe(model, self.probes) if self.probes else None
        kept = {layer: compute_keys(model, asked(self.probes), layer) if self.probes else None for layer in weights}
        self.preservation = {k: Preservation(w, kept[k], moments.get(k)) for k, w in weights.items()}
        self.scores: list[float] = []
        self.damage_now: Damage | None = None
        self._log_prob: Tensor | None = None

    def check(self, requests: Iterable[EditRequest]) -> None:
        """Raise :class:`ConfigError` when a probe is one of the prompts that these requests are evaluated on."""
        check_disjoint(self.probes, requests)

    def before(self, requests: Sequence[EditRequest]) -> Before:
        """Measure the side before a batch; the damage probes are only run when the model changed unseen."""
        if not self.options.behaves or self.damage is None:
            return Before(None, None, None)
        if self.damage_now is None:
            self.damage_now = self.damage.measure(self.model)
        return Before(self.gain.measure(self.model, requests), self.damage_now, self._focus(requests))

    def judge(
        self,
        requests: Sequence[EditRequest],
        before: Before,
        changes: Mapping[int, Change],
        problems: Mapping[int, Problem],
    ) -> Judgement:
        """Score the candidate that is on the model now."""
        terms = self.distances(changes, problems, len(requests))
        gains: Tensor | None = None
        if before.gain is not None and before.damage is not None and self.damage is not None:
            self._log_prob = self.gain.measure(self.model, requests)
            gains = self._log_prob - before.gain
            self.damage_now = self.damage.measure(self.model)
            terms |= {GAIN: float(gains.mean()), **self.damage.compare(before.damage, self.damage_now, requests)}
            if before.focus is not None:
                terms["attribution_focus_delta"] = before.focus - (self._focus(requests) or 0.0)
        score = self.score(terms)
        threshold = threshold_now(self.scores, self.options)
        per_fact = None
        if gains is not None and self.options.per_fact:
            per_fact = [behaviour_trust({**terms, GAIN: float(g)}, self.options) for g in gains]
        return Judgement(*decide(score, threshold, self.options), score, threshold, terms, per_fact)

    def score(self, terms: Mapping[str, float]) -> float:
        """The score that the options ask for."""
        if self.options.judge == "norm":
            return 1.0 - squash(terms[NORM], self.options.tau.update_norm)
        if self.options.judge == "random":
            return python_rng("random guard", self.seed, len(self.scores)).random()
        return distance_trust(terms, self.options) if GAIN not in terms else behaviour_trust(terms, self.options)

    def composite(self) -> float:
        """Mean of p(new object) and of the share of held-out records that are right, in the state judged last."""
        if self._log_prob is None or self.damage_now is None:
            return 0.0
        return (float(self._log_prob.exp().mean()) + float(self.damage_now.right.mean())) / 2

    def settle(self, judgement: Judgement, before: Before) -> None:
        """The decision was carried out: remember the score, and the damage where it is known without a new pass."""
        self.scores.append(judgement.trust)
        if judgement.decision == "rolled_back":
            self.damage_now = before.damage
        elif judgement.decision == "scaled":
            self.damage_now = None

    def forget(self) -> None:
        """The model changed in a way that was not judged."""
        self.damage_now = None

    def distances(self, changes: Mapping[int, Change], problems: Mapping[int, Problem], new: int) -> dict[str, float]:
        """The distance terms of a change: no pass through the model."""
        after, before = edit_distances(changes, problems, new)
        moved = [self.preservation[layer](change) for layer, change in changes.items()]
        return {
            "new_edit_distance": float(after.mean()),
            "old_edit_distance": float(before.mean()),
            "preservation_distance": max(moved, default=0.0),
            NORM: math.sqrt(sum(change.norm() ** 2 for change in changes.values())),
        }

    def _focus(self, requests: Sequence[EditRequest]) -> float | None:
        if not self.options.weights.attribution_focus_delta:
            return None
        return self.gain.focus(self.model, requests)
