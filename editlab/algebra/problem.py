"""What a solver is given and what it hands back: one batch of keys and residuals at one linear map, plain tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, float64

from editlab.algebra.history import History
from editlab.algebra.linalg import Factors
from editlab.algebra.second_moment import SecondMoment
from editlab.errors import NumericalError

Form = Literal["auto", "direct", "woodbury"]
Diagnostics = dict[str, float | int | str | list[float]]
Result = tuple[Factors, Diagnostics]


@dataclass(frozen=True, eq=False)
class Problem:
    """One batch: find dW (d_out, d_in) such that dW @ keys is about residual and little else changes.

    Attributes:
        keys: K (d_in, n), one column a fact, replayed facts included.
        residual: R (d_out, n), what the output should gain on each key.
        moment: second moment C of the map's inputs, or None (ROME without the second-moment adjustment: C = I).
        space: the second moment whose least used directions are the null space; None: ``moment``.
        weight: W (d_out, d_in) now; needed by rect and prune.
        original: W (d_out, d_in) before the stream; needed by prune.
        column_weights: (n,) weight of each fact in the least-squares objective (None: all 1). Columns of K and R are
            scaled by its root; columns of weight 0 are left out. Equality constraints (emmet with ridge 0) ignore it.
        history: the keys of the earlier batches of the session, or None.
        clean_keys: (d_in, n) keys on the clean prompts, for ROME's denominator, or None (the same as ``keys``).
        seed: seed of the random control.
        form: of the linear system: ``woodbury`` (n x n), ``direct`` (d x d), or ``auto``: the smaller one, where nothing
            forces d x d.
    """

    keys: Tensor
    residual: Tensor
    moment: SecondMoment | None = None
    weight: Tensor | None = None
    original: Tensor | None = None
    column_weights: Tensor | None = None
    history: History | None = None
    clean_keys: Tensor | None = None
    space: SecondMoment | None = None
    seed: int = 0
    form: Form = "auto"

    @property
    def facts(self) -> int:
        """n."""
        return self.keys.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.residual.shape[0], self.keys.shape[0]

    def checked(self, *, weight: bool = False, original: bool = False) -> Problem:
        """The problem in float64 on the device of the keys, without columns of weight 0.

        Args:
            weight, original: whether W and W before the stream are read; else they are left out, not copied.

        Raises:
            ValueError: shapes do not fit, or a weight is negative.
            NumericalError: NaN or Inf in any input.
        """
        self._check_shapes()
        device = self.keys.device
        read = [name for name, wanted in (("weight", weight), ("original", original)) if wanted]
        names = ("keys", "residual", "column_weights", "clean_keys", *read)
        tensors = {name: value.to(device, float64) for name in names if (value := getattr(self, name)) is not None}
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise NumericalError(f"{name}: holds NaN or Inf")
        history = None if self.history is None else self.history.to(device)
        if history is not None and not history.finite:
            raise NumericalError("history: holds NaN or Inf")
        moment = None if self.moment is None else self.moment.validate().to(device)
        space = None if self.space is None else self.space.validate().to(device)
        weights = tensors.get("column_weights")
        if weights is not None and bool((weights <= 0).any()):
            if bool((weights < 0).any()):
                raise ValueError(f"column_weights: {float(weights.min()):g} is negative; allowed are weights >= 0")
            kept = weights > 0
            columns = ("keys", "residual", "clean_keys")
            tensors |= {name: tensors[name][:, kept] for name in columns if name in tensors}
            tensors["column_weights"] = weights[kept]
        unread = {name: None for name in ("weight", "original") if name not in tensors}
        return replace(self, history=history, moment=moment, space=space, **tensors, **unread)  # type: ignore[arg-type]

    def weighted(self) -> Problem:
        """The same least-squares problem with unit weights: columns scaled by the root of their weight."""
        if self.column_weights is None:
            return self
        root = self.column_weights.sqrt()
        clean = None if self.clean_keys is None else self.clean_keys * root
        return replace(
            self, keys=self.keys * root, residual=self.residual * root, clean_keys=clean, column_weights=None
        )

    def _check_shapes(self) -> None:
        if self.keys.ndim != 2 or self.residual.ndim != 2:
            raise ValueError("keys and residual must be matrices: allowed are (d_in, n) and (d_out, n)")
        d_out, d_in = self.shape
        expected = {
            "residual": (d_out, self.facts),
            "weight": (d_out, d_in),
            "original": (d_out, d_in),
            "column_weights": (self.facts,),
            "clean_keys": (d_in, self.facts),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name}: shape {tuple(value.shape)} does not fit the keys; allowed is {shape}")
        if self.history is not None and self.history.size != d_in:
            raise ValueError(f"history: size {self.history.size} does not fit the keys; allowed is {d_in}")
        if self.moment is not None and tuple(self.moment.matrix.shape) != (d_in, d_in):
            raise ValueError(f"moment: shape {tuple(self.moment.matrix.shape)}; allowed is {(d_in, d_in)}")
        if self.space is not None and self.space.size != d_in:
            raise ValueError(f"space: size {self.space.size} does not fit the keys; allowed is {d_in}")


@dataclass(frozen=True, eq=False)
class Solution:
    """An update and how well-posed its making was.

    Attributes:
        factors: the update dW.
        diagnostics: ``facts`` and ``rank``; ``residual`` |dW K - R| / |R| on the unscaled facts; ``condition`` of the
            system that was solved; ``update_norm`` (Frobenius); ``form``; ``ridge_raised``, the ridges tried because a
            system was ill-conditioned (empty: none); ``moment_ridge``, what C itself needed; ``refined_residual``,
            of solutions from a float32 factor of C; and the solver's own.
    """

    factors: Factors
    diagnostics: Diagnostics = field(default_factory=dict)


def moment_of(problem: Problem) -> SecondMoment:
    """The second moment of a problem of a solver that cannot do without."""
    assert problem.moment is not None
    return problem.moment
