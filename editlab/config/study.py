"""The configuration of a study: its sections put together, what concerns several of them checked, its cells listed.

:func:`load_study` turns the merged YAML into a :class:`Study` or raises one :class:`ConfigError` of one line: the key,
its value and what is allowed. Sections are :mod:`editlab.config.sections`, methods are recipes (:mod:`editlab.config.recipe`).
:meth:`Study.cells` lists the cells of an experiment; axes that do not apply to a method collapse, so that no cell is
computed twice under two names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from editlab.config.base import Section, short, validated
from editlab.config.recipe import Recipe
from editlab.config.sections import (
    ContextTemplates,
    Evaluation,
    Experiment,
    FactsData,
    FileData,
    HubModel,
    Name,
    Resources,
    Retraining,
    Statistics,
    SubstrateModel,
    Sweep,
    Tracing,
)
from editlab.config.solvers import SOLVERS
from editlab.errors import ConfigError


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
