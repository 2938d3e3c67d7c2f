"""What is asked beside the edited facts: probes before the stream and after it, and whether the targets converged."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from editlab.config.evaluation import Evaluation
from editlab.data.probes import MULTI_HOP, SINGLE_HOP, Question
from editlab.data.requests import EditRequest
from editlab.editing.events import Event
from editlab.editing.session import EditSession
from editlab.editing.targets import UNCONVERGED
from editlab.evaluation.probing import (
    Verdicts,
    answer_questions,
    conditions_of,
    questions_of,
    sample_probes,
    score_probes,
    summarize_probes,
)

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

TOLERATED = 0.1
"""Share of the targets that may fail to converge without a warning."""


class FollowUp:
    """The probes of a stream: the unedited model answers their conditions here and now, the edited one their questions.

    Args:
        session: entered, nothing edited yet.
        requests: the facts whose probes may be scored.
        seed: of the sample of probes, and of the intervals.
    """

    def __init__(self, session: EditSession, requests: Sequence[EditRequest], options: Evaluation, seed: int) -> None:
        self.session, self.options, self.seed = session, options, seed
        self.requests = sample_probes(requests, options.probe_cases, seed)
        self.before = self._answers(conditions_of(self.requests))
        self.hops = {r.case_id: r for r in map(_hops, self.requests) if r.group and r.probes}

    def immediate(self, batch: Sequence[EditRequest]) -> pd.DataFrame | None:
        """Verdicts on the multi-hop questions of the cases that a batch completes; None where there are none.

        A case of several edits (a group) carries its questions on its last one: now all of them are in.
        """
        asked = [self.hops[request.case_id] for request in batch if request.case_id in self.hops]
        return score_probes(asked, self.before, self._answers(questions_of(asked))) if asked else None

    def metrics(self, immediate: Sequence[pd.DataFrame] = ()) -> list[pd.DataFrame]:
        """Rows of the table of metrics, of the model as it is now; none where nothing is probed.

        Args:
            immediate: verdicts of :meth:`immediate`, batch by batch.
        """
        import pandas as pd

        if not self.requests:
            return []
        frames = {"final": score_probes(self.requests, self.before, self._answers(questions_of(self.requests)))}
        if immediate:
            frames["immediate"] = pd.concat(immediate, ignore_index=True)
        limits = {"resamples": self.options.resamples, "seed": self.seed}
        return [summarize_probes(frame, **limits).assign(when=when) for when, frame in frames.items()]

    def _answers(self, questions: Sequence[Question]) -> Verdicts:
        with self.session.stopwatch.stage("probe"):
            return answer_questions(
                self.session.model,
                questions,
                max_new_tokens=self.options.answer_tokens,
                template=self.options.question_template,
            )


def _hops(request: EditRequest) -> EditRequest:
    """The request with its multi-hop question and the single hops of it alone."""
    return dataclasses.replace(request, probes=tuple(p for p in request.probes if p.kind in (MULTI_HOP, SINGLE_HOP)))


def unconverged_share(events: Sequence[Event]) -> float | None:
    """Share of the facts of all batches whose targets did not converge; None where there were no targets."""
    parts = [(len(e.cases), e.targets.unconverged) for e in events if e.targets and e.targets.unconverged is not None]
    total = sum(count for count, _ in parts)
    return sum(count * share for count, share in parts) / total if total else None


def warn_unconverged(share: float | None) -> None:
    """Log one line when more than a tenth of the targets did not converge: the edits will be weak."""
    if share is not None and share > TOLERATED:
        logger.warning(
            "%.0f %% of the targets ended at a loss above %s: raise clamp or steps, edit another layer, or train the "
            "substrate on more statements a fact",
            100 * share,
            UNCONVERGED,
        )
