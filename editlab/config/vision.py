"""The block ``vision:`` of a run: image data, models, the recipes that mend a classifier's errors, and the search.

A recipe is one of the classes below, told by ``method``; its fields are what the study's functions read, and nowhere else
do defaults stand. :meth:`VisionStudy.cells` lists the cells of the comparison, :meth:`VisionStudy.grid` those of the search.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from editlab.config.base import (
    Count,
    Name,
    NonNegative,
    Positive,
    PositiveShare,
    Section,
    Study,
    choose,
    validated,
)
from editlab.config.images import Data, Model, ScratchViT, Seed, source_files
from editlab.errors import ConfigError

Layer = Annotated[int, Field(ge=0)]


class Locating(Section):
    """Causal tracing over discovery errors, and the ranking of layers by trial edits."""

    max_samples: Count = Field(50, description="errors traced, at most")
    noise: Positive = Field(3.0, description="in standard deviations of the patch embeddings")
    num_ablations: Count = Field(32, description="noise draws a sample, the same for all layers")
    window: Count = Field(1, description="layers restored together, centred")
    parts: list[Literal["mlp", "attention", "block"]] = Field(
        ["mlp", "attention", "block"], min_length=1, description="outputs restored one at a time"
    )
    positions: list[Literal["cls", "all"]] = Field(["cls", "all"], min_length=1, description="where they are restored")
    by_head: bool = Field(True, description="restore single attention heads at CLS too")
    splits: Count = Field(50, description="random halves for the stability of the ranking")
    trial: Name = Field("alphaedit", description="the recipe whose layers are tried one by one")
    trial_draws: Count = Field(2, description="draws of the edit samples a trial edit")


class _MlpEdit(Section):
    """A closed-form edit of MLP output projections at the CLS position."""

    layers: list[Layer] | Literal["last", "trace", "trial"] = Field(
        "last", description="a list, the last blocks, or the best of a ranking"
    )
    num_edit_layers: Count = Field(3, description="how many, unless layers is a list")
    projection_samples: Count = Field(500, description="right FT-Train samples behind the statistics")
    key_positions: Literal["cls", "all", "mixed"] = Field("mixed", description="positions of the preserved keys")
    lr: Positive = Field(0.1, description="of the target's gradient steps (Adam)")
    steps: Count = Field(25, description="gradient steps of a target")
    clamp: Positive | None = Field(0.75, description="largest norm of delta, in norms of the state")
    stop_loss: Positive | None = Field(None, description="a sample whose loss is below it stops")
    target_decay: NonNegative = Field(1e-4, description="weight of the squared norm of delta in the loss")
    per_sample: bool = Field(False, description="one solve a sample, keeping the keys of earlier ones")
    control: Literal["random", "random_null_space", "wrong_labels", "already_right"] | None = Field(
        None, description="what is done in place of the edit: an update of equal norm, other labels, or other samples"
    )

    @model_validator(mode="after")
    def _check(self) -> Any:
        if isinstance(self.layers, list) and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers: {self.layers} is not allowed; distinct layers, at least one")
        return self


class AlphaEdit(_MlpEdit):
    """``R K^T P (K K^T P + lambda I)^-1`` in the null space of preserved keys (arXiv 2410.02355)."""

    method: Literal["alphaedit"]
    nullspace_threshold: PositiveShare = Field(
        1e-3, description="share of the largest eigenvalue from which keys count"
    )
    ridge: Positive = Field(0.005, description="lambda over the mean squared preserved key")


class Memit(_MlpEdit):
    """``R K^T (lambda C + K K^T)^-1`` at the same site (arXiv 2210.07229)."""

    method: Literal["memit"]
    second_moment_weight: Positive = Field(10.0, description="lambda of C")


class HeadEwc(Section):
    """The classifier alone by gradient, held by the expected diagonal Fisher information (arXiv 1612.00796)."""

    method: Literal["head_ewc"]
    optimizer: Literal["adam", "sgd"] = Field("adam", description="of the gradient steps")
    lr: Positive = Field(0.01, description="of the gradient steps")
    steps: Count = Field(50, description="gradient steps")
    penalties: list[NonNegative] = Field([300.0], min_length=1, description="lambdas; discovery chooses")
    fisher_samples: Count = Field(500, description="FT-Train samples of the Fisher information")


class HeadClosedForm(Section):
    """The classifier alone, by the equality-constrained solver (EMMET, arXiv 2403.14236) on the final features."""

    method: Literal["head_closed_form"]
    margin: NonNegative = Field(1.0, description="by which the right logit shall lead")
    ridge: NonNegative = Field(0.0, description="gamma; 0: constraints hold exactly, for at most width + 1 samples")
    moment_samples: Count = Field(500, description="FT-Train samples of the second moment")


class HeadAblation(Section):
    """Zero the attention heads whose removal lowers the loss on the edit samples most (as RefineViT scores heads)."""

    method: Literal["head_ablation"]
    heads: Count = Field(1, description="heads zeroed")


class FinetuneErrors(Section):
    """Continue the training on the edit samples alone."""

    method: Literal["finetune_errors"]
    lr: Positive = Field(1e-5, description="of AdamW; 1e-5 suits pretrained weights")
    epochs: Count = Field(10, description="passes over the edit samples")
    batch: Count = Field(32, description="images a step")


class Retrain(Section):
    """Train anew from the same initial weights on FT-Train and the edit samples."""

    method: Literal["retrain"]
    draws: Count = Field(1, description="draws of the edit samples that are retrained, at most")


class Churn(Section):
    """Control: train anew with another seed and no edit samples. What differs is what training alone changes."""

    method: Literal["churn"]


Recipe = Annotated[
    AlphaEdit | Memit | HeadEwc | HeadClosedForm | HeadAblation | FinetuneErrors | Retrain | Churn,
    Field(discriminator="method"),
]
TRAINED = (Retrain, Churn)
"""Recipes whose models come from a training of their own, one file each, shared by all that compare with them."""


class Search(Section):
    """The search over one recipe's fields; it ranks by discovery and reports test."""

    method: Name = Field("alphaedit", description="the recipe that is varied")
    axes: dict[str, list[Any]] = Field(default_factory=dict, description="field (or max_edits) -> values")
    seeds: list[Seed] = Field(
        [1], min_length=1, description="classifiers that are searched; the best cell has the best mean"
    )
    chunk: Count = Field(60, description="cells a job, one after the other in one process")
    refine: dict[str, list[Positive]] = Field(
        default_factory=dict, description="field -> factors around the best cell of the grid (coarse to fine)"
    )
    trials: Annotated[int, Field(ge=0)] = Field(0, description="trials of the Bayesian search over the same space")
    baselines: list[Name] = Field([], description="recipes that stand beside the cells, once for each max_edits")


class Tracking(Section):
    """Weights & Biases, off by default (needs the package ``wandb``)."""

    wandb: bool = Field(False, description="hand the table of each search to Weights & Biases")
    project: str = Field("editlab-vision", description="project of the runs")
    mode: Literal["offline", "online"] = Field("offline", description="offline: files beside the results alone")


class VisionStudy(Study):
    """The vision study: image data, the classifiers trained on them, and the ways of mending their errors."""

    INPUTS = ("datasets", "models")

    datasets: dict[Name, Data] = Field(min_length=1, description="by name: digits, medmnist or liver, told by kind")
    models: dict[Name, Model] = Field(min_length=1, description="by name: scratch or hub, told by source")
    locating: Locating = Locating()
    methods: dict[Name, Recipe] = Field(
        min_length=1, description="by name: recipes, told by method; controls are recipes too"
    )
    seeds: list[Seed] = Field([1], min_length=1, description="seeds of the training")
    draws: Count = Field(1, description="draws of the edit samples a seed")
    max_edits: Count = Field(20, description="errors edited; fewer where there are fewer")
    heldout_samples: Count = Field(300, description="right FT-Train samples outside the statistics, scored as a level")
    ambiguous_gap: PositiveShare = Field(
        0.05, description="gap of the two best probabilities below which an image is ambiguous"
    )
    search: Search | None = Field(None, description="a search over one recipe's fields")
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _check(self) -> VisionStudy:
        for name, data in self.datasets.items():
            choose(f"datasets.{name}.model", data.model, self.models)
        choose("locating.trial", self.locating.trial, self.methods)
        if not isinstance(self.methods[self.locating.trial], AlphaEdit | Memit):
            raise ValueError(f"locating.trial: {self.locating.trial!r} is not allowed; an alphaedit or memit recipe")
        for name, seeds in (("seeds", self.seeds), ("search.seeds", self.search.seeds if self.search else [])):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{name}: {seeds} holds a value twice")
        for name, recipe in self.methods.items():
            self._check_layers(f"methods.{name}.layers", getattr(recipe, "layers", None))
        if self.search is not None:
            self._check_search(self.search)
        return self

    def _check_layers(self, where: str, layers: Any) -> None:
        for model in (m for m in self.models.values() if isinstance(m, ScratchViT)):
            if isinstance(layers, list) and max(layers) >= model.layers:
                raise ValueError(f"{where}: {layers} is not allowed; the model has layers 0..{model.layers - 1}")

    def _check_search(self, search: Search) -> None:
        choose("search.method", search.method, self.methods)
        for name in search.baselines:
            choose("search.baselines", name, self.methods)
        if len(set(search.seeds) - set(self.seeds)):
            raise ValueError(f"search.seeds: {search.seeds} is not allowed; some of seeds ({self.seeds})")
        recipe = self.methods[search.method]
        if not isinstance(recipe, AlphaEdit | Memit) or recipe.control is not None:
            raise ValueError(
                f"search.method: {search.method!r} is not allowed; an alphaedit or memit recipe that is no control"
            )
        fields = {*type(recipe).model_fields, "max_edits"} - {"method", "control"}
        for where, named in (("axes", search.axes), ("refine", search.refine)):
            for field in named:
                choose(f"search.{where}", field, dict.fromkeys(sorted(fields)))
        for field, values in search.axes.items():
            if not values:
                raise ValueError(f"search.axes.{field}: [] is not allowed; at least one value")
        for point in self.grid():
            self._check_layers("search.axes.layers", varied(recipe, point, "search.axes")[0].layers)

    @property
    def dataset(self) -> str | None:
        """The data set, where there is a single one: its path is what ``--config data_path=FILE`` replaces."""
        return next(iter(self.datasets)) if len(self.datasets) == 1 else None

    def check_files(self, where: str) -> None:
        """As in :class:`Study`."""
        for name, data in self.datasets.items():
            for key, path in source_files(data).items():
                if not path.is_file() and not getattr(data, "url", None):
                    raise ConfigError(
                        f"config: {where}.datasets.{name}.{key}: {str(path)!r} is not a file; name an existing file"
                    )

    def cells(self, dataset: str, seed: int, method: str) -> list[dict[str, Any]]:
        """The draws of a method that are computed; those of a training of its own may be fewer."""
        recipe = self.methods[method]
        draws = 1 if isinstance(recipe, Churn) else min(self.draws, getattr(recipe, "draws", self.draws))
        return [{"dataset": dataset, "seed": seed, "method": method, "draw": draw} for draw in range(draws)]

    def grid(self) -> list[dict[str, Any]]:
        """Points of the search, in a fixed order: field -> value."""
        axes = self.search.axes if self.search is not None else {}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def varied(recipe: Any, point: Mapping[str, Any], where: str) -> tuple[Any, int | None]:
    """A recipe with some fields replaced, and ``max_edits`` where the point has it.

    Raises:
        ConfigError: a value is not allowed.
    """
    values = dict(point)
    edits = values.pop("max_edits", None)
    if edits is not None and (isinstance(edits, bool) or not isinstance(edits, int) or edits < 1):
        raise ValueError(f"{where}.max_edits: {edits!r} is not allowed; whole numbers of 1 or more")
    return validated(type(recipe), {**recipe.model_dump(exclude_unset=True), **values}, where), edits


RECIPE: TypeAdapter[Any] = TypeAdapter(Recipe)
"""What a job is given as plain values becomes a section again by ``RECIPE.validate_python(values)``."""
