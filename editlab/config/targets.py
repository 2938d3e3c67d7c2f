"""How target vectors are optimised: options of every solver that has them. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from editlab.config.base import Count, NonNegative, Positive, PositiveShare, Section


class TargetOptions(Section):
    """How the target vector of a fact is optimised; defaults are those of the published MEMIT code."""

    steps: Count = Field(
        25, description="evaluations of a target's loss at most; the last is not followed by an update"
    )
    lr: Positive = Field(0.5, description="learning rate of Adam")
    clamp: Positive = Field(0.75, description="largest |delta| / |h| of a target")
    weight_decay: NonNegative = Field(0.5, description="factor of |delta| / |h|^2")
    kl_factor: NonNegative = Field(0.0625, description="factor of the KL term on '{subject} is a'")
    stop_loss: NonNegative = Field(0.05, description="a fact's optimisation stops below this loss")
    stop: Literal["loss", "most_probable"] = Field(
        "loss", description="most_probable: also stop at the argmax in all contexts (ENCORE)"
    )
    subject_weight: NonNegative = Field(
        0.0,
        description="factor of the KL term that holds what the model says after prompts of the subject's other relations; 0: off",
    )
    subject_prompts: Count = Field(8, description="such prompts a fact, at most: one a relation")
    subject_share: PositiveShare = Field(
        1.0,
        description="share of the relations that are held, drawn by seed; the others are scored apart (SS_apart), also where "
        "none is held (subject_weight 0)",
    )
    subject_relations: str | None = Field(
        None,
        description="JSON file {relation: {type, templates}}, or {relation: [templates]}, of what can be asked; null: relations "
        "that the data set has of the same subjects, in the wordings of paraphrases that recur; where none does, in those of its "
        "rewrite prompts, on which SS is scored",
    )
    norm_anchor: bool = Field(False, description="rescale targets to the unedited norm (arXiv 2602.02543)")
    anchor_pilots: Annotated[int, Field(ge=0)] = Field(
        0,
        description="the published form of it: the MLP's part of a target gets the mean length of so many reserved facts' on the "
        "unedited model (published: 1000); 0: off",
    )
    rewind: bool = Field(False, description="optimise targets on the original weights")
    target_memory_mb: Count | Literal["auto"] = Field(
        "auto",
        description="memory in MB for the targets that are optimised at once; auto: 80 % of what is free on a GPU, 8,192 "
        "tokens on the CPU",
    )
    tf32: bool = Field(
        False,
        description="on a GPU, products of float32 in TF32 (10 bits) while targets are optimised: several times faster",
    )

    @model_validator(mode="after")
    def _one_anchor(self) -> Self:
        if self.norm_anchor and self.anchor_pilots:
            raise ValueError(
                f"anchor_pilots: {self.anchor_pilots} is not allowed with norm_anchor; one of the two forms, not both"
            )
        return self


class EncoreTargets(TargetOptions):
    """ENCORE stops a fact at the argmax (MPES)."""

    stop: Literal["loss", "most_probable"] = Field(
        "most_probable", description="most_probable: also stop at the argmax in all contexts"
    )


class NseTargets(TargetOptions):
    """NSE optimises its targets on the original weights."""

    rewind: bool = Field(True, description="optimise targets on the original weights")
