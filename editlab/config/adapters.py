"""The block ``adapters`` of a run: a universe of tasks, a base model, a pool of LoRA teachers, and what is learned from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from editlab.config.base import Count, NonNegative, Positive, PositiveShare, Section, Share, Study
from editlab.config.models import HubModel
from editlab.errors import ConfigError


class LetterTasks(Section):
    """Generated tasks on strings of letters: position operation x letter operation."""

    kind: Literal["letters"] = "letters"
    size: Literal["default", "small", "smoke"] = Field("default", description="12 x 8, 8 x 6 or 3 x 3 operations")


class FileTasks(Section):
    """Tasks of one's own: a JSON list with descriptions, examples and the split of each task."""

    kind: Literal["file"]
    path: str = Field(min_length=1, description="JSON file, see docs/adapters.md")


class TrainedBase(Section):
    """A small Llama trained here to follow descriptions of tasks, and to guess the task where there is none."""

    source: Literal["trained"] = "trained"
    layers: Count = 4
    width: Count = 96
    inner: Count = Field(288, description="MLP width")
    heads: Count = 4
    steps: Count = Field(800, description="optimiser steps")
    batch: Count = Field(64, description="examples a step with a description")
    bare: Annotated[int, Field(ge=0)] = Field(32, description="examples a step without one")
    lr: Positive = Field(0.02, description="peak rate of the matrices (Muon)")
    embedding_lr: Positive = Field(5e-3, description="peak rate of everything else (AdamW)")
    weight_decay: NonNegative = Field(0.1, description="of the matrices")
    warmup: Share = Field(0.05, description="share of the steps in which the rates rise")
    decay: Share = Field(0.6, description="share of the steps at the end in which the rates fall to 0")
    held_out: Literal["strict", "open"] = Field(
        "strict", description="strict: the test combinations never occur in training, either"
    )

    @model_validator(mode="after")
    def _check(self) -> TrainedBase:
        if self.width % (2 * self.heads):
            raise ValueError(f"width: {self.width} must be an even multiple of heads ({self.heads})")
        return self


class Teachers(Section):
    """The pool: one LoRA a task, trained on the task's examples without a description."""

    rank: Count = 4
    alpha: Positive = 8.0
    steps: Count = 80
    batch: Count = Field(16, description="examples a step and teacher")
    lr: Positive = Field(4e-3, description="peak rate of AdamW")
    warmup: Share = Field(0.1, description="share of the steps in which the rate rises")
    decay: Share = Field(0.4, description="share of the steps at the end in which it falls to 0")
    together: Count = Field(8, description="teachers trained side by side")
    again: Annotated[int, Field(ge=0)] = Field(8, description="training tasks trained a second time, for seed noise")
    own: Annotated[int, Field(ge=0)] = Field(
        48, description="training tasks trained from an A_0 of their own, for the merge table"
    )
    joint_steps: Count = Field(200, description="steps of the one adapter that is trained on all training tasks")


class Deltas(Section):
    """What an adapter does: the change of last hidden states on probes."""

    probes: Annotated[int, Field(ge=4)] = Field(96, description="half of them supervise, all of them judge")
    step: Count = Field(2, description="probes in a step of training on deltas")
    position: Literal["answer", "prompt_end", "neutral"] = Field(
        "answer", description="answer: at the letters of a continuation that the base wrote; else one position a probe"
    )
    supervise: Literal["positions", "pooled"] = Field(
        "positions", description="what training compares: the change at each position of each probe, or its mean"
    )
    pool: Literal["mean", "concat"] = Field("mean", description="over probes; concat is projected to 256 dimensions")


class Gates(Section):
    """What must hold before anything else is believed; written into the results."""

    prompted: Share = Field(0.9, description="least exact match of the base with descriptions of tasks it saw")
    bare: Share = Field(0.05, description="largest exact match of the base without a description")
    teacher: Share = Field(0.8, description="least exact match of a teacher")
    teachers: Share = Field(0.8, description="share of the teachers that must reach it")
    reliability: Share = Field(0.8, description="least mean cosine of centred deltas from two halves of the probes")


class Retrieval(Section):
    """The index of deltas and what is retrieved from it."""

    k: list[Count] = Field([1, 3, 10], min_length=1, description="adapters merged")
    temperature: Positive = Field(0.1, description="of the softmax over cosines that weighs them")
    index: Literal["numpy", "faiss"] = Field("numpy", description="faiss needs the package of that name")


class Coefficients(Section):
    """Generator from text to coefficients of the training teachers."""

    penalties: list[Positive] = Field(
        [0.003, 0.03, 0.1, 0.3, 1.0], min_length=1, description="ridge; chosen on validation letters"
    )
    steps: Count = Field(60, description="steps of training on deltas")
    every: Count = Field(20, description="steps between looks at the validation letters; the best look is kept")
    lr: Positive = Field(0.1, description="peak rate of Muon")
    batch: Count = Field(60, description="tasks a step, at most; the others wait for their turn")


class HyperConvolution(Section):
    """Generator from description tokens to LoRA tokens by hyper-convolutions."""

    steps: Count = 250
    every: Count = Field(50, description="steps between looks at the validation letters; the best look is kept")
    lr: Positive = 1e-3
    batch: Count = Field(8, description="tasks a step")
    descriptions: Count = Field(8, description="descriptions that make a condition")
    chunk: Count = Field(32, description="columns of a LoRA token")
    norm_band: NonNegative = Field(
        0.1, description="weight of ((norm / teachers' norm) - 1)^2 where deltas are learned"
    )
    diversity: NonNegative = Field(0.1, description="weight of the penalty on deltas more alike than the teachers'")


class Merging(Section):
    """The merge table."""

    k: Count = Field(10, description="adapters merged")
    density: PositiveShare = Field(0.5, description="share kept by TIES, DARE and pruning")
    draws: Count = Field(2, description="random masks averaged in the table")


class AdapterScores(Section):
    """How adapters are scored."""

    strings: Count = Field(100, description="test examples a task")
    validation: Count = Field(50, description="examples a validation task")
    rows: Count = Field(1600, description="sequences that run through the model at once")
    margin: Positive = Field(0.05, description="exact match within which two supervisions count as equal")


class AdaptersStudy(Study):
    """LoRA adapters from behavioural deltas: generated, retrieved, merged."""

    INPUTS: ClassVar[tuple[str, ...]] = ("tasks", "base", "teachers")

    seeds: list[Annotated[int, Field(ge=0, le=7)]] = Field(
        [0, 1, 2], min_length=1, description="each with a split, a base model and a pool of its own"
    )
    tasks: Annotated[LetterTasks | FileTasks, Field(discriminator="kind")] = LetterTasks()
    base: Annotated[TrainedBase | HubModel, Field(discriminator="source")] = TrainedBase()
    teachers: Teachers = Teachers()
    deltas: Deltas = Deltas()
    gates: Gates = Gates()
    features: Literal["tfidf", "hidden"] = Field(
        "tfidf", description="of descriptions; hidden: mean states of the base"
    )
    retrieval: Retrieval = Retrieval()
    coefficients: Coefficients = Coefficients()
    hyperconvolution: HyperConvolution = HyperConvolution()
    convolution_seeds: list[int] = Field([0], description="seeds for which the hyper-convolution is trained")
    merging: Merging = Merging()
    own_seeds: list[int] = Field(
        [0], description="seeds whose merge table also has a pool of adapters with their own A_0"
    )
    scores: AdapterScores = AdapterScores()

    @model_validator(mode="after")
    def _check(self) -> AdaptersStudy:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} holds a value twice")
        if not set(self.convolution_seeds) <= set(self.seeds):
            raise ValueError(f"convolution_seeds: {self.convolution_seeds} is not allowed; some of seeds {self.seeds}")
        if not set(self.own_seeds) <= set(self.seeds):
            raise ValueError(f"own_seeds: {self.own_seeds} is not allowed; some of seeds {self.seeds}")
        if isinstance(self.base, TrainedBase) != isinstance(self.tasks, LetterTasks):
            raise ValueError("base: a trained base goes with tasks of kind letters, a hub model with a file of tasks")
        return self

    def check_files(self, where: str) -> None:
        """Raise :class:`ConfigError` when the file of tasks or a local base is not there."""
        if isinstance(self.tasks, FileTasks) and not Path(self.tasks.path).expanduser().is_file():
            raise ConfigError(f"config: {where}.tasks.path: {self.tasks.path!r} is not a file")
        if isinstance(self.base, HubModel):
            self.base.check_files(f"{where}.base")
