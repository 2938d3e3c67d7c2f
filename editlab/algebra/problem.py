"""What a solver is given and what it hands back: one batch of keys and residuals at one linear map, plain tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, float64

from editlab.algebra.linalg import Factors, SecondMoment
from editlab.algebra.spd import CONDITION_LIMIT
from editlab.errors import ConfigError, NumericalError

FORMS = ("auto", "direct", "woodbury")
Diagnostics = dict[str, float | int | str | list[float]]
Result = tuple[Factors, Diagnostics]


@dataclass(frozen=True, eq=False)
class Problem:
    """One batch: find dW (d_out, d_in) such that dW @ keys is about residual and little else changes.

    Attributes:
        keys: K (d_in, n), one column a fact, replayed facts included.
        residual: R (d_out, n), what the output should gain on each key.
        moment: second moment C of the map's inputs, or None (ROME without the second-moment adjustment: C = I).
        weight: W (d_out, d_in) now; needed by rect and prune.
        original: W (d_out, d_in) before the stream; needed by prune.
        column_weights: (n,) weight of each fact in the least-squares objective (None: all 1). Columns of K and R are
            scaled by its root; columns of weight 0 are left out. Equality constraints (emmet with ridge 0) ignore it.
        history: (d_in, d_in) sum of K K^T of the earlier batches of the session, or None.
        clean_keys: (d_in, n) keys on the clean prompts, for ROME's denominator, or None (the same as ``keys``).
        seed: seed of the random control.
    """

    keys: Tensor
    residual: Tensor
    moment: SecondMoment | None = None
    weight: Tensor | None = None
    original: Tensor | None = None
    column_weights: Tensor | None = None
    history: Tensor | None = None
    clean_keys: Tensor | None = None
    seed: int = 0

    @property
    def facts(self) -> int:
        """n."""
        return self.keys.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.residual.shape[0], self.keys.shape[0]

    def checked(self) -> Problem:
        """The problem in float64 on one device (the moment's), without columns of weight 0.

        Raises:
            ValueError: shapes do not fit, or a weight is negative.
            NumericalError: NaN or Inf in any input.
        """
        self._check_shapes()
        device = self.keys.device if self.moment is None else self.moment.matrix.device
        names = ("keys", "residual", "weight", "original", "column_weights", "history", "clean_keys")
        tensors = {name: value.to(device, float64) for name in names if (value := getattr(self, name)) is not None}
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise NumericalError(f"{name}: holds NaN or Inf")
        if self.moment is not None:
            self.moment.validate()
        weights = tensors.get("column_weights")
        if weights is not None and bool((weights <= 0).any()):
            if bool((weights < 0).any()):
                raise ValueError(f"column_weights: {float(weights.min()):g} is negative; allowed are weights >= 0")
            kept = weights > 0
            columns = ("keys", "residual", "clean_keys")
            tensors |= {name: tensors[name][:, kept] for name in columns if name in tensors}
            tensors["column_weights"] = weights[kept]
        return replace(self, **tensors)

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
            "history": (d_in, d_in),
            "clean_keys": (d_in, self.facts),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name}: shape {tuple(value.shape)} does not fit the keys; allowed is {shape}")
        if self.moment is not None and tuple(self.moment.matrix.shape) != (d_in, d_in):
            raise ValueError(f"moment: shape {tuple(self.moment.matrix.shape)}; allowed is {(d_in, d_in)}")


@dataclass(frozen=True)
class SolverOptions:
    """Hyper-parameters of the solvers; each solver reads its own. Defaults suit small models unless said otherwise.

    Attributes:
        second_moment_weight: lambda of C (MEMIT 15,000 for GPT-2 XL and GPT-J; EMMET and ENCORE scale C too).
        ridge: gamma on K^T C^-1 K for emmet (None: 0.1 for n > 1 and 0 for n = 1, as published); an extra multiple of I
            in the d x d system for the others (None: 0).
        moment_ridge: mu, added to lambda C (EMMET's update_norm_lambda).
        null_space_threshold: AlphaEdit: eigenvalues of C below it span the space that may be edited.
        null_space_share: AlphaEdit, instead of the threshold: share of the directions with the smallest eigenvalues.
        l2: AlphaEdit's L2 (published: 10, for Llama 3 1).
        update_norm_weight: ENCORE's lambda on the norm of the update.
        keep_share: RECT: share of the entries kept.
        neuron_share: NSE: share of the summed |key| that the edited neurons hold.
        condition_limit: condition number above which the ridge of a system is raised.
        form: ``woodbury`` (n x n system), ``direct`` (d x d), or ``auto``: n x n if n < d and nothing forces d x d.
    """

    second_moment_weight: float = 1.0
    ridge: float | None = None
    moment_ridge: float = 0.0
    null_space_threshold: float = 0.02
    null_space_share: float | None = None
    l2: float = 1.0
    update_norm_weight: float = 0.0
    keep_share: float = 0.4
    neuron_share: float = 0.8
    condition_limit: float = CONDITION_LIMIT
    form: str = "auto"

    def __post_init__(self) -> None:
        for name in ("ridge", "moment_ridge", "l2", "update_norm_weight"):
            self._require(name, 0.0, float("inf"), "a finite number >= 0")
        for name in ("second_moment_weight", "null_space_threshold"):
            self._require(name, 0.0, float("inf"), "a finite number > 0", open_below=True)
        for name in ("null_space_share", "keep_share", "neuron_share"):
            self._require(name, 0.0, 1.0, "a share in (0, 1]", open_below=True, open_above=False)
        self._require("condition_limit", 1.0, float("inf"), "a finite number > 1", open_below=True)
        if self.form not in FORMS:
            raise ConfigError(f"form: {self.form!r} is not allowed; allowed are {', '.join(FORMS)}")

    def _require(
        self, name: str, low: float, high: float, allowed: str, *, open_below: bool = False, open_above: bool = True
    ) -> None:
        value = getattr(self, name)
        if value is None and name in ("ridge", "null_space_share"):
            return
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high or (open_below and value == low) or (open_above and value == high):
            raise ConfigError(f"{name}: {value!r} is not allowed; allowed is {allowed}")


@dataclass(frozen=True, eq=False)
class Solution:
    """An update and how well-posed its making was.

    Attributes:
        factors: the update dW.
        diagnostics: ``facts`` and ``rank``; ``residual`` |dW K - R| / |R| on the unscaled facts; ``condition`` of the
            system that was solved; ``update_norm`` (Frobenius); ``form``; ``ridge_raised``, the ridges tried because a
            system was ill-conditioned (empty: none); ``moment_ridge``, what C itself needed; and the solver's own.
    """

    factors: Factors
    diagnostics: Diagnostics = field(default_factory=dict)
