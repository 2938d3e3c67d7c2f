"""The block ``edit:`` of a run: models, data, recipes and experiments of the edit study, and the cells that they span.

What one section can tell by itself is checked in it; :class:`EditStudy` checks what concerns several. Recipes, the sections
under ``methods``, are :mod:`editlab.config.recipe`. :meth:`EditStudy.cells` lists the cells of an experiment; axes that do
not apply to a method collapse, so that no cell is computed twice under two names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from editlab.config.base import (
    Count,
    Name,
    NonNegative,
    Section,
    Share,
    Study,
    choose,
    validated,
)
from editlab.config.consistency import check_controls, check_guards, check_layers, check_own_axes, check_ranks
from editlab.config.data import Dataset, FactsData, FileData
from editlab.config.evaluation import Evaluation, Retraining
from editlab.config.models import HubModel, Model, RandomModel, SubstrateModel
from editlab.config.preparation import EditContexts, Statistics, Tracing
from editlab.config.recipe import Recipe
from editlab.errors import ConfigError


def _check_once(section: Section, axes: Sequence[str]) -> None:
    for name in axes:
        values = getattr(section, name)
        if values is not None and len(set(values)) < len(values):
            raise ValueError(f"{name}: {values} holds a value twice")


class OwnAxes(Section):
    """Methods of an experiment that have batch sizes or replay rates of their own."""

    methods: list[Name] = Field(
        min_length=1, description="methods; those that the experiment does not have are ignored"
    )
    batch: list[Count] | None = Field(None, min_length=1, description="their batch sizes; null: the experiment's")
    replay: list[NonNegative] | None = Field(
        None, min_length=1, description="their replay rates at every batch size; null: the experiment's"
    )

    @model_validator(mode="after")
    def _check(self) -> OwnAxes:
        if self.batch is None and self.replay is None:
            raise ValueError(f"methods: {self.methods} have no axis of their own; give batch or replay")
        _check_once(self, ("methods", "batch", "replay"))
        return self


class Experiment(Section):
    """A set of cells: the product of the axes, collapsed where an axis does not apply."""

    methods: list[Name] = Field(min_length=1)
    model: Name | None = Field(None, description="one of models; null: the study's")
    dataset: Name | None = Field(None, description="one of datasets; null: the study's")
    batch: list[Count] = Field(min_length=1)
    replay: list[NonNegative] = Field([0.0], min_length=1, description="replayed facts per new fact")
    replay_from: Count = Field(
        1, description="smallest batch size of the cells with replay: smaller ones have the least rate"
    )
    own_axes: list[OwnAxes] = Field([], description="batch sizes and replay rates of single methods")
    rank: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="rank of LoRA recipes; 0 is raw")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    num_edits: Count = Field(description="edits a cell")
    known_only: bool = Field(True, description="edit only facts that the model knows")
    snapshot_every: Count | None = Field(None, description="edits between snapshots; default: that of evaluation")
    stress_fraction: Share = Field(0.0, description="share of batches that carry harmful edits (tests of trust)")
    label_cases: Annotated[int, Field(ge=0)] = Field(
        0, description="facts a probe set when each batch is labelled as harmful or not (0: no labels)"
    )
    guards_from: Name | None = Field(
        None,
        description="experiment on whose streams, of other seeds, the weights and thresholds of all guards are chosen; null: "
        "those of the recipes",
    )
    capacity: list[Count] | None = Field(
        None, min_length=1, description="replay capacities, an axis of the replay ablation"
    )
    strategy: list[Literal["random", "priority", "target_loss"]] | None = Field(
        None, min_length=1, description="replay strategies, an axis"
    )

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        _check_once(self, ("methods", "batch", "replay", "rank", "seeds", "capacity", "strategy"))
        return self

    def batches(self, method: str) -> list[int]:
        """The batch sizes of a method."""
        own = (own.batch for own in self.own_axes if method in own.methods)
        return next((batch for batch in own if batch), self.batch)

    def rates(self, method: str, batch: int) -> list[float]:
        """The replay rates of a method at a batch size."""
        own = (own.replay for own in self.own_axes if method in own.methods)
        return next((rates for rates in own if rates), self.replay if batch >= self.replay_from else [min(self.replay)])


class Sweep(Section):
    """The grid by which recipes are chosen, on facts that no experiment edits."""

    axes: dict[Name, dict[str, list[Any]]] = Field(default_factory=dict, description="by method: field -> values")
    layers: list[Annotated[int, Field(ge=0)]] = Field([0, 1], description="layers whose statistics the grid needs")
    facts: Count = Field(32, description="facts that are edited")
    batch: Count | None = Field(None, description="facts a batch, one after the other; null: all at once")
    known_only: bool = Field(True, description="draw only facts that the model knows")
    seeds: list[int] = Field([101, 102, 103], description="draws of the facts")


class EditStudy(Study):
    """The edit study."""

    INPUTS: ClassVar[tuple[str, ...]] = ("datasets", "models", "statistics", "contexts", "tracing")
    WITH_EXPERIMENTS: ClassVar[tuple[str, ...]] = (
        "measure_speed",
        "train_control",
    )  # a run that lists its own sets them anew

    model: Name = Field(description="one of models")
    dataset: Name = Field(description="one of datasets")
    datasets: dict[Name, Dataset]
    models: dict[Name, Model]
    statistics: Statistics = Statistics()
    contexts: EditContexts = EditContexts()
    tracing: Tracing = Tracing()
    evaluation: Evaluation = Evaluation()
    retraining: Retraining = Retraining()
    methods: dict[Name, Recipe]
    experiments: dict[Name, Experiment] = Field(description="by name; those of a run replace the default run's")
    sweep: Sweep = Sweep()
    measure_speed: bool = Field(
        False, description="time the targets for the report, where the model is a substrate: 2 minutes"
    )
    train_control: bool = Field(
        False,
        description="train a model like the substrate on the new facts of the experiment `edit`, a control of all scores: "
        "as long as the substrate itself",
    )
    control_repeats: Count = Field(
        1,
        description="how often a pass of that training states a changed fact: facts that nothing else bears out need more",
    )
    _cells: dict[str, list[dict[str, str]]] = PrivateAttr(default_factory=dict)  # what `cells` has found already

    @model_validator(mode="after")
    def _check(self) -> EditStudy:
        choose("model", self.model, self.models)
        choose("dataset", self.dataset, self.datasets)
        for name, model in self.models.items():
            if isinstance(model, SubstrateModel | RandomModel):
                choose(f"models.{name}.dataset", model.dataset, self.datasets)
        for name, experiment in self.experiments.items():
            for method in experiment.methods:
                choose(f"experiments.{name}.methods", method, self.methods)
            where, dataset = self.place(experiment)
            choose(f"experiments.{name}.model", where, self.models)
            choose(f"experiments.{name}.dataset", dataset, self.datasets)
            check_own_axes(name, experiment, self.methods)
            check_ranks(name, experiment, self.methods)
            check_layers(experiment, self.methods, self.models[where])
            check_controls(name, experiment, self.methods)
            check_guards(name, experiment, self.experiments, self.methods)
            facts = self.datasets[dataset]
            if isinstance(facts, FactsData) and experiment.num_edits > facts.editable:
                raise ValueError(
                    f"experiments.{name}.num_edits: {experiment.num_edits} is not allowed; "
                    f"datasets.{dataset} has {facts.size} facts, of which {facts.editable} may be edited"
                )
            for method in experiment.methods:
                if self.methods[method].calibrates and facts.sweep_facts < 2:
                    raise ValueError(
                        f"datasets.{dataset}.sweep_facts: {facts.sweep_facts} is not allowed; the gate of {method} is "
                        "calibrated on reserved facts, at least two: keep some, or give a gate"
                    )
        _check_sweep(self.sweep, self.methods)
        return self

    def place(self, experiment: Experiment) -> tuple[str, str]:
        """The model and the data set of an experiment."""
        return experiment.model or self.model, experiment.dataset or self.dataset

    def check_files(self, where: str) -> None:
        """As in :class:`Study`; only the chosen model and dataset (and what they stand on) are looked at."""
        model, text = self.models[self.model], self.statistics.text
        names = {self.dataset, *([model.dataset] if isinstance(model, SubstrateModel | RandomModel) else [])}
        for name in sorted(names):
            data = self.datasets[name]
            if isinstance(data, FileData):
                data.check_files(f"{where}.datasets.{name}")
                if name == self.dataset:
                    self._check_enough(data, where)
        if text is not None and not Path(text).exists():
            raise ConfigError(
                f"config: {where}.statistics.text: {text!r} is not a file; name an existing file or folder"
            )
        if self.statistics.published is not None:
            self._check_published(where)
        self._check_relations(where)
        if isinstance(model, RandomModel):
            model.check_files(f"{where}.models.{self.model}")
        if isinstance(model, HubModel):
            model.check_files(f"{where}.models.{self.model}")
            streamed = text is not None or self.statistics.hub is not None
            given = streamed or self.statistics.published is not None
            if not given and self._needs_moments():
                raise ConfigError(
                    f"config: {where}.statistics.text: required for a hub model; name a text file (or statistics.hub) "
                    "to stream second moments over"
                )
            if not streamed and any(recipe.reads_curvature for recipe in self._used()):
                raise ConfigError(
                    f"config: {where}.statistics.text: required for a hub model; name a text file (or statistics.hub) "
                    "over which the curvature for ft_epochs is collected, or set its energy to 0"
                )

    def _check_relations(self, where: str) -> None:
        """Raise :class:`ConfigError` when the table of relations of a recipe that is used is not there."""
        for name in sorted({m for e in self.experiments.values() for m in e.methods}):
            table = getattr(self.methods[name], "subject_relations", None)
            if table is not None and not Path(table).is_file():
                raise ConfigError(
                    f"config: {where}.methods.{name}.subject_relations: {table!r} is not a file; name a table of relations"
                )

    def _check_published(self, where: str) -> None:
        """Raise :class:`ConfigError` when the statistics of a layer that a recipe edits are not there."""
        for layer in self.moment_layers():
            path = self.statistics.published_file(layer)
            if not Path(path).is_file():
                raise ConfigError(
                    f"config: {where}.statistics.published: {path!r} is not a file; one for each layer is needed"
                )

    def _check_enough(self, data: FileData, where: str) -> None:
        """Raise :class:`ConfigError` when an experiment draws more edits than the chosen file can hold."""
        most = data.most_requests()
        for name, experiment in self.experiments.items():
            if most is not None and experiment.num_edits > most:
                raise ConfigError(
                    f"config: {where}.experiments.{name}.num_edits: {experiment.num_edits} is not allowed; "
                    f"{data.path} has {most} requests beside those kept for the sweep (sweep_facts)"
                )

    def _used(self) -> list[Recipe]:
        """The recipes of the experiments that solve for weights."""
        used = [self.methods[m] for e in self.experiments.values() for m in e.methods]
        return [recipe for recipe in used if recipe.solves]

    def _needs_moments(self) -> bool:
        return any(recipe.moment for recipe in self._used())

    def moment_layers(self) -> list[int]:
        """Layers that the recipes of the experiments name and whose second moments they read."""
        return sorted({int(k) for r in self._used() if r.layers != "auto" and r.reads_moment for k in r.layers})

    def curvature_layers(self) -> list[int]:
        """Layers that the recipes of the experiments name and whose curvature they read."""
        return sorted({int(k) for r in self._used() if r.layers != "auto" and r.reads_curvature for k in r.layers})

    def cells(self, experiment: str) -> list[dict[str, str]]:
        """Coordinates of the cells of an experiment, each once, in a fixed order. Values are as they stand in paths."""
        if experiment not in self._cells:
            self._cells[experiment] = self._product(experiment)
        return self._cells[experiment]

    def _product(self, experiment: str) -> list[dict[str, str]]:
        plan = self.experiments[experiment]
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for method in plan.methods:
            traits = self.methods[method]
            for batch in (b for b in plan.batches(method) if b >= traits.min_batch):
                for replay in plan.rates(method, batch):
                    for rank, seed in itertools.product(_ranks(plan, self.methods[method]), plan.seeds):
                        for extra in _replay_axes(plan, replay if traits.replays else 0.0):
                            cell = {
                                "method": method,
                                "batch": str(_batch(batch, traits.max_batch, traits.edits or traits.reads)),
                                "replay": _decimal(replay) if traits.replays else "0",
                                **extra,
                                "rank": str(rank),
                                "seed": str(seed),
                            }
                            found.setdefault(tuple(cell.values()), cell)
        return list(found.values())


def _batch(batch: int, largest: int | None, matters: bool) -> int:
    return min(batch, largest or batch) if matters else 1


def _decimal(value: float) -> str:
    """A rate as it stands in paths: plain digits, different for different rates."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _ranks(plan: Experiment, recipe: Recipe) -> list[int]:
    return plan.rank if recipe.has_rank else [0]


def _check_sweep(sweep: Sweep, methods: Mapping[str, Recipe]) -> None:
    """Every point of the grid must be a valid recipe."""
    for method, axes in sweep.axes.items():
        choose("sweep.axes", method, methods)
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
