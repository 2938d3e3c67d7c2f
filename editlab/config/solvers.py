"""The solvers: one small options class each, and the registry that lists them. Nothing here imports torch.

A class holds a solver's hyper-parameters (help, range and default stand nowhere else) and, as class-level facts, what it
can take and what it needs. The configuration reads the facts (axes that do not apply to a method collapse), and so does
the editing session. The algebra of a solver is the function that :data:`editlab.algebra.solvers.update` has for its class.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from editlab.config.base import Count, NonNegative, Positive, PositiveShare, Share
from editlab.config.finetuning import FineTuning, FineTuningInEpochs
from editlab.config.solver import Solver
from editlab.config.targets import EncoreTargets, NseTargets


class ClosedForm(Solver):
    """A solve of one linear system."""

    condition_limit: Annotated[float, Field(gt=1)] = Field(1e12, description="above it the ridge is raised")
    sphere: Share = Field(
        0.0, description="share of the update taken off the weight's principal directions (SPHERE, arXiv 2510.01172)"
    )
    sphere_energy: PositiveShare = Field(0.5, description="share of the weight's energy that these directions hold")

    @property
    def reads_weight(self) -> bool:
        return self.weight or self.sphere > 0


class Moment(ClosedForm):
    """A solve that weighs the second moment C of the keys."""

    second_moment_weight: Positive = Field(15000.0, description="lambda on the second moment C")
    moment_ridge: NonNegative = Field(0.0, description="mu added to the diagonal of lambda C")

    def penalty(self) -> tuple[float, float]:
        return self.second_moment_weight, self.moment_ridge

    def shown(self) -> dict[str, float | str]:
        return {"λ": self.second_moment_weight}


class Passes(Solver):
    """A solver that goes over its batch several times, for the facts whose residual is still large."""

    max_iterations: Count = Field(3, description="passes over the facts that are still off")
    alpha: NonNegative = Field(0.1, description="a fact is off while |residual| is above this")
    upper_bound: Positive | None = Field(
        None, description="a fact whose |residual| is not below this is left out of a pass"
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.upper_bound is not None and self.upper_bound <= self.alpha:
            raise ValueError(f"upper_bound: {self.upper_bound} is not allowed; more than alpha ({self.alpha})")
        return self


class Rome(Moment):
    """ROME (arXiv 2202.05262): a rank-one update, one fact after another."""

    name, max_batch, replay, moment, site, clean_key = "rome", 1, False, False, "mlp", True
    mom2_adjustment: bool = Field(True, description="weigh the key by C; false: C = I (published for Llama)")

    @property
    def reads_moment(self) -> bool:
        return self.mom2_adjustment

    def shown(self) -> dict[str, float | str]:
        return {}


class RRome(Rome):
    """R-ROME (arXiv 2403.07175): ROME with one and the same key throughout."""

    name, clean_key, mean_value = "r_rome", False, True


class Memit(Moment):
    """MEMIT (arXiv 2210.07229): least squares on a batch, regularised by the second moment."""

    name = "memit"


class Emmet(Moment):
    """EMMET (arXiv 2403.14236): equality constraints on a batch."""

    name = "emmet"
    second_moment_weight: Positive = Field(1.0, description="lambda on the second moment C")
    ridge: NonNegative | None = Field(None, description="gamma on K'C^-1 K; default 0.1, and 0 for a batch of one fact")

    def penalty(self) -> tuple[float, float]:
        gamma = self.ridge or 0.1
        return gamma * self.second_moment_weight, gamma * self.moment_ridge

    def shown(self) -> dict[str, float | str]:
        return {"λ": self.second_moment_weight, "γ": "default" if self.ridge is None else self.ridge}


class NullSpace(ClosedForm):
    """Updates in the null space of the second moment."""

    history, null_space = True, True
    null_space_threshold: Positive = Field(0.02, description="eigenvalues of C below it are null space")
    null_space_share: PositiveShare | None = Field(None, description="take this share of directions instead")
    l2: NonNegative = Field(10.0, description="L2 term")

    def penalty(self) -> tuple[float, float]:
        return 0.0, self.l2

    def shown(self) -> dict[str, float | str]:
        share = self.null_space_share
        space = {"threshold": self.null_space_threshold} if share is None else {"share": share}
        return {**space, "L2": self.l2}


class AlphaEdit(NullSpace):
    """AlphaEdit (arXiv 2410.02355): updates in the null space of the second moment; BetaEdit (2605.09285) with two more terms."""

    name = "alphaedit"
    moment_weight: NonNegative = Field(
        0.0, description="lambda on the second moment C inside the null space (BetaEdit: 3000); 0: AlphaEdit"
    )
    refresh_after: Count | None = Field(
        None,
        description="after every so many edits the null space is found anew, of C and the mean of all earlier keys' K K^T "
        "(BetaEdit: 1000); null: never (AlphaEdit)",
    )

    @model_validator(mode="after")
    def _space_of_text(self) -> Self:
        if self.refresh_after is not None and not self.moment_weight:
            raise ValueError(
                f"refresh_after: {self.refresh_after} is not allowed with moment_weight 0; the null space would be that of the "
                "edits alone"
            )
        return self

    def penalty(self) -> tuple[float, float]:
        return self.moment_weight, self.l2

    def shown(self) -> dict[str, float | str]:
        weight = {"λ": self.moment_weight} if self.moment_weight else {}
        return {**super().shown(), **weight, **({"refresh": self.refresh_after} if self.refresh_after else {})}


class EvoEdit(NullSpace):
    """EvoEdit (arXiv 2510.13851): a null space that loses the keys of every batch, so that no later edit touches them."""

    name, replay = "evoedit", False  # what is replayed was edited before, and is left as it is

    @model_validator(mode="after")
    def _nothing_spills(self) -> Self:
        if self.sphere:
            raise ValueError(f"sphere: {self.sphere} is not allowed with evoedit; it would move earlier edits")
        return self


class Rect(Memit):
    """RECT (arXiv 2401.04700): MEMIT's update, only the entries of largest relative change."""

    name, weight = "rect", True
    keep_share: PositiveShare = Field(0.4, description="share of entries kept")

    def shown(self) -> dict[str, float | str]:
        return {**super().shown(), "keep share": self.keep_share}


class Prune(Memit):
    """PRUNE (arXiv 2405.16821): MEMIT, the singular values of the total change restrained after each batch."""

    name, weight, original = "prune", True, True


class PrunePublished(Memit):
    """PRUNE as its script has it: restrained once, after the last batch, on top of the edited weight."""

    name, original, restrained_at_end = "prune_published", True, True


class Encore(Moment):
    """ENCORE (arXiv 2502.01636): MEMIT with the keys of earlier batches and a term on the update's norm."""

    name, history, targets = "encore", True, EncoreTargets
    update_norm_weight: NonNegative = Field(1.0, description="weight of the update's norm")

    def penalty(self) -> tuple[float, float]:
        return self.second_moment_weight, self.moment_ridge + self.update_norm_weight

    def shown(self) -> dict[str, float | str]:
        return {**super().shown(), "update norm weight": self.update_norm_weight}


class Nse(Passes, Moment):
    """NSE (arXiv 2410.04045): MEMIT with history on the neurons that hold most of the keys."""

    name, history, targets = "nse", True, NseTargets
    neuron_share: PositiveShare = Field(0.8, description="share of the summed |key| covered by the edited neurons")

    @model_validator(mode="after")
    def _nothing_spills(self) -> Self:
        if self.sphere:
            raise ValueError(
                f"sphere: {self.sphere} is not allowed with nse; it would move neurons that are not edited"
            )
        return self

    def shown(self) -> dict[str, float | str]:
        return {**super().shown(), "neuron share": self.neuron_share}


class Ultra(ClosedForm):
    """UltraEdit (arXiv 2505.14679): one backward pass a batch, no targets; several passes, second moment and history are ours."""

    name, min_batch, history, moment, targets = "ultra", 2, True, False, None
    passes: Count = Field(3, description="over a batch; published: 1")
    lr: Positive = Field(
        2e-4, description="factor of the normalised gradients, a pass; published: 1e-6, for models of 6B"
    )
    second_moment_weight: NonNegative = Field(
        100.0, description="lambda on the second moment C, where there are statistics; published: 0"
    )
    ridge: Positive = Field(1.0, description="alpha on the identity; published: 1 (StableEdit: 10)")
    remember_keys: bool = Field(True, description="the keys of earlier batches count in the system; published: false")
    mini_batch: Count | None = Field(
        None, description="facts whose tokens share one mean loss, published: 10; null: every fact its own"
    )
    known_loss: NonNegative = Field(
        0.0,
        description="nats; tokens of a smaller loss are left as they are, whatever their normalised gradient; published: 0",
    )
    whiten: bool = Field(
        False, description="gradients whitened whole, once there are rows enough (StableEdit, 2605.11836)"
    )

    @property
    def reads_moment(self) -> bool:
        return self.second_moment_weight > 0

    @property
    def keeps_history(self) -> bool:
        return self.remember_keys

    def penalty(self) -> tuple[float, float]:
        return self.second_moment_weight, self.ridge

    def shown(self) -> dict[str, float | str]:
        return {"λ": self.second_moment_weight, "α": self.ridge, "passes": self.passes}


class RandomUpdate(Memit):
    """Control: a random update as large as MEMIT's of the same batch, or with the norms that a method had in its stream."""

    name, replay, control = "random", False, True
    matched_to: str | None = Field(
        None,
        description="recipe whose norms it has, batch by batch and layer by layer, in every experiment; null: MEMIT's on its "
        "own model, which the noise itself drives away",
    )


class ShuffledTargets(Memit):
    """Control: MEMIT with the targets of a batch dealt to one another's facts: updates of its kind that say nothing true."""

    name, replay, control, min_batch = "shuffled", False, True, 2


class NoUpdate(Solver):
    """Control: the unedited model."""

    name, replay, moment, edits, control, targets = "none", False, False, False, True, None


class InContext(Solver):
    """Rival: no weight changes; the edited facts that a prompt is most like are put in front of it (as IKE, arXiv 2305.12740,
    without its demonstrations)."""

    name, replay, moment, edits, control, targets, reads = "in_context", False, False, False, True, None, True
    shown_facts: Count = Field(
        1, description="facts that are put in front of a prompt, at most; the most alike comes last"
    )


class TextLookup(Solver):
    """Rival: no weight changes; the edited fact that a prompt is most like answers in the model's place."""

    name, replay, moment, edits, control, targets, reads = "text_lookup", False, False, False, True, None, True


SOLVERS: dict[str, type[Solver]] = {
    Rome.name: Rome,
    RRome.name: RRome,
    Memit.name: Memit,
    Emmet.name: Emmet,
    AlphaEdit.name: AlphaEdit,
    EvoEdit.name: EvoEdit,
    Rect.name: Rect,
    Prune.name: Prune,
    PrunePublished.name: PrunePublished,
    Nse.name: Nse,
    Encore.name: Encore,
    Ultra.name: Ultra,
    FineTuning.name: FineTuning,
    FineTuningInEpochs.name: FineTuningInEpochs,
    RandomUpdate.name: RandomUpdate,
    ShuffledTargets.name: ShuffledTargets,
    NoUpdate.name: NoUpdate,
    InContext.name: InContext,
    TextLookup.name: TextLookup,
}
"""The registry: one line a solver."""
