"""The keys of earlier batches, kept thin, and the inverse that they update.

AlphaEdit, ENCORE and NSE add ``H = sum_b K_b K_b^T`` over the earlier batches to their penalty A; so does the edit metric
of low-rank storage. As a matrix H costs d_in^2 numbers, and a factorisation of ``A + H`` anew, O(d_in^3), at every batch.
Kept as its keys it costs d_in numbers a fact, and the inverse follows batch by batch from the one before (Woodbury):

    (M + K K^T)^-1 = M^-1 - Y Y^T,    Y = M^-1 K L^-T,    L L^T = I + K^T M^-1 K,

so that ``(A + H)^-1 = A^-1 - T T^T`` with the columns Y of all batches side by side in T: a solve for n columns costs that
of A and O(d_in m n) for m earlier keys, in products of matrices alone. When more than d_in / 2 keys are kept, they
are folded into one matrix, and A with it is factored once, not at every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from editlab.algebra.spd import cholesky
from editlab.errors import NumericalError

Solve = Callable[[Tensor], Tensor]
"""``B (d_in, n) -> A^-1 B``."""


@dataclass(frozen=True, eq=False)
class History:
    """``H = folded + sum_b K_b K_b^T`` of the earlier batches of one map; never changed in place.

    Attributes:
        batches: keys (d_in, n_b) of each batch, in their order.
        folded: (d_in, d_in) sum over batches that are no longer kept apart, or None.
        energy: the trace of H, the summed squared norms of all keys (of a projected history: at least its trace).
        finite: whether no number is NaN or infinite.
    """

    batches: tuple[Tensor, ...] = ()
    folded: Tensor | None = None
    energy: float = 0.0
    finite: bool = True
    _known: dict[Hashable, tuple[Solve, Tensor, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, keys: Tensor) -> History:
        """The history of one batch of keys (d_in, n)."""
        return cls().extended(keys)

    @property
    def size(self) -> int:
        """d_in."""
        return int(self._any.shape[0])

    @property
    def count(self) -> int:
        """Keys that are kept apart."""
        return sum(int(keys.shape[1]) for keys in self.batches)

    @property
    def _any(self) -> Tensor:
        return self.batches[0] if self.folded is None else self.folded

    def extended(self, keys: Tensor) -> History:
        """With one more batch of keys (d_in, n), on the device of these."""
        if (self.batches or self.folded is not None) and self._any.device != keys.device:
            return self.to(keys.device).extended(keys)
        keys = keys.double().contiguous()
        energy, finite = self.energy + float(keys.square().sum()), self.finite and bool(keys.isfinite().all())
        whole = History((*self.batches, keys), self.folded, energy, finite, dict(self._known))
        return whole if 2 * whole.count <= whole.size else History._of_matrix(whole.dense(), finite=finite)

    @classmethod
    def _of_matrix(cls, folded: Tensor, *, finite: bool) -> History:
        return cls((), folded, float(folded.trace()), finite)

    def dense(self) -> Tensor:
        """(d_in, d_in): H."""
        total = torch.zeros(self.size, self.size).to(self._any) if self.folded is None else self.folded.clone()
        for keys in self.batches:
            total.addmm_(keys, keys.T)
        return total

    def gram(self, right: Tensor) -> Tensor:
        """``right H right^T`` (k, k) for right (k, d_in)."""
        images = [right @ keys.to(right) for keys in self.batches]
        gram = torch.zeros(len(right), len(right)).to(right)
        for image in images:
            gram = gram + image @ image.T
        return gram if self.folded is None else gram + right @ self.folded.to(right) @ right.T

    def rows(self, index: Tensor) -> History:
        """The history of some of the inputs."""
        folded = None if self.folded is None else self.folded[index][:, index]
        return History(tuple(keys[index] for keys in self.batches), folded, self.energy, self.finite)

    def mapped(self, project: Solve) -> History:
        """The history of projected keys, ``P H P``, for a symmetric projector given as a function of columns."""
        folded = None if self.folded is None else project(project(self.folded).T)
        return History(tuple(project(keys) for keys in self.batches), folded, self.energy, self.finite)

    def to(self, device: torch.device | str) -> History:
        """The same on another device (itself where it is there already)."""
        if self._any.device == torch.device(device):
            return self
        folded = None if self.folded is None else self.folded.to(device)
        return History(tuple(keys.to(device) for keys in self.batches), folded, self.energy, self.finite)

    def inverse(self, name: Hashable, base: Callable[[Tensor | None], Solve], project: Solve | None = None) -> Solve:
        """``(A + P H P)^-1`` as a function of columns, with all that was found out for earlier batches.

        Args:
            name: of A and P, objects and numbers: what was found out is used again while it stays equal, and let go then.
            base: makes the solve of ``A + P F P``, F the folded part or None; called once a folding.
            project: P; None: the identity.

        Raises:
            NumericalError: the system cannot be updated (A is not positive definite on the keys).
        """
        if name not in self._known:
            self._known.clear()
            self._known[name] = (base(self.folded), torch.zeros(self.size, 0).to(self._any), 0)
        solve, thin, done = self._known[name]
        for keys in self.batches[done:]:
            thin = torch.cat([thin, _update(solve, thin, keys if project is None else project(keys))], 1)
        self._known[name] = (solve, thin, len(self.batches))
        return lambda columns: _solved(solve, thin, columns)

    def span(self, name: Hashable, project: Solve) -> Tensor:
        """Orthonormal columns (d_in, r) that span the projected keys of all batches, each batch's after those before it.

        Args:
            name: of the projector, as in :meth:`inverse`.
            project: P, as a function of columns.
        """
        if name not in self._known:
            self._known.clear()
            start = torch.zeros(self.size, 0).to(self._any)
            self._known[name] = (project, start if self.folded is None else _directions(self.folded, project), 0)
        _, basis, done = self._known[name]
        for keys in self.batches[done:]:
            basis = torch.cat([basis, _new_directions(project(keys), basis, keys)], 1)
        self._known[name] = (project, basis, len(self.batches))
        return basis

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to save; the batches stay apart, so that what follows is the same bit for bit."""
        found = {f"batch{i}": keys for i, keys in enumerate(self.batches)}
        return found if self.folded is None else {"folded": self.folded, **found}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> History:
        """From :meth:`tensors`."""
        names = sorted((k for k in tensors if k.startswith("batch")), key=lambda k: int(k.removeprefix("batch")))
        folded = tensors.get("folded")
        found = cls() if folded is None else cls._of_matrix(folded, finite=bool(folded.isfinite().all()))
        batches = tuple(tensors[name] for name in names)
        for keys in batches:
            found = replace(found, energy=found.energy + float(keys.square().sum()))
        return replace(found, batches=batches, finite=found.finite and all(bool(k.isfinite().all()) for k in batches))


def _solved(solve: Solve, thin: Tensor, columns: Tensor) -> Tensor:
    found = solve(columns)
    return found if thin.shape[1] == 0 else found - thin @ (thin.T @ columns)


def _update(solve: Solve, thin: Tensor, keys: Tensor) -> Tensor:
    """Y (d_in, n) of the module's docstring: what a batch of keys takes away from the inverse."""
    image = _solved(solve, thin, keys)
    gram = keys.T @ image
    gram = (gram + gram.T) / 2
    gram.diagonal().add_(1.0)
    lower, failed = cholesky(gram)
    if failed:
        raise NumericalError("keys of earlier batches: their system is not positive definite")
    return torch.linalg.solve_triangular(lower, image.T, upper=False).T.contiguous()


_NEGLIGIBLE = 1e-10  # share of a key below which what is left of it is rounding


def _new_directions(images: Tensor, basis: Tensor, keys: Tensor) -> Tensor:
    """Orthonormal columns that a basis lacks to span the images of some keys."""
    for _ in range(2):
        images = images - basis @ (basis.T @ images)
    vectors, values, _ = torch.linalg.svd(images, full_matrices=False)
    return vectors[:, values > _NEGLIGIBLE * keys.norm(dim=0).max()]


def _directions(folded: Tensor, project: Solve) -> Tensor:
    """Orthonormal columns that span the projected keys of a folded history; of squares, half of the digits are left."""
    image = project(project(folded).T)
    values, vectors = torch.linalg.eigh((image + image.T) / 2)
    return vectors[:, values > 1e-13 * folded.trace()]


def histories_in(tensors: Mapping[str, Tensor], name: str) -> dict[int, History]:
    """By layer, the histories saved as ``name.LAYER.PART``."""
    parts: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            _, layer, part = key.split(".")
            parts.setdefault(int(layer), {})[part] = value
    return {layer: History.of_tensors(found) for layer, found in parts.items()}
