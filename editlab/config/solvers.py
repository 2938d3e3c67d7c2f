"""Which solvers there are and what they can take: one line a solver, without importing torch.

The algebra of a closed-form solver is the function of the same name in :mod:`editlab.algebra.solvers`. The traits are read
by the configuration (axes that do not apply to a method collapse) and by the editing session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from editlab.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a solver can take and needs.

    Attributes:
        max_batch: most facts a solve can hold; None: any number.
        function: name of its function in :mod:`editlab.algebra.solvers`, where it is not its own.
        restraint: function of :mod:`editlab.algebra.postprocess` that its update goes through.
        once_at_end: the restraint is applied once, after the last batch, as published.
        weight: it reads the current weight.
        original: it reads the weight before the stream.
        replay: replayed facts can join a batch.
        history: it uses the sum of K K^T of earlier batches.
        moment: it cannot do without the second moment of the keys (ROME can: C = I).
        site: whose output the target is optimised at, ``"block"`` or ``"mlp"``.
        gradient: it fine-tunes the weight by gradient and has no target vectors.
        edits: False for the control that leaves the model alone.
        passes: solves repeatedly over the facts whose residual is still large (NSE).
        defaults: hyper-parameters whose default differs from the general one.
    """

    max_batch: int | None = None
    function: str | None = None
    restraint: str | None = None
    once_at_end: bool = False
    weight: bool = False
    original: bool = False
    replay: bool = True
    history: bool = False
    moment: bool = True
    site: str = "block"
    gradient: bool = False
    edits: bool = True
    passes: bool = False
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SOLVERS: dict[str, Traits] = {
    "rome": Traits(max_batch=1, replay=False, moment=False, site="mlp"),
    "r_rome": Traits(max_batch=1, replay=False, moment=False, site="mlp"),
    "memit": Traits(),
    "emmet": Traits(defaults={"second_moment_weight": 1.0}),
    "alphaedit": Traits(history=True),
    "rect": Traits(function="memit", restraint="rect", weight=True),
    "prune": Traits(function="memit", restraint="prune", weight=True, original=True),
    "prune_published": Traits(
        function="memit", restraint="prune_published", once_at_end=True, weight=True, original=True
    ),
    "nse": Traits(history=True, passes=True),
    "encore": Traits(history=True, defaults={"stop": "most_probable"}),
    "ft": Traits(moment=False, gradient=True, defaults={"lr": 5e-4, "stop_loss": 0.01}),
    "random": Traits(replay=False),
    "none": Traits(replay=False, moment=False, edits=False),
}


def traits_of(name: str) -> Traits:
    """The traits of a registered solver.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in SOLVERS:
        raise ConfigError(f"solver: {name!r} is not allowed; one of {', '.join(SOLVERS)}")
    return SOLVERS[name]
