"""Greedy low-rank steps: one layer's update in several small parts, each kept only if it helps.

A rank-r cut of an update of n > r facts leaves some of each edit out. Here the update of a layer is put on in steps of
``eta_t = base_scale * decay^t``: of the one proposal (``recompute: false``), or of a new solve from where the model
stands (``recompute: true``, matching pursuit with rank-r atoms). After each step the candidate is scored; it stays when
trust reaches the threshold and the gain reaches ``min_improvement``, else it is taken back bit for bit. ``patience``
rejections in a row end the layer; then, if asked for, the rank is raised or what is missing is kept raw. One step is,
by definition, the plain LoRA-native edit.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from editlab.config.recipe import Greedy
from editlab.editing.events import GreedyStep


@dataclasses.dataclass(frozen=True)
class Score:
    """A state of the model as the steps see it.

    Attributes:
        goodness: higher is better; gains are its differences.
        trust: of everything this batch did so far.
        threshold: that trust is held against.
    """

    goodness: float
    trust: float = 1.0
    threshold: float = 0.0


class Moves(Protocol):
    """What the steps may do to the model."""

    def apply(self, scale: float, whole: bool) -> dict[str, Any]:
        """Put ``scale`` times the update on; ``whole`` keeps it uncut. Returns what the store says."""

    def undo(self) -> None:
        """Take back what :meth:`apply` did last, bit for bit."""

    def score(self) -> Score:
        """The model as it is."""

    def raise_rank(self) -> bool:
        """Allow a higher rank from now on; False when there is none."""


def scales(options: Greedy) -> list[float]:
    """``eta_t`` of every step."""
    return [options.base_scale * options.decay**t for t in range(options.steps)]


def judge_step(options: Greedy, gain: float, now: Score) -> tuple[bool, str]:
    """(accept, reason) of one step; NaN is no improvement."""
    if not now.trust >= now.threshold:
        return False, "trust_low"
    if not gain >= options.min_improvement:
        return False, "no_improvement"
    return True, "improved"


def run_steps(options: Greedy, moves: Moves) -> list[GreedyStep]:
    """Put the update of a layer on in steps; every step that was judged, from 1 on, with what the store said."""
    events: list[GreedyStep] = []
    best, rejected, given = moves.score().goodness, 0, 0.0
    for scale in scales(options):
        best, event = _step(options, moves, scale, best, len(events) + 1)
        events.append(event)
        given += scale if event.greedy_accept else 0.0
        rejected = 0 if event.greedy_accept else rejected + 1
        if rejected >= options.patience:
            break
    if rejected and options.when_stuck != "stop":
        missing = 1.0 if options.recompute else max(0.0, 1.0 - given)
        events += _unstick(options, moves, missing, best, len(events) + 1)
    return events


def _step(
    options: Greedy, moves: Moves, scale: float, best: float, number: int, whole: bool = False
) -> tuple[float, GreedyStep]:
    found = moves.apply(scale, whole)
    now = moves.score()
    gain = now.goodness - best
    accept, reason = judge_step(options, gain, now)
    if not accept:
        moves.undo()
    event = GreedyStep(
        greedy_step=number,
        greedy_scale=scale,
        greedy_accept=accept,
        greedy_reason=reason,
        gain=gain,
        trust=now.trust,
        **found,
    )
    return (now.goodness if accept else best), event


def _unstick(options: Greedy, moves: Moves, missing: float, best: float, number: int) -> list[GreedyStep]:
    """One last step with a higher rank, or uncut."""
    whole = options.when_stuck == "raw"
    if missing <= 0 or (not whole and not moves.raise_rank()):
        return []
    _, event = _step(options, moves, missing, best, number, whole)
    event.greedy_reason = f"{options.when_stuck}: {event.greedy_reason}"
    return [event]
