"""The typed configuration: one model per section, every field with its help, all validation in one place.

:func:`load_study` turns the merged YAML into a :class:`Study` or raises one :class:`ConfigError` of one line: the key,
its value and what is allowed. Methods are recipes (:mod:`editlab.recipe`). :meth:`Study.cells` lists the cells of an
experiment; axes that do not apply to a method collapse, so that no cell is computed twice under two names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from editlab.edit.registry import SOLVERS
from editlab.errors import ConfigError
from editlab.recipe import Recipe
from editlab.validation import Count, NonNegative, Positive, PositiveShare, Section, Share, short, validated

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


class SubstrateModel(Section):
    """A small model trained from scratch on the true statements of a dataset."""

    source: Literal["substrate"]
    dataset: Name = Field(description="whose facts it learns")
    architecture: Literal["gpt2", "llama"] = "gpt2"
    layers: Count = 4
    width: Count = 128
    inner: Count | None = Field(None, description="MLP width; default 4 x width")
    heads: Count = 4
    vocabulary: Annotated[int, Field(ge=300)] = Field(1500, description="tokens of the BPE trained on the corpus")
    context: Count = Field(96, description="longest sequence")
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
    def _check(self) -> SubstrateModel:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} must be a multiple of heads ({self.heads})")
        return self


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
    """What a job asks of a cluster (editlab/resources.py); memory doubles with each retry."""

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


class Study(Section):
    """The whole configuration."""

    study: Name
    model: Name = Field(description="one of models")
    dataset: Name = Field(description="one of datasets")
    data_path: str | None = Field(None, description="overrides the path of the chosen dataset (for --config)")
    datasets: dict[Name, Annotated[FactsData | FileData, Field(discriminator="kind")]]
    models: dict[Name, Annotated[SubstrateModel | HubModel, Field(discriminator="source")]]
    statistics: Statistics = Statistics()
    contexts: ContextTemplates = ContextTemplates()
    tracing: Tracing = Tracing()
    evaluation: Evaluation = Evaluation()
    retraining: Retraining = Retraining()
    methods: dict[Name, Recipe]
    experiments: dict[Name, Experiment] = Field(description="by name; null drops one that a base study declares")
    sweep: Sweep = Sweep()
    resources: dict[str, Resources] = Field(default_factory=dict, description="by rule; default applies elsewhere")
    allow_missing: bool = Field(False, description="write tables with holes, and list them")
    measure_speed: bool = Field(
        False, description="time the targets for the report, where the model is a substrate: 2 minutes"
    )
    _cells: dict[str, list[dict[str, str]]] = PrivateAttr(default_factory=dict)  # what `cells` has found already

    @model_validator(mode="after")
    def _check(self) -> Study:
        _choose("model", self.model, self.models)
        _choose("dataset", self.dataset, self.datasets)
        for name, model in self.models.items():
            if isinstance(model, SubstrateModel):
                _choose(f"models.{name}.dataset", model.dataset, self.datasets)
        for name, experiment in self.experiments.items():
            for method in experiment.methods:
                _choose(f"experiments.{name}.methods", method, self.methods)
            _check_ranks(name, experiment, self.methods)
            _check_layers(experiment, self.methods, self.models[self.model])
            facts = self.datasets[self.dataset]
            if isinstance(facts, FactsData) and experiment.num_edits > facts.size:
                raise ValueError(
                    f"experiments.{name}.num_edits: {experiment.num_edits} is not allowed; "
                    f"datasets.{self.dataset} has {facts.size} facts"
                )
        _check_sweep(self.sweep, self.methods)
        return self

    def cells(self, experiment: str) -> list[dict[str, str]]:
        """Coordinates of the cells of an experiment, each once, in a fixed order. Values are as they stand in paths."""
        if experiment not in self._cells:
            self._cells[experiment] = self._product(experiment)
        return self._cells[experiment]

    def _product(self, experiment: str) -> list[dict[str, str]]:
        plan = self.experiments[experiment]
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for method in plan.methods:
            traits = SOLVERS[self.methods[method].solver]
            for batch in next((own.batch for own in plan.own_batches if method in own.methods), plan.batch):
                for replay in plan.replay:
                    for rank, seed in itertools.product(_ranks(plan, self.methods[method]), plan.seeds):
                        for extra in _replay_axes(plan, replay if traits.replay else 0.0):
                            cell = {
                                "method": method,
                                "batch": str(_batch(batch, traits.max_batch, traits.edits)),
                                "replay": _decimal(replay) if traits.replay else "0",
                                **extra,
                                "rank": str(rank),
                                "seed": str(seed),
                            }
                            found.setdefault(tuple(cell.values()), cell)
        return list(found.values())


def _batch(batch: int, largest: int | None, edits: bool) -> int:
    return min(batch, largest or batch) if edits else 1


def _decimal(value: float) -> str:
    """A rate as it stands in paths: plain digits, different for different rates."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _ranks(plan: Experiment, recipe: Recipe) -> list[int]:
    return plan.rank if recipe.has_rank else [0]


def _check_ranks(name: str, plan: Experiment, methods: Mapping[str, Recipe]) -> None:
    """Ranks belong to LoRA recipes: none may be without, and none is given for raw recipes alone."""
    ranked = [m for m in plan.methods if methods[m].has_rank]
    if ranked and 0 in plan.rank:
        raise ValueError(f"experiments.{name}.rank: 0 is not allowed; {ranked[0]} stores LoRA: give ranks of 1 or more")
    if not ranked and plan.rank != [0]:
        raise ValueError(f"experiments.{name}.rank: {plan.rank} is not allowed; no recipe of it stores LoRA: use [0]")
    for method in ranked:
        if methods[method].backend == "lora" and max(plan.rank) > methods[method].max_rank:
            raise ValueError(
                f"experiments.{name}.rank: {max(plan.rank)} is not allowed; "
                f"at most methods.{method}.max_rank ({methods[method].max_rank})"
            )


def _check_layers(plan: Experiment, methods: Mapping[str, Recipe], model: SubstrateModel | HubModel) -> None:
    """Where the number of layers is known before the model is there, edited layers must be among them."""
    if isinstance(model, HubModel):
        return
    for method in plan.methods:
        layers = methods[method].layers
        if layers != "auto" and max(layers) >= model.layers:
            raise ValueError(
                f"methods.{method}.layers: {layers} is not allowed; the model has layers 0..{model.layers - 1}"
            )


def _check_sweep(sweep: Sweep, methods: Mapping[str, Recipe]) -> None:
    """Every point of the grid must be a valid recipe."""
    for method, axes in sweep.axes.items():
        _choose("sweep.axes", method, methods)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            validated(Recipe, methods[method].model_dump(exclude_unset=True) | point, f"sweep.axes.{method}")


def _replay_axes(plan: Experiment, replay: float) -> list[dict[str, str]]:
    """The replay ablation's two further axes; without replay they collapse to one cell."""
    if plan.capacity is None and plan.strategy is None:
        return [{}]
    capacities, strategies = plan.capacity or [200], plan.strategy or ["random"]
    if replay == 0:
        capacities, strategies = capacities[:1], strategies[:1]
    return [{"capacity": str(c), "strategy": s} for c in capacities for s in strategies]


def load_study(values: Mapping[str, Any]) -> Study:
    """Validate the merged configuration. An experiment that is ``null`` is dropped: a study that is laid over another one can
    leave out what the other declares.

    Raises:
        ConfigError: one line with the key, its value and what is allowed.
    """
    if isinstance(values, Mapping) and isinstance(values.get("experiments"), Mapping):
        values = {**values, "experiments": {k: v for k, v in values["experiments"].items() if v is not None}}
    return validated(Study, values, "config")


def _choose(key: str, value: str, allowed: Mapping[str, Any]) -> None:
    if value not in allowed:
        raise ValueError(f"{key}: {short(value)} is not allowed; one of {', '.join(sorted(allowed))}")


def dataset_path(study: Study, name: str) -> Path | None:
    """The local file of a dataset, None for generated ones."""
    data = study.datasets[name]
    if isinstance(data, FactsData):
        return None
    return Path(study.data_path if study.data_path and name == study.dataset else data.path).expanduser()


def check_files(study: Study) -> None:
    """Raise :class:`ConfigError` when a file that the study needs is not there; nothing is opened.

    Only the chosen model and dataset (and what they stand on) are looked at.
    """
    names = {study.dataset}
    model = study.models[study.model]
    if isinstance(model, SubstrateModel):
        names.add(model.dataset)
    for name in sorted(names):
        data, path = study.datasets[name], dataset_path(study, name)
        if isinstance(data, FileData) and path is not None and not path.is_file() and not data.url:
            raise ConfigError(
                f"config: datasets.{name}.path: {str(path)!r} is not a file; name an existing file "
                "(or --config data_path=FILE)"
            )
    if study.statistics.text is not None and not Path(study.statistics.text).is_file():
        raise ConfigError(f"config: statistics.text: {study.statistics.text!r} is not a file; name an existing file")
    if isinstance(model, HubModel):
        local = Path(model.id).expanduser()
        if (local.is_absolute() or model.id.startswith((".", "~"))) and not local.is_dir():
            raise ConfigError(f"config: models.{study.model}.id: {model.id!r} is not a directory")
        if study.statistics.text is None and study.statistics.hub is None and _needs_moments(study):
            raise ConfigError(
                "config: statistics.text: required for a hub model; name a text file (or statistics.hub) to stream "
                "second moments over"
            )


def _needs_moments(study: Study) -> bool:
    used = {m for e in study.experiments.values() for m in e.methods}
    return any(SOLVERS[study.methods[m].solver].moment for m in used)
