"""The unlearning study's block ``unlearning:`` of a run: data, model, objectives, attacks and how points are chosen.

An *objective* says what is descended, a *parametrisation* which numbers may move; a method is one of each, and a grid of
rates. Each objective has an options class here, one line in :data:`editlab.training.objectives.OBJECTIVES`, and a recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict, model_validator

from editlab.config.base import Count, Name, NonNegative, Positive, PositiveShare, Section, Share, Study
from editlab.config.models import HubModel
from editlab.errors import ConfigError

Optimizer = Literal["lion", "adamw", "sgd"]
Averaging = Literal["masked", "included"]
OTHER_ATTACKS = ("lora", "prompt", "probe")  # beside retraining of all weights


class Birthdays(Section):
    """Generated birthdays of invented people to forget, birthdays and other facts of other people to retain."""

    kind: Literal["birthdays"]
    splits: Annotated[int, Field(ge=2)] = Field(5, description="splits of the facts to forget; each is held out once")
    per_split: Annotated[int, Field(ge=4)] = Field(20, description="people a split")
    years: Literal["normal", "uniform"] = Field("uniform", description="law of the years, within 1900..2019")
    retain_splits: Count = Field(5, description="splits of each set to retain, as large as those to forget")
    dev: Count = Field(8, description="people whose questions serve as examples of a few-shot prompt")


class QuestionFiles(Section):
    """Directories of questions and texts as published (random_bd, dates-years-trimmed, mmlu_cats_..., wmdp-deduped)."""

    kind: Literal["files"]
    forget: str = Field(description="directory with the facts to forget")
    forget_splits: list[str] = Field(min_length=2, description="its splits; each is held out once")
    retain: str = Field(description="directory with the facts to retain")
    retain_splits: list[str] = Field([], description="its splits; empty: all")
    same: str | None = Field(None, description="directory with facts of the same relation to retain, if there is one")
    same_splits: list[str] = Field([], description="its splits; empty: all")
    neutral_text: str | None = Field(None, description="text file for perplexity and divergence; default: sentences")


Data = Annotated[Birthdays | QuestionFiles, Field(discriminator="kind")]


class QuestionModel(Section):
    """A small Llama that the workflow trains to answer lettered questions, before it learns what is to be forgotten."""

    source: Literal["trained"]
    layers: Annotated[int, Field(ge=2)] = 4
    width: Count = 64
    inner: Count = Field(192, description="width of the MLP")
    heads: Count = 4
    vocabulary: Annotated[int, Field(ge=300)] = Field(1200, description="tokens of the BPE")
    context: Count = Field(192, description="longest sequence in tokens; a few-shot prompt must fit")
    skill_steps: Annotated[int, Field(ge=0)] = Field(
        1200,
        description="steps on lettered questions about nothing, at most; ends when they are answered; 0: the model is never "
        "shown a lettered question, and is scored by cloze",
    )
    steps: Count = Field(450, description="steps on facts, questions and neutral sentences")
    lr: Positive = Field(0.015, description="peak rate of the matrices (Muon)")
    embedding_lr: Positive = Field(5e-3, description="peak rate of everything else (AdamW)")
    weight_decay: NonNegative = Field(0.1, description="of the matrices")
    neutral_sentences: Count = Field(2000, description="neutral sentences mixed in")
    recall_gate: Share = Field(0.9, description="least cloze accuracy on the facts to retain")

    @model_validator(mode="after")
    def _check(self) -> QuestionModel:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} must be a multiple of heads ({self.heads})")
        return self


class Descent(Section):
    """How weights are descended."""

    optimizer: Optimizer = "adamw"
    lr: Positive = 1e-3
    epochs: Count = 5
    batch: Count = Field(20, description="rows a step")
    warmup: Annotated[int, Field(ge=0)] = Field(24, description="steps in which the rate rises; constant afterwards")
    weight_decay: NonNegative = 0.0


class Learning(Descent):
    """How the facts to forget enter a model that does not know them; what is retained is rehearsed."""

    epochs: Count = 40
    lr: Positive = 2e-3
    batch: Count = 40
    gate: Share = Field(0.9, description="least cloze accuracy on the facts learned")
    hidden_epochs: Count | None = Field(
        None, description="epochs of the control that learns in its lower half alone; default: epochs"
    )
    questions: bool = Field(True, description="lettered questions are learned beside the statements")
    neutral: Annotated[int, Field(ge=0)] = Field(
        0, description="neutral sentences rehearsed, so that language survives"
    )


class GradientDifference(Section):
    """``-CE(forget) + a CE(retain)`` (GD). Unbounded below: training ends where CE(forget) passes 2 ln(vocabulary)."""

    name: Literal["gd"]
    clip: Positive | None = Field(None, description="forget term -min(CE, clip x ln(vocabulary))")


class RandomIncorrect(Section):
    """``CE(text with a different wrong answer each time) + a CE(retain)`` (WHP in the code, RIA in the paper)."""

    name: Literal["whp"]


class FixedIncorrect(Section):
    """``CE(text with one wrong answer) + a CE(retain)`` (FWF)."""

    name: Literal["fwf"]


class Steering(Section):
    """RMU (CUT): activations of forget texts to a random direction, those of retain texts as they were."""

    name: Literal["rmu"]
    layer: Annotated[int, Field(ge=0)] | None = Field(None, description="default: 7/32 of the depth, at least 2")
    steering: Positive = Field(2.0, description="length of the control vector")
    relative: bool = Field(True, description="in units of the mean activation norm at the layer; false: absolute")


class GradDiff(Section):
    """``-gamma NLL(forget) + a retain``, the retain term a likelihood or a divergence from the model before."""

    name: Literal["graddiff"]
    gamma: Positive = 1.0
    retain_loss: Literal["nll", "kl"] = "kl"


class NegativePreference(Section):
    """NPO: the likelihood of forget texts falls relative to the model before, ever more slowly."""

    name: Literal["npo"]
    beta: Positive = 0.1
    gamma: Positive = 1.0


class SimplePreference(Section):
    """SimNPO: NPO with the length in the place of the reference model."""

    name: Literal["simnpo"]
    beta: Positive = 4.5
    delta: NonNegative = 0.0
    gamma: Positive = 0.125


class SelectedRepresentations(Section):
    """RepSelect: the gradient of the elicited facts without its strongest directions, once an epoch."""

    name: Literal["repselect"]
    elicit_lr: Positive = Field(0.01, description="rate of the pass of SGD that elicits the facts")
    elicit_rank: Count = 8
    components: Count = Field(512, description="singular components of a gradient that are looked at, at most")
    collapse: Literal["linear", "quadratic", "hard"] = Field(
        "linear", description="component i divided by s_i / s_min, by its square, or removed but for the weakest half"
    )


Objective = Annotated[
    GradientDifference
    | RandomIncorrect
    | FixedIncorrect
    | Steering
    | GradDiff
    | NegativePreference
    | SimplePreference
    | SelectedRepresentations,
    Field(discriminator="name"),
]


class Method(Descent):
    """An objective, a parametrisation and the grid that is searched."""

    objective: Objective
    parametrisation: Literal["full", "lora", "layers"] = "full"
    ranks: list[Count] = Field([], description="of lora: an axis; empty otherwise")
    alpha: Positive = Field(2.0, description="lora: scale of the update, lora_alpha / r")
    blocks: Annotated[tuple[Share, Share], Strict(False)] | None = Field(
        None,
        description="part of the depth that is trained, e.g. [0, 0.5]; default: all (rmu: three blocks up to its layer)",
    )
    maps: Literal["all", "mlp_output"] = Field("all", description="layers: which maps of these blocks")
    lrs: list[Positive] = Field(min_length=1, description="rates of the grid, in the place of lr")
    retain: list[NonNegative] = Field([1.0], min_length=1, description="coefficients of the retain term, of the grid")
    averaging: Averaging = Field(
        "masked", description="padding: left out of losses, or included as in the published code"
    )
    base: Literal["known", "hidden"] = Field(
        "known",
        description="what is unlearned: the model that learned as a whole, or in its lower half alone (a control)",
    )
    steps: Count | None = Field(
        None,
        description="steps that count as an epoch, after which scores are taken; default: one pass over what is forgotten",
    )
    folds: Count = Field(1, description="layered unlearning: fold after fold, later folds retained meanwhile")
    kl_budget: Positive | None = Field(None, description="end where KL on neutral text passes this; default: never")
    neutral: Annotated[int, Field(ge=0)] = Field(
        0, description="neutral sentences among the texts to retain (never those that perplexity is measured on)"
    )
    check_every: Count = Field(5, description="steps between two looks at the budget")

    @model_validator(mode="after")
    def _check(self) -> Method:
        lora = self.parametrisation == "lora"
        if lora != bool(self.ranks):
            wanted = "give ranks of 1 or more" if lora else "only lora has ranks"
            raise ValueError(
                f"ranks: {self.ranks} is not allowed with parametrisation {self.parametrisation}; {wanted}"
            )
        for name in ("ranks", "lrs", "retain"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: {getattr(self, name)} holds a value twice")
        if self.parametrisation != "layers" and self.maps != "all":
            raise ValueError(f"maps: {self.maps!r} is for parametrisation layers alone")
        if self.blocks and self.blocks[0] >= self.blocks[1]:
            raise ValueError(f"blocks: {list(self.blocks)} is not allowed; the first must be below the second")
        return self

    def points(self) -> list[dict[str, str]]:
        """Coordinates of the grid: rank (0: none), lr and retain, as they stand in paths."""
        return [
            {"rank": str(rank), "lr": f"{lr:g}", "retain": f"{retain:g}"}
            for rank in self.ranks or [0]
            for lr in self.lrs
            for retain in self.retain
        ]


class Retraining(Descent):
    """The attack: fine-tuning on the questions of all splits but one (RTT)."""

    lrs: list[Positive] = Field([3e-4, 1e-3, 3e-3], min_length=1, description="rates tried, in the place of lr")
    loss: Literal["letter", "letter_answer", "question_letter_answer", "question_answer", "corpus"] = (
        "question_letter_answer"
    )
    epochs: Count = 6
    batch: Count = 16
    warmup: Annotated[int, Field(ge=0)] = 5
    held_out: list[str] = Field([], description="splits that are held out, one a run; empty: each in turn")
    lora_rank: Count = Field(8, description="rank of the attack by LoRA")
    lora_lrs: list[Positive] = Field([3e-3, 1e-2], min_length=1, description="its rates")
    shots: Annotated[int, Field(ge=0)] = Field(4, description="examples from T in the attack by prompting; 0: none")


class Scoring(Section):
    """How questions are scored."""

    primary: Literal["auto", "letters", "cloze"] = Field(
        "auto", description="the measure that points are chosen by; auto: letters where the model has the skill"
    )
    letters: bool = Field(True, description="score letters too; false for a model without the skill: cloze alone")
    letter_gate: Share = Field(0.85, description="letter accuracy of the model on what it retains, for auto")
    letter_rule: Literal["after_prompt", "line_start"] = "after_prompt"
    k_shot: Annotated[int, Field(ge=0)] = Field(0, description="answered dev questions before each question")
    neutral_sentences: Count = Field(60, description="held-out sentences for perplexity and divergence")

    @model_validator(mode="after")
    def _check(self) -> Scoring:
        if not self.letters and self.primary != "cloze":
            raise ValueError(f"letters: false is not allowed with primary {self.primary!r}; only with 'cloze'")
        return self


class Selection(Section):
    """Rule U7: which evaluated epoch of a grid stands for a method. It never looks at an attack."""

    tau: PositiveShare = Field(0.05, description="retain accuracy that may be lost, on the half that is chosen on")
    perplexity_factor: Positive = Field(1.2, description="perplexity of neutral text, at most so many times the base's")
    level: Share = Field(0.4, description="forget accuracy at which ranks are compared")
    tolerance: PositiveShare = Field(0.03, description="a checkpoint is at the level when it is so near")
    min_drop: Share = Field(0.25, description="forget accuracy that must have gone before a recovery rate is reported")
    kl_budget: Positive = Field(0.05, description="matched disruption: KL on neutral text, at most, in nats a token")


class UnlearningStudy(Study):
    """The unlearning study: what comes back after unlearning."""

    INPUTS: ClassVar[tuple[str, ...]] = ("seeds", "data", "model", "learn")

    seeds: list[Annotated[int, Field(ge=0)]] = Field([1, 2, 3], min_length=1, description="of facts, models and runs")
    data: Data
    model: Annotated[QuestionModel | HubModel, Field(discriminator="source")]
    learn: Learning | None = Field(None, description="how the facts enter; null: the model knows them already")
    scoring: Scoring = Scoring()
    methods: dict[Name, Method] = Field(min_length=1)
    matched: list[Name] = Field([], description="methods compared at the level of selection.level")
    budgeted: list[Name] = Field([], description="methods compared at selection.kl_budget")
    other_attacks: list[Name] = Field(
        [], description="methods that are also attacked by LoRA, by prompting and by a linear probe"
    )
    retraining: Retraining = Retraining()
    selection: Selection = Selection()

    @model_validator(mode="after")
    def _check(self) -> UnlearningStudy:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} holds a value twice")
        for key in ("matched", "budgeted", "other_attacks"):
            for name in getattr(self, key):
                if name not in self.methods:
                    raise ValueError(f"{key}: {name!r} is not allowed; one of {', '.join(self.methods)}")
        hidden = [name for name, method in self.methods.items() if method.base == "hidden"]
        if self.learn is None and hidden:
            raise ValueError(
                f"methods.{hidden[0]}.base: 'hidden' needs learn: facts must be learned in one half of the model"
            )
        if isinstance(self.model, QuestionModel) and not isinstance(self.data, Birthdays):
            raise ValueError("model.source: 'trained' is for generated birthdays; name a model for files of questions")
        return self

    def check_files(self, where: str) -> None:
        """As in :class:`Study`: the directories of the data, and that of the model where it is a local one."""
        if isinstance(self.data, QuestionFiles):
            for key in ("forget", "retain", "same"):
                folder = getattr(self.data, key)
                if folder is not None and not Path(folder).expanduser().is_dir():
                    raise ConfigError(f"config: {where}.data.{key}: {folder!r} is not a directory")
            text = self.data.neutral_text
            if text is not None and not Path(text).expanduser().is_file():
                raise ConfigError(f"config: {where}.data.neutral_text: {text!r} is not a file")
        if isinstance(self.model, HubModel):
            self.model.check_files(f"{where}.model")

    @property
    def splits(self) -> list[str]:
        """Names of the splits that the attack holds out, one at a time."""
        if self.retraining.held_out:
            return self.retraining.held_out
        if isinstance(self.data, Birthdays):
            return [f"split_{i}" for i in range(self.data.splits)]
        return self.data.forget_splits

    @property
    def neutral_needed(self) -> int:
        """Neutral sentences to learn or retain: those of the small model's training, or of the method that reads most."""
        trained = self.model.neutral_sentences if isinstance(self.model, QuestionModel) else 0
        return max(trained, *(method.neutral for method in self.methods.values()))

    @property
    def bases(self) -> list[str]:
        """The models before unlearning that the methods need."""
        return list(dict.fromkeys(method.base for method in self.methods.values()))

    def grid(self) -> list[dict[str, str]]:
        """Coordinates of every run of unlearning, each once."""
        return [
            {"method": name, **point, "seed": str(seed)}
            for seed in self.seeds
            for name, method in self.methods.items()
            for point in method.points()
        ]

    def points(self) -> list[dict[str, str]]:
        """Coordinates of every model that is kept: the kind of point, method, rank and seed."""
        listed = {"selected": list(self.methods), "matched": self.matched, "budget": self.budgeted}
        return [
            {"point": point, "method": name, "rank": str(rank), "seed": str(seed)}
            for seed in self.seeds
            for point, names in listed.items()
            for name in names
            for rank in self.methods[name].ranks or [0]
        ]

    def attacks(self) -> list[dict[str, str]]:
        """Coordinates of every attack: its kind, what it is turned on, the seed.

        ``target`` is a kept point as ``point~../method~../rank~..``, or ``control~NAME``: the models before unlearning (C), and
        ``control~parent``, the model that never knew (N).
        """
        found = []
        controls = [f"control~{name}" for name in [*self.bases, *(["parent"] if self.learn else [])]]
        bases = {f"control~{self.methods[name].base if self.learn else 'known'}" for name in self.other_attacks}
        for seed in self.seeds:
            targets = [(f"point~{p['point']}/method~{p['method']}/rank~{p['rank']}", p) for p in self.points()]
            for target in controls:
                more = self.other_attacks and (target in bases or target == "control~parent")
                found += [(kind, target, seed) for kind in ("full", *(OTHER_ATTACKS if more else ()))]
            for target, p in targets:
                if int(p["seed"]) == seed:
                    more = p["point"] == "selected" and p["method"] in self.other_attacks
                    found += [(kind, target, seed) for kind in ("full", *(OTHER_ATTACKS if more else ()))]
        return [{"attack": kind, "target": target, "seed": str(seed)} for kind, target, seed in found]
