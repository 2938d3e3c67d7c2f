"""Find adapters by what they do: an exact index of deltas under cosine.

A matrix product is exact and, below some 100,000 adapters, instant; FAISS's flat index is an option with the same results.
Deltas are centred by a given mean first, since all share a large common part. Rows of norm zero are left out, equal
cosines are ordered by name, and the adapters of the query's own task can be excluded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from editlab.errors import ConfigError

Vectors = NDArray[np.floating]


class DeltaIndex:
    """An index of adapters.

    Args:
        deltas: (n, d).
        names: one a row.
        centre: (d,), subtracted from rows and queries; None subtracts nothing.
        backend: ``numpy`` or ``faiss``.

    Raises:
        ConfigError: no row, or none of a norm above zero; counts that differ; an unknown backend or one not installed.
    """

    def __init__(
        self, deltas: Vectors, names: Sequence[str], centre: Vectors | None = None, backend: str = "numpy"
    ) -> None:
        if len(deltas) != len(names):
            raise ConfigError(f"index: {len(deltas)} deltas and {len(names)} names; one each")
        rows = np.array(deltas, dtype=np.float64)  # a copy: normalising must not touch the caller's
        self.centre = np.zeros(rows.shape[1:]) if centre is None else np.asarray(centre, dtype=np.float64)
        rows = rows - self.centre
        norms = np.linalg.norm(rows, axis=-1)
        kept = [i for i in sorted(range(len(names)), key=lambda i: names[i]) if norms[i] > 0]
        if not kept:
            raise ConfigError("index: empty; it needs an adapter whose delta is not zero")
        self.names = [names[i] for i in kept]
        self.rows = rows[kept] / norms[kept][:, None]
        self.backend = backend
        self._cosines = _BACKENDS[_known(backend)](self.rows)

    def __len__(self) -> int:
        return len(self.names)

    def search(self, query: Vectors, k: int, exclude: Collection[str] = ()) -> list[tuple[str, float]]:
        """The k nearest adapters with their cosines, nearest first; fewer where the index holds fewer.

        Raises:
            ConfigError: k below 1, a query of another dimension or with NaN in it, or nothing left after ``exclude``.
        """
        query = np.asarray(query, dtype=np.float64)
        if k < 1 or query.shape != self.rows.shape[1:]:
            wanted = self.rows.shape[1:]
            raise ConfigError(f"index: k {k} and a query of shape {query.shape}; allowed are k >= 1 and {wanted}")
        if not np.isfinite(query).all():
            raise ConfigError("index: the query holds values that are no numbers")
        direction = query - self.centre
        norm = np.linalg.norm(direction)
        direction = direction / norm if norm > 0 else direction
        found = [(name, value) for name, value in self._ranked(direction) if name not in exclude]
        if not found:
            raise ConfigError("index: nothing is left to retrieve after the excluded adapters")
        return found[:k]

    def _ranked(self, direction: Vectors) -> list[tuple[str, float]]:
        cosines = self._cosines(direction)
        # Rounded, so that rows which differ by the last bits of another backend's sums stand in the same order.
        order = sorted(range(len(self.names)), key=lambda i: (-round(float(cosines[i]), 6), self.names[i]))
        exact = self.rows[order] @ direction
        return [(self.names[i], float(value)) for i, value in zip(order, exact, strict=True)]


def _known(backend: str) -> str:
    if backend not in _BACKENDS:
        raise ConfigError(f"index: {backend!r} is not allowed; one of {', '.join(_BACKENDS)}")
    return backend


def _numpy(rows: Vectors):  # type: ignore[no-untyped-def]
    return lambda direction: rows @ direction


def _faiss(rows: Vectors):  # type: ignore[no-untyped-def]
    try:
        import faiss
    except ImportError:
        raise ConfigError("index: faiss needs the package faiss-cpu; install it, or choose numpy") from None
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows, dtype=np.float32))

    def cosines(direction: Vectors) -> Vectors:
        values, places = index.search(np.ascontiguousarray(direction[None], dtype=np.float32), len(rows))
        found = np.full(len(rows), -1.0)
        found[places[0]] = values[0]
        return found

    return cosines


_BACKENDS = {"numpy": _numpy, "faiss": _faiss}


def softmax_weights(cosines: Sequence[float], temperature: float) -> list[float]:
    """Weights of retrieved adapters, summing to 1: softmax over the positive cosines; none positive: the nearest alone."""
    values = np.asarray(cosines, dtype=np.float64)
    if not (values > 0).any():
        return [1.0] + [0.0] * (len(values) - 1)
    scores = np.where(values > 0, np.exp((values - values.max()) / temperature), 0.0)
    return [float(w) for w in scores / scores.sum()]


def ranks(found: Sequence[tuple[str, float]], wanted: Collection[str]) -> int | None:
    """Place (from 1) of the first retrieved adapter that is wanted; None: it is not among them."""
    return next((place for place, (name, _) in enumerate(found, start=1) if name in wanted), None)
