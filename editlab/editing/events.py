"""The event of a batch: what an editing session writes down, and what an analysis reads. Nothing here imports torch.

A line of ``events.jsonl`` is one :class:`Event`. What a batch had no use for is absent from the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editlab.data.requests import read_utf8
from editlab.errors import ArtifactError

Decision = Literal["accepted", "scaled", "rolled_back", "rejected"]


class _Entry(BaseModel):
    """An entry is filled in while its batch is edited; a field that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def record(self) -> dict[str, Any]:
        """As it stands in the file."""
        return self.model_dump(by_alias=True, exclude_none=True)


class Cut(_Entry):
    """What low-rank storage kept of an update.

    Attributes:
        energy: share of the update that the cut kept.
        cut: ``rank_raised`` or ``raw_fallback`` where the rank asked for kept too little.
        lora_rank: of the adapter after it.
        edit_residual: |change K - R| / |R|.
        rank_needed: what would have kept enough.
        capped: an appended adapter was cut to its largest rank.
    """

    energy: float | None = None
    cut: Literal["none", "rank_raised", "raw_fallback"] | None = Field(None, alias="guard")
    lora_rank: int | None = None
    edit_residual: float | None = None
    rank_needed: int | None = None
    capped: bool | None = None


class GreedyStep(Cut):
    """One part of an update that was put on in steps; a single step is not judged, and has no gain and no trust."""

    greedy_step: int
    greedy_scale: float
    greedy_accept: bool
    greedy_reason: str
    gain: float | None = None
    trust: float | None = None


class LayerEvent(Cut):
    """The solve of one layer: its diagnostics (:class:`editlab.algebra.problem.Solution`); a solver may add its own."""

    model_config = ConfigDict(extra="allow")

    facts: int | None = None
    rank: int | None = None
    form: str | None = None
    residual: float | None = None
    condition: float | None = None
    update_norm: float | None = None
    ridge_raised: list[float] | None = None
    moment_ridge: float | None = None
    greedy: list[GreedyStep] | None = None


class TargetsEvent(_Entry):
    """Means over the targets of a batch: updates made, final loss, length; and the share that did not converge.

    Attributes:
        skipped: where lengths are anchored to pilot edits, the facts that are given up because their targets are too long.
        unrelated: where other relations are held, the facts of which none is known: what any subject can be asked is held there.
    """

    steps_mean: float
    loss_mean: float
    norm_mean: float
    unconverged: float | None = None
    skipped: int | None = None
    unrelated: int | None = None


class Event(_Entry):
    """One batch.

    Attributes:
        batch: number of the batch, from 0.
        cases: its facts.
        decision: what became of it; ``rejected``: it could not be solved, and the model is as before.
        reason: why, where it was judged or rejected.
        stress: how it was made harmful on purpose.
        replayed: number of replayed facts.
        replay_dropped: why they were left out.
        targets, layers: how it was solved, by layer.
        passes: over the batch, for solvers that make several.
        loss: the last one, of fine-tuning and of gradients.
        known: share of the facts that the model answered before the batch, where each is given a step all the same.
        scale, rollback, trust, threshold, terms: what trust judged, and what it decided.
        trust_error: what went wrong in trust; the batch stayed.
        left_out: facts that were taken out of it for their low trust.
        without, applied: scores on evaluation probes without the batch and with its whole candidate.
        weight_norm: of the edited maps after it, by layer.
        energy_lost: by layer, share of the energy of the change so far that half precision would lose, where the model has it.
        finish: what was done after the last batch.
    """

    batch: int
    cases: list[str] = []
    decision: Decision = "accepted"
    reason: str | None = None
    stress: str | None = None
    replayed: int | None = None
    replay_dropped: str | None = None
    targets: TargetsEvent | None = None
    layers: dict[str, LayerEvent] | None = None
    passes: int | None = None
    loss: float | None = None
    known: float | None = None
    scale: float | None = None
    rollback: bool | None = None
    trust: float | None = None
    threshold: float | None = None
    terms: dict[str, float | str] | None = None
    trust_error: str | None = None
    left_out: list[str] | None = None
    without: dict[str, float] | None = None
    applied: dict[str, float] | None = Field(None, alias="with")
    weight_norm: dict[str, float] | None = None
    energy_lost: dict[str, float] | None = None
    finish: dict[str, Any] | None = None

    @property
    def kept(self) -> bool:
        """Whether the batch, or a part of it, is on the model."""
        return self.decision in ("accepted", "scaled")

    @property
    def edited(self) -> list[str]:
        """The cases that are on the model."""
        return [case for case in self.cases if case not in (self.left_out or ())] if self.kept else []


def read_events(lines: Iterable[str], where: str = "events") -> list[Event]:
    """Events from the lines of a file.

    Raises:
        ArtifactError: a line is no event; ``where`` and its number name it.
    """
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Event.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in problem["loc"]) or "line"
            raise ArtifactError(f"{where}: line {number} is no event ({key}: {problem['msg']})") from None
    return found


def gather_events(cells: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """The events of cells as lines of JSON, each with the coordinates of its cell in front.

    Among coordinates ``batch`` is a size; the number of a batch is ``number`` here.

    Args:
        cells: file of events and coordinates.

    Raises:
        ArtifactError: a line is no event.
    """
    for path, coordinates in cells:
        for event in read_events(read_utf8(path).splitlines(), path):
            found = event.record()
            yield json.dumps({**coordinates, "number": found.pop("batch"), **found})
