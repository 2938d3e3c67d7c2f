"""Options of fine-tuning. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from editlab.config.base import Count, NonNegative, Positive
from editlab.config.solver import Solver


class FineTuning(Solver):
    """FT and FT-L (arXiv 2012.00363): Adam on the same weight, within a bound on every entry's change."""

    name, moment, gradient, targets = "ft", False, True, None
    steps: Count = Field(25, description="gradient steps at most")
    lr: Positive = Field(5e-4, description="learning rate of Adam on the weights")
    stop_loss: NonNegative = Field(0.01, description="the fine-tuning stops below this loss")
    norm_constraint: Positive | None = Field(None, description="largest change of an entry (FT-L)")

    def shown(self) -> dict[str, float | str]:
        return {} if self.norm_constraint is None else {"bound": self.norm_constraint}


class FineTuningInEpochs(Solver):
    """LocFT-BF (arXiv 2509.22072): Adam in epochs over all facts; CrispEdit (2602.15823): off steep directions of the loss."""

    name, moment, gradient, targets = "ft_epochs", False, True, None
    epochs: Count = Field(25, description="over all facts of a batch and the replayed ones, at most")
    mini_batch: Count = Field(32, description="facts a step; published: 100 (LocFT-BF), 32 (CrispEdit)")
    lr: Positive = Field(5e-4, description="learning rate of Adam on the weights")
    stop_loss: NonNegative = Field(
        0.01,
        description="after the first epoch a mini-batch below it makes no step; an epoch whose mean is below it is the last",
    )
    stop_token: bool = Field(True, description="the tokenizer's end of text is learned after the new object")
    energy: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.8,
        description="share of the curvature of the loss on text that steps stay off, by K-FAC; 0: none, and no statistics are "
        "needed (LocFT-BF)",
    )
    fact_weight: NonNegative = Field(
        1.0,
        description="weight of a token of an earlier fact in the curvature, against one of the text; 0: the text alone",
    )

    @property
    def reads_curvature(self) -> bool:
        return self.energy > 0

    def shown(self) -> dict[str, float | str]:
        return {"energy": self.energy, "epochs": self.epochs} if self.energy else {"epochs": self.epochs}
