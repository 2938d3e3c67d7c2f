"""What a job asks of a cluster: memory, minutes and GPUs, from the size of the model, the batch and the number of edits.

``resources`` of a run has an entry by rule; what an entry leaves out comes from ``default``, then from the defaults of
:class:`Resources`. Jobs that do not load the model get the entry as it stands. For the others

- memory (MB) = ``mem_mb`` + ``model_copies`` x weights + ``mem_mb_per_fact`` x batch;
- minutes = ``runtime`` + ``runtime_per_billion`` x billions of parameters; for a cell the second term is multiplied by
  edits / 1,000, and ``runtime_per_1000_edits`` x edits / 1,000 is added;
- GPUs = ``gpu``, or one from ``gpu_from`` billions of parameters on.

Memory doubles with each retry, so that a job that was killed for its memory gets through; minutes do not, because a
time above the partition's limit would wait for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Protocol

from pydantic import Field

from editlab.config.base import Count, NonNegative, Positive, Section


class Resources(Section):
    """What a job asks of a cluster; memory doubles with each retry."""

    mem_mb: Count = Field(1500, description="memory in MB, before model and batch are counted")
    runtime: Count = Field(
        60, description="minutes, before the model is counted; a job that takes longer is ended, also without a cluster"
    )
    gpu: Annotated[int, Field(ge=0)] = Field(0, description="GPUs, whatever the model")
    model_copies: NonNegative = Field(3.0, description="memory for so many copies of the model's weights")
    mem_mb_per_fact: NonNegative = Field(1.0, description="memory in MB for each fact of a batch")
    runtime_per_1000_edits: NonNegative = Field(60.0, description="minutes for 1,000 edits of a cell")
    runtime_per_billion: NonNegative = Field(
        60.0, description="minutes for a billion parameters (a cell: for these and 1,000 edits)"
    )
    gpu_from: Positive | None = Field(1.0, description="billions of parameters from which one GPU is asked for")
    group_below: NonNegative = Field(0.1, description="billions of parameters below which jobs share submissions")


Entries = Mapping[str, Resources]


class Sized(Protocol):
    """A section that describes a model."""

    @property
    def billions(self) -> float | None:
        """Parameters in billions; None: not known."""

    @property
    def weights_mb(self) -> float:
        """Size of the weights in MB."""


def of_rule(entries: Entries, rule: str) -> Resources:
    """The entry of a rule, completed from ``default``."""
    given = {
        field: getattr(entry, field)
        for name in ("default", rule)
        if (entry := entries.get(name)) is not None
        for field in entry.model_fields_set
    }
    return Resources(**given)


def memory(entries: Entries, rule: str, attempt: int = 1, model: Sized | None = None, batch: int = 0) -> int:
    """MB of a job; ``attempt`` counts from 1."""
    entry = of_rule(entries, rule)
    amount = float(entry.mem_mb)
    if model is not None:
        amount += entry.model_copies * model.weights_mb + entry.mem_mb_per_fact * batch
    return math.ceil(amount) * 2 ** (attempt - 1)


def minutes(entries: Entries, rule: str, model: Sized | None = None, edits: int | None = None) -> int:
    """Time limit of a job in minutes; ``edits`` is given for cells."""
    entry = of_rule(entries, rule)
    amount = float(entry.runtime)
    thousands = 1.0 if edits is None else edits / 1000
    if edits is not None:
        amount += entry.runtime_per_1000_edits * thousands
    if model is not None:
        amount += entry.runtime_per_billion * (model.billions or 0.0) * thousands
    return math.ceil(amount)


def gpus(entries: Entries, rule: str, model: Sized | None = None) -> int:
    """Number of GPUs of a job."""
    entry = of_rule(entries, rule)
    large = model is not None and entry.gpu_from is not None and (model.billions or 0.0) >= entry.gpu_from
    return max(entry.gpu, 1) if large else entry.gpu


def is_small(entries: Entries, rule: str, model: Sized) -> bool:
    """Whether jobs of the rule are so short that several should share one submission; False where the size is unknown."""
    return model.billions is not None and model.billions < of_rule(entries, rule).group_below
