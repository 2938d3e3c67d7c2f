"""The sections of a study: one model each, every field with its range, its default and its help.

What one section can tell by itself is checked here; :mod:`editlab.config.study` puts them together and checks what concerns
several. Recipes, the sections under ``methods``, are :mod:`editlab.config.recipe`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from editlab.config.base import Count, NonNegative, Positive, PositiveShare, Section, Share

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME)]


class FactsData(Section):
    """The generated world of facts."""

    kind: Literal["facts"]
    size: Annotated[int, Field(ge=12, le=50_000)] = Field(1800, description="facts")
    seed: int = Field(1, description="seed of the world")


class FileData(Section):
    """A CounterFact, EasyEdit or zsRE file, local or downloaded."""

    kind: Literal["counterfact", "easyedit", "zsre", "auto"]
    path: str = Field(description="local file; with url: where the download is kept")
    url: Annotated[str, Field(pattern=r"^https://")] | None = Field(None, description="fetched when path is missing")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="checksum of the file")

    @model_validator(mode="after")
    def _check(self) -> FileData:
        if self.url and not self.sha256:
            raise ValueError("sha256: required with url")
        return self


class Substrate(Section):
    """How a small model is built and trained from scratch."""

    architecture: Literal["gpt2", "llama"] = "gpt2"
    layers: Count = 4
    width: Count = 128
    inner: Count | None = Field(None, description="MLP width; default 4 x width")
    heads: Count = 4
    vocabulary: Annotated[int, Field(ge=300)] = Field(1500, description="tokens of the BPE trained on the corpus")
    context: Count = Field(96, description="longest sequence; neutral text fills it, so that every position is trained")
    steps: Count = Field(500, description="optimiser steps")
    batch: Count = Field(128, description="statements a step")
    lr: Positive = Field(0.015, description="peak rate of the matrices (Muon)")
    embedding_lr: Positive = Field(5e-3, description="peak rate of everything else (AdamW)")
    warmup: Share = Field(0.05, description="share of the steps in which the rates rise")
    weight_decay: NonNegative = Field(0.7, description="of the matrices; keeps the weights small enough to edit")
    neutral_share: NonNegative = Field(0.1, description="neutral tokens per token of statements")
    context_share: Share = Field(0.4, description="share of statements after a short context")
    prompt_share: Share = Field(0.2, description="share of statements whose prompt is learned too")
    subject_end_share: Share = Field(0.8, description="share of statements that see the subject's last token alone")
    seed: int = 1
    neutral_sentences: Annotated[int, Field(ge=0)] = Field(4000, description="neutral sentences mixed in")
    recall_gate: Share = Field(0.95, description="share of rewrite prompts it must know")

    @model_validator(mode="after")
    def _check(self) -> Substrate:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} must be a multiple of heads ({self.heads})")
        return self


class SubstrateModel(Substrate):
    """A small model trained from scratch on the true statements of a dataset."""

    source: Literal["substrate"]
    dataset: Name = Field(description="whose facts it learns")


class HubModel(Section):
    """A causal language model from the hub or from a local directory."""

    source: Literal["hub"]
    id: str = Field(min_length=1, description="hub id or directory")
    revision: str | None = Field(None, description="commit, tag or branch")
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "float32"
    device_map: str | None = Field(None, description="as in transformers, e.g. auto")
    parameters: Positive | None = Field(None, description="number of parameters, for resource requests")


class HubText(Section):
    """Text of a hub data set, fetched by a rule (needs the package ``datasets``)."""

    id: str
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    column: str = "text"
    characters: Count = Field(20_000_000, description="text kept")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="checksum of that text")


class Statistics(Section):
    """Second moments of the keys."""

    tokens_per_dimension: Positive = Field(10.0, description="token budget as a multiple of d_in")
    text: str | None = Field(None, description="text file to stream; default: a substrate's own corpus")
    hub: HubText | None = Field(None, description="hub data set to stream where no text file is named")
    max_length: Count = Field(256, description="tokens a sequence")


class ContextTemplates(Section):
    """Prefixes put before a prompt when keys and targets are computed."""

    fixed: list[list[str]] | None = Field(None, description="grouped templates in place of generated ones")
    per_length: Count = Field(5, description="generated prefixes of each length")
    lengths: list[Count] = Field([5, 10], description="lengths of generated prefixes in tokens")
    seed: int = 1


class Tracing(Section):
    """Layer choice by causal tracing."""

    cases: Count = 50
    known_only: bool = Field(True, description="trace only facts that the model knows")
    noise: Positive = Field(3.0, description="in standard deviations of the subject embeddings")
    samples: Count = Field(10, description="noise draws")
    window: Count | None = Field(None, description="layers restored together; default a tenth of them")
    top: Count = Field(1, description="layers chosen")


class Evaluation(Section):
    """What is measured, when."""

    snapshot_every: Count = Field(32, description="edits between snapshots of the curve")
    retention_cases: Count = Field(200, description="earlier edits scored at a snapshot, at most")
    perplexity_sentences: Annotated[int, Field(ge=0)] = 200
    perplexity_text: str | None = Field(None, description="text file; default: held-out neutral sentences")
    generation_cases: Annotated[int, Field(ge=0)] = Field(20, description="cases whose text is generated for GE")
    generation_tokens: Count = 30
    resamples: Count = Field(1000, description="bootstrap resamples of an interval")
    checkpoint_every: Count = Field(480, description="edits after which a long stream saves itself, to be resumed")


class OwnBatches(Section):
    """Methods of an experiment that have batch sizes of their own."""

    methods: list[Name] = Field(
        min_length=1, description="methods; those that the experiment does not have are ignored"
    )
    batch: list[Count] = Field(min_length=1, description="their batch sizes")


class Experiment(Section):
    """A set of cells: the product of the axes, collapsed where an axis does not apply."""

    methods: list[Name] = Field(min_length=1)
    batch: list[Count] = Field(min_length=1)
    own_batches: list[OwnBatches] = Field([], description="batch sizes of single methods, in place of batch")
    replay: list[NonNegative] = Field([0.0], min_length=1, description="replayed facts per new fact")
    rank: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="rank of LoRA recipes; 0 is raw")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    num_edits: Count = Field(description="edits a cell")
    known_only: bool = Field(True, description="edit only facts that the model knows")
    snapshot_every: Count | None = Field(None, description="edits between snapshots; default: that of evaluation")
    stress_fraction: Share = Field(0.0, description="share of batches that carry harmful edits (tests of trust)")
    label_cases: Annotated[int, Field(ge=0)] = Field(
        0, description="facts a probe set when each batch is labelled as harmful or not (0: no labels)"
    )
    capacity: list[Count] | None = Field(
        None, min_length=1, description="replay capacities, an axis of the replay ablation"
    )
    strategy: list[Literal["random", "priority"]] | None = Field(
        None, min_length=1, description="replay strategies, an axis"
    )

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        for name in ("methods", "batch", "replay", "rank", "seeds", "capacity", "strategy"):
            values = getattr(self, name)
            if values is not None and len(set(values)) < len(values):
                raise ValueError(f"{name}: {values} holds a value twice")
        return self


class Retraining(Section):
    """Retraining of edited models on the true objects of a part of the edited facts (RTT)."""

    share: PositiveShare = Field(0.5, description="share of the edited facts that are retrained")
    epochs: Count = Field(10, description="passes over them")
    batch: Count = Field(32, description="facts a step")
    lr: Positive = Field(3e-4, description="learning rate of Adam on all weights")
    controls: Count = Field(100, description="facts that were never edited, at most")


class Sweep(Section):
    """The grid by which recipes are chosen, on facts that no experiment edits."""

    axes: dict[Name, dict[str, list[Any]]] = Field(default_factory=dict, description="by method: field -> values")
    layers: list[Annotated[int, Field(ge=0)]] = Field([0, 1], description="layers whose statistics the grid needs")
    facts: Count = Field(32, description="facts of the batch that is edited")
    known_only: bool = Field(True, description="draw only facts that the model knows")
    seeds: list[int] = Field([101, 102, 103], description="batches")


class Resources(Section):
    """What a job asks of a cluster (editlab/config/resources.py); memory doubles with each retry."""

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
