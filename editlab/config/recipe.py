"""A method as data: a solver with its hyper-parameters, how its update is stored, and what guards it.

``Recipe`` = solver x backend x optional trust x optional greedy. Every field carries its help, and all validation is
here; :mod:`editlab.config.edit` builds experiments out of recipes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from editlab.config.base import Count, NonNegative, Positive, PositiveShare, Section, Share
from editlab.config.solvers import SOLVERS


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


class Trust(Section):
    """The guard of a batch: a score in [0, 1] from probes that no evaluation uses, and what follows from it."""

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
        return self


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


class Recipe(Section):
    """A method: a solver and its hyper-parameters. Defaults are those of the published MEMIT code unless noted."""

    solver: str = Field(description="one of the registered solvers")
    backend: Literal["raw", "lora", "posthoc"] = Field(
        "raw", description="how the update is stored: as solved, as a low-rank adapter, or raw plus a trained LoRA"
    )
    layers: list[Annotated[int, Field(ge=0)]] | Literal["auto"] = Field(
        "auto", description="edited layers, or auto: chosen by causal tracing"
    )
    # Targets
    steps: Count = Field(25, description="evaluations of a target's loss at most (ft: gradient steps)")
    lr: Positive = Field(0.5, description="learning rate of Adam (ft: of the weights, published 5e-4)")
    clamp: Positive = Field(0.75, description="largest |delta| / |h| of a target")
    weight_decay: NonNegative = Field(0.5, description="factor of |delta| / |h|^2")
    kl_factor: NonNegative = Field(0.0625, description="factor of the KL term on '{subject} is a'")
    stop_loss: NonNegative = Field(0.05, description="a fact's optimisation stops below this loss")
    stop: Literal["loss", "most_probable"] = Field("loss", description="most_probable: or at the argmax (ENCORE)")
    norm_anchor: bool = Field(False, description="rescale targets to the unedited norm (arXiv 2602.02543)")
    rewind: bool = Field(False, description="optimise targets on the original weights")
    # Solve
    second_moment_weight: Positive = Field(15000.0, description="lambda on the second moment C")
    ridge: NonNegative | None = Field(None, description="emmet: gamma on K'C^-1 K (default 0.1, 0 for one fact)")
    moment_ridge: NonNegative = Field(0.0, description="mu added to the diagonal of C")
    null_space_threshold: Positive = Field(0.02, description="alphaedit: eigenvalues of C below it are null space")
    null_space_share: PositiveShare | None = Field(None, description="alphaedit: take this share of directions instead")
    l2: NonNegative = Field(10.0, description="alphaedit: L2 term")
    update_norm_weight: NonNegative = Field(1.0, description="encore: weight of the update's norm")
    keep_share: PositiveShare = Field(0.4, description="rect: share of entries kept")
    neuron_share: PositiveShare = Field(0.8, description="nse: share of the summed |key| covered by the edited neurons")
    max_iterations: Count = Field(3, description="nse: passes over the facts that are still off")
    alpha: NonNegative = Field(0.1, description="nse: a fact is off while |residual| is above this")
    norm_constraint: Positive | None = Field(None, description="ft: largest change of an entry (FT-L)")
    condition_limit: Annotated[float, Field(gt=1)] = Field(1e12, description="above it the ridge is raised")
    # LoRA: the rank itself is an axis of experiments
    lora_metric: Literal["edit", "frobenius"] = Field("edit", description="in which the best low-rank form is taken")
    accumulate: Literal["recompress", "append"] = Field("recompress", description="how batches share one adapter")
    min_energy: Share = Field(0.0, description="residual guard: below this share kept the rank is raised")
    max_rank: Count = Field(64, description="largest rank of the guard and of append")
    posthoc: Posthoc = Posthoc()
    # Guards
    trust: Trust | None = Field(None, description="score each batch; scale or roll back harmful ones")
    greedy: Greedy | None = Field(None, description="several small steps in place of one (backend lora)")
    # Replay
    replay_capacity: Count = Field(200, description="facts kept for replay")
    replay_strategy: Literal["random", "priority"] = Field("random", description="which are replayed")
    replay_eviction: Literal["fifo", "lru"] = Field("fifo", description="which make room")
    replay_weight: NonNegative = Field(1.0, description="weight of a replayed column")
    replay_targets: Literal["stored", "recomputed"] = Field("stored", description="targets of replayed facts")

    @property
    def has_rank(self) -> bool:
        """Whether the rank axis applies."""
        return self.backend != "raw"

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        solver = values.get("solver") if isinstance(values, dict) else None
        return {**SOLVERS[solver].defaults, **values} if isinstance(solver, str) and solver in SOLVERS else values

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: {self.solver!r} is not allowed; one of {', '.join(SOLVERS)}")
        if SOLVERS[self.solver].site == "mlp" and self.layers != "auto" and len(self.layers) > 1:
            raise ValueError(f"layers: {self.layers} is not allowed; {self.solver} edits exactly one layer")
        if self.layers != "auto" and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError("layers: give distinct layers, at least one, or auto")
        self._check_combination()
        return self

    def _check_combination(self) -> None:
        """Solver x backend x trust x greedy: which go together."""
        traits = SOLVERS[self.solver]
        if self.has_rank and (traits.gradient or not traits.edits or traits.once_at_end):
            raise ValueError(f"backend: {self.backend!r} is not allowed with {self.solver}; use raw")
        if self.greedy is not None and self.backend != "lora":
            raise ValueError(f"greedy: not allowed with backend {self.backend}; it divides low-rank steps: use lora")
        if self.greedy is not None and traits.passes:
            raise ValueError(f"greedy: not allowed with {self.solver}, which makes passes of its own")
        if self.trust is not None and (traits.gradient or not traits.edits):
            raise ValueError(f"trust: not allowed with {self.solver}; it guards closed-form updates")
