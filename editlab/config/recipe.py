"""A method as data: a solver with its hyper-parameters, how its update is stored, and what judges it.

``Recipe`` = solver x backend x optional trust x optional greedy, one flat section. It takes the fields of its own solver
(:mod:`editlab.config.solvers`) beside those that all recipes share, and no others.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, create_model, model_validator

from editlab.config.base import Count, NonNegative, Positive, PositiveShare, Section, Share, short
from editlab.config.solver import Solver
from editlab.config.solvers import SOLVERS, EvoEdit, Passes, RandomUpdate
from editlab.config.targets import TargetOptions


class TrustWeights(Section):
    """Weights of the trust terms; normalised to sum 1. A term of weight 0 is not computed where it costs a pass."""

    edit_success_gain: NonNegative = Field(0.35, description="rise of log p(new object) on the edited facts")
    heldout_ppl_delta: NonNegative = Field(0.2, description="relative rise of perplexity on held-out records")
    neighbor_flip_rate: NonNegative = Field(0.25, description="neighbours right before and wrong after")
    confidence_shift: NonNegative = Field(0.05, description="rise of the mean max-softmax on held-out prompts")
    preservation_distance: NonNegative = Field(0.15, description="|dW k0| over kept keys, relative to |W k0|")
    attribution_focus_delta: NonNegative = Field(0.0, description="fall of the subject's share of the attribution")

    @model_validator(mode="after")
    def _check(self) -> TrustWeights:
        if not sum(self.model_dump().values()) > 0:
            raise ValueError("weights: all 0 is not allowed; at least one must be positive")
        return self


class TrustScales(Section):
    """Scales tau of the terms: a term x becomes 1 - exp(-max(0, x) / tau)."""

    edit_success_gain: Positive = Field(1.0, description="nats")
    heldout_ppl_delta: Positive = 0.5
    neighbor_flip_rate: Positive = 0.2
    confidence_shift: Positive = 0.1
    preservation_distance: Positive = 0.3
    attribution_focus_delta: Positive = 0.1
    update_norm: Positive = Field(20.0, description="Frobenius norm of the update, of the rival that looks at it alone")


class Trust(Section):
    """The guard of a batch: a score in [0, 1] from probes that no evaluation uses, and what follows from it."""

    judge: Literal["trust", "norm", "random", "label"] = Field(
        "trust",
        description="what decides; rivals of trust: norm, exp(-|dW| / tau.update_norm), and random, a draw from [0, 1), so that "
        "the threshold is the share that is rolled back; label rolls back what the labels call harmful: the best there is",
    )
    threshold: Share = Field(0.5, description="at or above it a batch is accepted as it is")
    low: Share = Field(0.4, description="below it a batch is rolled back; in between it is scaled down")
    soft: bool = Field(True, description="scale between low and threshold; false: roll back below the threshold")
    distance_only: bool = Field(False, description="score from the update alone, without running the model")
    distance_weight: Share = Field(0.5, description="distance only: weight of the fit against preservation")
    per_fact: bool = Field(False, description="first leave out facts whose own trust is below low")
    heldout_samples: Count = Field(96, description="records that probe for damage; not edited, not evaluated")
    dynamic_window: Annotated[int, Field(ge=0)] = Field(
        0, description="threshold = mean of so many last scores - deviations x their standard deviation (0: fixed)"
    )
    dynamic_deviations: NonNegative = Field(2.0, description="see dynamic_window")
    weights: TrustWeights = TrustWeights()
    tau: TrustScales = TrustScales()

    @model_validator(mode="after")
    def _check(self) -> Trust:
        if self.low > self.threshold:
            raise ValueError(f"low: {self.low} is not allowed; at most threshold ({self.threshold})")
        if self.per_fact and not self.behaves:
            raise ValueError(
                "per_fact: true is not allowed; facts have a trust of their own only where probes are looked at"
            )
        if self.distance_only and self.judge != "trust":
            raise ValueError(f"distance_only: true is not allowed; the judge is {self.judge}")
        return self

    @property
    def behaves(self) -> bool:
        """Whether the score comes from what the model does on probes."""
        return self.judge in ("trust", "label") and not self.distance_only

    @property
    def kind(self) -> str:
        """``trust``, ``distance``, ``norm``, ``random`` or ``label``."""
        return "distance" if self.distance_only else self.judge


class Greedy(Section):
    """Several small low-rank steps in place of one, each accepted only if it helps."""

    steps: Count = Field(3, description="steps at most; 1 is the plain LoRA-native edit")
    min_improvement: NonNegative = Field(0.01, description="smallest gain of an accepted step")
    use_distance_only: bool = Field(True, description="trust and gain from distances; false: from probes")
    patience: Count = Field(2, description="rejections in a row that end the batch")
    base_scale: Positive = Field(0.6, description="share of the proposal in the first step")
    decay: PositiveShare = Field(0.5, description="factor of the share from step to step")
    recompute: bool = Field(False, description="solve again from the current state at every step")
    when_stuck: Literal["stop", "raise_rank", "raw"] = Field(
        "stop", description="after the last rejection: stop, try once with max_rank, or keep the update raw"
    )


class Posthoc(Section):
    """Training of a small LoRA after the raw edits of a stream (backend posthoc)."""

    steps: Count = Field(40, description="optimiser steps")
    lr: Positive = Field(5e-3, description="learning rate of Adam")
    kl_factor: NonNegative = Field(1.0, description="factor of the KL term on held-out text")
    anchor_texts: Count = Field(64, description="held-out sentences of the KL term")


class LowRankStorage(Section):
    """How low-rank storage keeps an update; the rank itself is an axis of experiments."""

    lora_metric: Literal["edit", "frobenius"] = Field("edit", description="in which the best low-rank form is taken")
    accumulate: Literal["recompress", "append"] = Field("recompress", description="how batches share one adapter")
    min_energy: Share = Field(0.0, description="where a cut keeps less than this share, the rank is raised")
    max_rank: Count = Field(64, description="largest rank, raised or appended")


class MemoryStorage(Section):
    """A gated key-value memory in place of a change of the weight (backend memory, arXiv 2507.18028)."""

    lookup: Literal["prompt", "everywhere", "subject"] = Field(
        "prompt",
        description="where a fact is looked up: at the prompt's last token; by the same keys at every token of every text; or by "
        "keys of the subject's last token, at every token, as published",
    )
    gate: PositiveShare | None = Field(
        None, description="cosine above which a fact answers; null: calibrated on reserved facts and neutral text"
    )
    gate_rate: PositiveShare = Field(
        1e-3, description="share of the tokens of neutral text whose largest cosine a calibrated gate may let pass"
    )
    gate_texts: Count = Field(400, description="sentences of neutral text that the gate is calibrated on")


class Replay(Section):
    """The memory of edited facts; how many are replayed a batch is an axis of experiments."""

    replay_capacity: Count = Field(200, description="facts kept for replay")
    replay_strategy: Literal["random", "priority", "target_loss"] = Field(
        "random",
        description="which are replayed; priority: of low margin after the commit, target_loss: of high target loss, old ones",
    )
    replay_eviction: Literal["fifo", "lru"] = Field("fifo", description="which make room")
    replay_weight: NonNegative = Field(1.0, description="weight of a replayed column")
    replay_targets: Literal["stored", "recomputed"] = Field("stored", description="targets of replayed facts")


class Recipe(Replay, LowRankStorage, MemoryStorage, Solver):
    """A method: the hyper-parameters of its solver and of its targets, and what is below.

    ``validated(Recipe, values, where)`` gives an object of the class in :data:`RECIPES` that ``values["solver"]`` names; it has
    the fields of that solver alone, and refuses others.
    """

    model_config = ConfigDict(polymorphic_serialization=True)

    solver: str = Field(description="one of the registered solvers")
    backend: Literal["raw", "lora", "posthoc", "memory"] = Field(
        "raw",
        description="how the update is stored: as solved, as a low-rank adapter, or raw plus a trained LoRA; memory: nothing is "
        "solved, and targets are kept beside the map",
    )
    layers: list[Annotated[int, Field(ge=0)]] | Literal["auto"] = Field(
        "auto", description="edited layers, or auto: chosen by causal tracing"
    )
    posthoc: Posthoc = Posthoc()
    trust: Trust | None = Field(None, description="score each batch; scale or roll back harmful ones")
    greedy: Greedy | None = Field(None, description="several small steps in place of one (backend lora)")

    @property
    def has_rank(self) -> bool:
        """Whether the rank axis applies."""
        return self.backend in ("lora", "posthoc")

    @property
    def solves(self) -> bool:
        """Whether weights are solved for: replay, history, second moment and passes apply only there."""
        return self.backend != "memory"

    @property
    def replays(self) -> bool:
        """Whether the replay axis applies."""
        return self.replay and self.solves

    @property
    def holds_subject(self) -> bool:
        """Whether targets hold what is said after prompts of the subject's other relations."""
        return isinstance(self, TargetOptions) and self.subject_weight > 0

    @property
    def reads_reserved(self) -> bool:
        """Whether it looks at facts that the data set reserves: for a gate, or for the length of targets."""
        pilots = isinstance(self, TargetOptions) and self.anchor_pilots > 0
        return self.backend == "memory" or self.reads or pilots

    @property
    def calibrates(self) -> bool:
        """Whether it has a gate that is calibrated on reserved facts."""
        return (self.backend == "memory" or self.reads) and self.gate is None

    @property
    def neutral_texts(self) -> int:
        """Sentences of held-out text that the backend needs."""
        if self.backend == "posthoc":
            return self.posthoc.anchor_texts
        return self.gate_texts if self.backend == "memory" and self.gate is None else 0

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_solver(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if not isinstance(values, dict):
            return handler(values)
        if cls is Recipe and isinstance(name := values.get("solver"), str):
            if name not in RECIPES:
                raise ValueError(f"solver: {short(name)} is not allowed; one of {', '.join(RECIPES)}")
            return RECIPES[name].model_validate(values)
        if cls is not Recipe:
            cls._refuse_unknown(values)
            if values.get("backend") == "memory" and values.get("lookup") != "subject" and cls.targets:
                values = {"kl_factor": 0.0, **values}  # the term would hold what the prompt itself is answered
        return handler(values)

    @classmethod
    def _refuse_unknown(cls, values: Mapping[Any, Any]) -> None:
        allowed = sorted(cls.model_fields)
        for key in values:
            if key not in allowed:
                close = difflib.get_close_matches(str(key), allowed, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ValueError(f"{str(key)[:60]}: unknown key for {cls.name}; {hint}allowed: {', '.join(allowed)}")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.site == "mlp" and self.layers != "auto" and len(self.layers) > 1:
            raise ValueError(f"layers: {self.layers} is not allowed; {self.solver} edits exactly one layer")
        if self.layers != "auto" and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError("layers: give distinct layers, at least one, or auto")
        if self.has_rank and (self.gradient or not self.edits or self.restrained_at_end):
            raise ValueError(f"backend: {self.backend!r} is not allowed with {self.solver}; use raw")
        if self.backend == "memory":
            self._check_memory()
        else:
            self._check_no_memory()
        if self.backend == "lora" and isinstance(self, EvoEdit):
            raise ValueError(
                "backend: 'lora' is not allowed with evoedit; a cut of its update would move earlier edits"
            )
        if self.targets is None:
            for name, value in (("replay_targets", "recomputed"), ("replay_strategy", "target_loss")):
                if getattr(self, name) == value:
                    raise ValueError(f"{name}: {value!r} is not allowed with {self.solver}, which has no targets")
        if self.greedy is not None and self.backend != "lora":
            raise ValueError(f"greedy: not allowed with backend {self.backend}; it divides low-rank steps: use lora")
        if self.greedy is not None and isinstance(self, Passes):
            raise ValueError(f"greedy: not allowed with {self.solver}, which makes passes of its own")
        if self.greedy is not None and self.trust is not None and self.trust.judge != "trust":
            raise ValueError(f"greedy: not allowed with the judge {self.trust.judge}, which knows whole batches alone")
        if (self.trust is not None or self.greedy is not None) and self.targets is None:
            name = "greedy" if self.trust is None else "trust"
            raise ValueError(f"{name}: not allowed with {self.solver}; it judges closed-form updates of targets")
        return self

    def _check_memory(self) -> None:
        """A memory takes targets, and nothing that belongs to a solve."""
        if self.targets is None or self.restrained_at_end or isinstance(self, RandomUpdate):
            raise ValueError(
                f"backend: 'memory' is not allowed with {self.solver}; it keeps targets, and needs a solver of them"
            )
        if self.layers == "auto" or len(self.layers) > 1:
            raise ValueError(f"layers: {self.layers!r} is not allowed with backend memory; exactly one layer")
        kl_factor = float(getattr(self, "kl_factor"))  # noqa: B009 - a field of the solver's targets
        if self.lookup != "subject" and kl_factor:
            raise ValueError(
                f"kl_factor: {kl_factor} is not allowed with lookup {self.lookup}; 0: the term would hold the very answer"
            )
        if self.lookup != "subject" and getattr(self, "subject_weight"):  # noqa: B009 - as above
            raise ValueError(
                f"subject_weight: not allowed with lookup {self.lookup}; keys at the prompt's end differ by relation"
            )
        own = set(SOLVERS[self.solver].model_fields) - set(self.targets.model_fields)
        for name in sorted(own):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: not allowed with backend memory, which solves nothing")

    def _check_no_memory(self) -> None:
        """Options of a memory say that one was meant. (Rivals that answer with stored facts have its gate.)"""
        for name, field in MemoryStorage.model_fields.items():
            if getattr(self, name) != field.default and not (self.reads and name == "gate"):
                raise ValueError(f"{name}: not allowed with backend {self.backend}; it is of backend memory")


def _recipe_of(solver: type[Solver]) -> type[Recipe]:
    """A solver's own fields, those of its targets, and those that every recipe has, in one flat section."""
    bases: Any = (solver, *([solver.targets] if solver.targets else []), Recipe)
    tag: Any = (Literal[solver.name], solver.name)
    return create_model(f"{solver.__name__}Recipe", __base__=bases, __module__=__name__, solver=tag)


RECIPES: dict[str, type[Recipe]] = {name: _recipe_of(solver) for name, solver in SOLVERS.items()}
"""The recipe class of every solver: made from the registry, so that a new solver needs no line here."""
