"""What every solver has. Nothing here imports torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from editlab.config.base import Section
from editlab.config.targets import TargetOptions


class Solver(Section):
    """What every solver has: facts about the method, overridden where it differs.

    Attributes:
        name: what a recipe calls it.
        max_batch: most facts a solve can hold; None: any number.
        min_batch: fewest facts of a batch.
        replay: replayed facts can join a batch.
        history: it uses the sum of K K^T of earlier batches.
        moment: it cannot do without the second moment of the keys (ROME can: C = I).
        weight: it reads the current weight.
        original: it reads the weight before the stream.
        site: whose output the target is optimised at, ``"block"`` or ``"mlp"``.
        clean_key: it reads the key of the clean prompt beside the one over contexts.
        mean_value: the current value is the mean over contexts, as the key is.
        gradient: it fine-tunes the weight by gradient.
        null_space: it edits in the null space of the second moment.
        edits: False for those that leave the model alone.
        reads: no weight changes; the facts are read beside the model, as text.
        control: it is no contestant.
        restrained_at_end: the total change is restrained once, after the last batch, as PRUNE's script does.
        targets: how its target vectors are optimised; None: it has none.
    """

    name: ClassVar[str]
    max_batch: ClassVar[int | None] = None
    min_batch: ClassVar[int] = 1
    replay: ClassVar[bool] = True
    history: ClassVar[bool] = False
    moment: ClassVar[bool] = True
    weight: ClassVar[bool] = False
    original: ClassVar[bool] = False
    site: ClassVar[Literal["block", "mlp"]] = "block"
    clean_key: ClassVar[bool] = False
    mean_value: ClassVar[bool] = False
    gradient: ClassVar[bool] = False
    null_space: ClassVar[bool] = False
    edits: ClassVar[bool] = True
    reads: ClassVar[bool] = False
    control: ClassVar[bool] = False
    restrained_at_end: ClassVar[bool] = False
    targets: ClassVar[type[TargetOptions] | None] = TargetOptions

    @property
    def reads_moment(self) -> bool:
        """Whether it reads the second moment where there is one."""
        return self.moment

    @property
    def reads_curvature(self) -> bool:
        """Whether it reads the curvature of the loss at its maps."""
        return False

    @property
    def reads_weight(self) -> bool:
        """Whether it reads the current weight."""
        return self.weight

    @property
    def keeps_history(self) -> bool:
        """Whether it keeps the keys of earlier batches."""
        return self.history

    def penalty(self) -> tuple[float, float]:
        """(weight of C, weight of I): what the objective adds to K K^T; it gives the edit metric of low-rank storage."""
        return 0.0, 1.0

    def shown(self) -> dict[str, float | str]:
        """The hyper-parameters that a table of methods shows, by symbol."""
        return {}
