"""Which prompts an edit is scored on: its own, its neighbours', and those of its subject's other facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from editlab.data.edited import EditedFacts, SubjectFacts
from editlab.data.requests import EditRequest
from editlab.randomness import python_rng

PROBES = ("rewrite", "paraphrase", "neighborhood")
KEPT = (
    "neighborhood",
    "edited_neighborhood",
    "same_subject",
    "same_subject_apart",
)  # what an edit should leave as it was


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What is known about the facts around those that are scored.

    Attributes:
        edited: the facts that are edited at this moment. A neighbourhood prompt that asks for one of them becomes a row
            of ``edited_neighborhood``: its old answer is no longer the right one.
        facts: the facts of the data set, to ask for unedited ones of an edited subject (``same_subject``).
        most: of these a case, at most.
        apart: relations that a method which holds others of a subject leaves out: their facts count a second time, apart.
    """

    edited: EditedFacts = dataclasses.field(default_factory=EditedFacts)
    facts: SubjectFacts = dataclasses.field(default_factory=SubjectFacts)
    most: int = 0
    apart: frozenset[str] = frozenset()


def scored_sample(requests: Sequence[EditRequest], most: int | None, seed: int) -> list[EditRequest]:
    """Those of a stream's facts that are scored, ``most`` of them at most (None: all), drawn by seed, in the stream's order."""
    if most is None or len(requests) <= most:
        return list(requests)
    drawn = python_rng("scored cases", seed, len(requests)).sample(range(len(requests)), most)
    return [requests[i] for i in sorted(drawn)]


Row = tuple[str, str, int, str, str, str]
"""case_id, probe, index in its probe set, prompt, new target, right target."""


def prompt_rows(request: EditRequest, probes: Sequence[str], around: Surroundings | None = None) -> list[Row]:
    """Every row of a request, in the order of the probe sets; those of its subject come last."""
    rows = [row for probe in probes for row in _probe_rows(request, probe, around)]
    return rows if around is None else rows + _subject_rows(request, around)


def _probe_rows(request: EditRequest, probe: str, around: Surroundings | None) -> list[Row]:
    if probe == "rewrite":
        prompts = [(request.rewrite_prompt, request.target_true)]
    elif probe == "paraphrase":
        prompts = [(prompt, request.target_true) for prompt in request.paraphrase_prompts]
    else:
        prompts = request.neighbors()
    kinds = [probe] * len(prompts)
    if probe == "neighborhood" and around is not None:
        untouched = around.edited.untouched_neighbors(request)
        kinds = ["neighborhood" if keep else "edited_neighborhood" for keep in untouched]
    return [
        (request.case_id, kind, i, prompt, request.target_new, right)
        for i, (kind, (prompt, right)) in enumerate(zip(kinds, prompts, strict=True))
    ]


def _subject_rows(request: EditRequest, around: Surroundings) -> list[Row]:
    others = around.facts.unedited(request, around.edited, around.most)
    rows = [(i, other.rewrite_prompt, other.target_new, other.target_true) for i, other in enumerate(others)]
    apart = [row for row, other in zip(rows, others, strict=True) if other.key[1] in around.apart]
    kinds = [("same_subject", rows), ("same_subject_apart", apart)]
    return [(request.case_id, kind, *row) for kind, chosen in kinds for row in chosen]
