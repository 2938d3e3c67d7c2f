"""A gated key-value memory beside one edited map: facts are kept as a list, in place of a change of the weight.

NeuralDB (arXiv 2507.18028): MEMIT's closed form says ``(W + dW) k = W k + R w(k)``, and w is nearly one-hot on the key of an
edited fact and nearly zero elsewhere. So the list itself is kept, a unit key ``k_i`` and a residual ``r_i`` a fact, and read
through a gate: with ``j = argmax_i cos(k, k_i)``

    g(k) = r_j where cos(k, k_j) > gate_j, else 0;    the map gives W k + g(k).

Nothing is solved, and facts do not add up: one is put in, replaced and taken out without a trace. What two facts can do to
one another is *collide*: where their keys are closer than the gate, the nearer one answers for both. A :class:`Memory` never
changes; to go back is to take the former one. Cosines are float32 whatever the model's type is.

*Speed.* What a lookup costs is the product with all keys. A large memory that is read often gets a *sieve*: in a few directions
that hold most of what the keys are, and the length of the rest, every cosine has an upper bound (Cauchy and Schwarz), and only
entries whose bound passes the lowest gate are compared. The answer is the same, on any processor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.errors import ArtifactError, ConfigError, NumericalError
from editlab.randomness import torch_rng

_AT_ONCE = 1 << 22  # cosines held at once
_AUTOCASTS = ("cpu", "cuda", "mps", "xpu")

SIEVE_FROM = 1024
"""Entries from which on a sieve pays."""

_SIEVE_PART, _SIEVE_COST = 8, 4
"""Its directions are this part of the keys' numbers; making it costs this many comparisons with all keys a direction."""

_ROUNDING = 1e-5
"""More than float32 can take from a squared length, a bound or a cosine."""

_SAME = 3e-6
"""Keys nearer to one another than this are one key, computed twice: who answers must not turn on how each was rounded."""

_LISTED, _COMPARED, _TRIED = 256, 24, 256
"""Candidates an input, and comparisons an input, above which all keys are compared after all; and inputs after which the
average of their comparisons ends the sieve."""


@dataclasses.dataclass(frozen=True)
class StoredFact:
    """The name of an entry.

    Attributes:
        back: the entry takes the same one back, where a memory holds it, and says nothing by itself.
    """

    case_id: str
    subject: str
    relation: str
    target: str
    back: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """Of two facts with the same one the later takes the place of the earlier."""
        return (self.subject, self.relation)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a memory says to some inputs: whether one answers, and where one does which (the nearest, the first of several)."""

    index: Tensor
    fires: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """m facts at one map of ``(d_out, d_in)``, each of another subject or relation.

    Attributes:
        keys: (m, d_in) float32, unit rows.
        residuals: (m, d_out) float32.
        gates: (m,) float32 cosines.
        facts: m names.
        everywhere: it is read at every token; else at the last one of a prompt alone.
    """

    keys: Tensor
    residuals: Tensor
    gates: Tensor
    facts: tuple[StoredFact, ...]
    everywhere: bool = True

    def __post_init__(self) -> None:
        m = len(self.facts)
        if self.keys.shape[:1] != (m,) or self.residuals.shape[:1] != (m,) or self.gates.shape != (m,):
            raise ArtifactError(
                f"memory: {m} facts do not fit {len(self.keys)} keys and {len(self.residuals)} residuals"
            )

    @classmethod
    def empty(cls, d_out: int, d_in: int) -> Memory:
        """No facts."""
        return cls(torch.zeros(0, d_in), torch.zeros(0, d_out), torch.zeros(0), ())

    @classmethod
    def of(
        cls, keys: Tensor, residuals: Tensor, gate: float, facts: Sequence[StoredFact], *, everywhere: bool = True
    ) -> Memory:
        """Facts as columns: keys (d_in, n), residuals (d_out, n); of one that comes twice the last.

        Raises:
            NumericalError: a key is zero, or something is not finite.
        """
        unit = F.normalize(keys.double(), dim=0).T.float().contiguous()
        rows = residuals.T.float().contiguous()
        if not bool(unit.isfinite().all() and rows.isfinite().all() and (unit.norm(dim=1) > 0.5).all()):
            raise NumericalError("memory: a key is zero, or a key or residual is not finite")
        gates = torch.full((len(facts),), gate, dtype=torch.float32, device=rows.device)
        none = cls.empty(rows.shape[1], unit.shape[1]).to(device=rows.device)
        return none + cls(unit, rows, gates, tuple(facts), everywhere)

    @property
    def size(self) -> int:
        """Number of facts."""
        return len(self.facts)

    @property
    def parameters(self) -> int:
        """Numbers that are kept: keys, residuals and gates."""
        return self.keys.numel() + self.residuals.numel() + self.gates.numel()

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the map."""
        return self.residuals.shape[1], self.keys.shape[1]

    @functools.cached_property
    def live(self) -> Memory:
        """The entries that answer: without those that take one back."""
        return self._at([i for i, fact in enumerate(self.facts) if not fact.back])

    def __add__(self, other: Memory) -> Memory:
        """Both. A fact that is in both is the other's; an entry that takes back what is here goes, and takes it along.

        Raises:
            ConfigError: the memories belong to maps of other shapes, or are read at other places.
        """
        if self.shape != other.shape:
            raise ConfigError(f"memory: shapes {self.shape} and {other.shape} cannot be joined")
        if self.size and other.size and self.everywhere != other.everywhere:
            raise ConfigError(
                "memory: one is read at every token, the other at the prompt's end; they cannot be joined"
            )
        both = (self, other)
        rows = {fact.identity: (0, i) for i, fact in enumerate(self.facts)}
        for i, fact in enumerate(other.facts):
            held = rows.get(fact.identity)
            opposite = held is not None and both[held[0]].facts[held[1]].back != fact.back
            if held is not None and opposite and _same((both[held[0]], held[1]), (other, i)):
                del rows[fact.identity]
            elif held is None or not opposite or not fact.back:
                rows.pop(fact.identity, None)
                rows[fact.identity] = (1, i)
        kept = [part._at([i for k, i in rows.values() if k == number]) for number, part in enumerate(both)]
        device = self.keys.device
        keys, residuals, gates = (
            torch.cat([getattr(part, name).to(device) for part in kept]) for name in ("keys", "residuals", "gates")
        )
        everywhere = (other if other.size else self).everywhere
        return Memory(keys, residuals, gates, kept[0].facts + kept[1].facts, everywhere)

    def without(self, cases: Collection[str | tuple[str, str]]) -> Memory:
        """The memory without these facts, the others as they were, bit for bit.

        Args:
            cases: case ids, or (subject, relation) where a case id does not say which one is meant.

        Raises:
            ConfigError: a case is not stored, or more than one fact has its id.
        """
        gone = self._entries(cases)
        return self._at([i for i in range(self.size) if i not in gone])

    def _entries(self, cases: Collection[str | tuple[str, str]]) -> set[int]:
        named: dict[Any, list[int]] = {}
        for i, fact in enumerate(self.facts):
            named.setdefault(fact.case_id, []).append(i)
            named[fact.identity] = [i]
        for case in cases:
            if case not in named:
                raise ConfigError(f"memory: case {case!r} is not stored; {self.size} others are")
            if len(found := named[case]) > 1:
                one = self.facts[found[0]].identity
                raise ConfigError(
                    f"memory: case {case!r} is {len(found)} facts; name one by its subject and relation, e.g. {one}"
                )
        return {named[case][0] for case in cases}

    def read(self, inputs: Tensor) -> Reading:
        """Who answers to every input ``(..., d_in)``; there must be at least one entry. In float32, also under autocast."""
        with _without_autocast(inputs.device.type):
            unit = F.normalize(inputs.detach().float(), dim=-1).reshape(-1, inputs.shape[-1])
            index = torch.cat([self._nearest(part) for part in unit.split(max(1, _AT_ONCE // self.size))])
            fires = torch.linalg.vecdot(unit, self.keys[index]) > self.gates[index]
        return Reading(index.view(inputs.shape[:-1]), fires.view(inputs.shape[:-1]))

    def _nearest(self, unit: Tensor) -> Tensor:
        """The entry with the largest cosine of each row; any one where none passes its gate."""
        found = self._sieve.contenders(unit, self.keys, self._tally) if self._pays else None
        self._tally.rows += len(unit)
        if found is not None:
            rows, entries = found
            cosines = _of_pairs(torch.linalg.vecdot, unit, self.keys, rows, entries)
        else:
            products = unit @ self.keys.T
            best = products.amax(1)
            able = (best > self._least_gate - _ROUNDING).nonzero().squeeze(1)
            near, entries = (products[able] >= best[able, None] - _ROUNDING).nonzero(as_tuple=True)
            rows = able[near]
            cosines = products[rows, entries]
        return _first_of_nearest(unit, self.keys, rows, entries, cosines)

    @property
    def _pays(self) -> bool:
        """Whether comparisons have cost as much as a sieve by now. (Not on a GPU, where the product with all keys is quick.)"""
        worth = _SIEVE_COST * (min(self.keys.shape) // _SIEVE_PART)
        large = self.size >= SIEVE_FROM and self.keys.device.type == "cpu"
        return large and self._tally.rows > worth and not self._tally.in_vain

    @functools.cached_property
    def _tally(self) -> _Tally:
        """Beside the memory, not part of it: it decides how an answer is found, never which."""
        return _Tally()

    @functools.cached_property
    def _sieve(self) -> _Sieve:
        return _Sieve.of(self.keys, self._least_gate)

    @functools.cached_property
    def _least_gate(self) -> float:
        return float(self.gates.min())

    def apply(self, keys: Tensor) -> Tensor:
        """g (d_out, n) of keys (d_in, n): what the map gains there."""
        if not self.live.size:
            return keys.new_zeros(self.shape[0], keys.shape[1])
        found = self.live.read(keys.T)
        return torch.where(found.fires[:, None], self.live.residuals[found.index], 0.0).T.to(keys.dtype)

    def collisions(self, others: Memory | None = None) -> list[tuple[str, str]]:
        """(case, case of ``others``) of entries with an entry of another answer within their own gate, the nearest such.

        Args:
            others: by default this memory.
        """
        mine, theirs = self.live, (self if others is None else others).live
        if not mine.size or not theirs.size:
            return []
        numbers: dict[Any, int] = {}
        facts = [[numbers.setdefault(f.target, len(numbers)) for f in m.facts] for m in (mine, theirs)]
        targets, answers = (torch.tensor(f, device=mine.keys.device) for f in facts)
        found = []
        step = max(1, _AT_ONCE // theirs.size)
        for start in range(0, mine.size, step):
            rows = slice(start, start + step)
            cosines = mine.keys[rows] @ theirs.keys.T
            score, index = cosines.masked_fill_(targets[rows, None] == answers, -2.0).max(1)
            for i in (score > mine.gates[rows]).nonzero()[:, 0].tolist():
                found.append((mine.facts[start + i].case_id, theirs.facts[int(index[i])].case_id))
        return found

    def norm(self) -> float:
        """Frobenius norm of the residuals."""
        return float(self.live.residuals.double().norm())

    def scaled(self, scale: float) -> Memory:
        """The same facts, every residual multiplied."""
        return dataclasses.replace(self, residuals=self.residuals * scale)

    def inverse(self) -> Memory:
        """What takes these entries back. A fact that one of them had replaced does not come back by it."""
        return dataclasses.replace(self, facts=tuple(dataclasses.replace(f, back=not f.back) for f in self.facts))

    def to(self, *, device: torch.device | str) -> Memory:
        """The same memory on a device: itself, where it is there."""
        if self.keys.device == torch.device(device):
            return self
        moved = {name: getattr(self, name).to(device) for name in ("keys", "residuals", "gates")}
        return dataclasses.replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """``keys``, ``residuals`` and ``gates``, on the CPU; :attr:`facts` go beside them as :meth:`names`."""
        return {name: getattr(self, name).cpu() for name in ("keys", "residuals", "gates")}

    def names(self) -> list[dict[str, Any]]:
        """The facts, JSON-serialisable."""
        return [dataclasses.asdict(fact) for fact in self.facts]

    @classmethod
    def restored(
        cls, tensors: Mapping[str, Tensor], names: Sequence[Mapping[str, Any]], *, everywhere: bool = True
    ) -> Memory:
        """A memory from :meth:`tensors` and :meth:`names`.

        Raises:
            ArtifactError: they do not fit one another.
        """
        try:
            facts = tuple(StoredFact(**name) for name in names)
            return cls(tensors["keys"], tensors["residuals"], tensors["gates"], facts, everywhere)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"memory: damaged ({error})") from None

    def _at(self, index: Sequence[int]) -> Memory:
        if len(index) == self.size:
            return self
        at = torch.tensor(list(index), dtype=torch.long, device=self.keys.device)
        parts = {name: getattr(self, name)[at] for name in ("keys", "residuals", "gates")}
        return dataclasses.replace(self, **parts, facts=tuple(self.facts[i] for i in index))


@dataclasses.dataclass
class _Tally:
    """Inputs that a memory was asked, those of them that went through its sieve, and the pairs that were left to compare."""

    rows: int = 0
    sifted: int = 0
    left: int = 0

    @property
    def in_vain(self) -> bool:
        """Whether the keys are too close to one another for the sieve."""
        return self.sifted >= _TRIED and self.left > _COMPARED * self.sifted


@dataclasses.dataclass(frozen=True, eq=False)
class _Sieve:
    """Keys in d directions, for upper bounds of their cosines: the product of what two unit vectors are in these directions, and
    at most the product of the lengths of the rests.

    Attributes:
        directions: (d_in, d), orthonormal columns.
        keys: (d + 1, m): the keys in these directions, and the length of the rest.
        gate: no entry answers below it.
    """

    directions: Tensor
    keys: Tensor
    gate: float

    @classmethod
    def of(cls, keys: Tensor, gate: float) -> _Sieve:
        """Of keys (m, d_in), in directions that random mixtures of the keys span (Halko et al., arXiv 0909.4061): nearly the
        principal ones, at the price of two products. The bounds hold in any directions."""
        mixed = torch.randn(
            keys.shape[1], min(keys.shape) // _SIEVE_PART, generator=torch_rng("sieve"), dtype=keys.dtype
        )
        mixtures = keys.T @ (keys @ mixed)
        directions = torch.linalg.qr(mixtures.double()).Q.float()
        return cls(directions, _split(keys, directions).T.contiguous(), gate)

    def contenders(self, unit: Tensor, keys: Tensor, tally: _Tally) -> tuple[Tensor, Tensor] | None:
        """Rows and entries of pairs, of each row those that can be its nearest and pass the gate; None: there are too many.

        What a bound leaves is asked of the most promising one of a row first: its cosine rules out most of the others.
        """
        bounds = _split(unit, self.directions) @ self.keys
        flat = torch.from_numpy(np.flatnonzero((bounds > self.gate - _ROUNDING).numpy()))
        tally.sifted += len(unit)
        if len(flat) > _LISTED * len(unit):
            tally.left += len(flat)
            return None
        rows, entries, bound = flat // bounds.shape[1], flat % bounds.shape[1], bounds.view(-1)[flat]
        first = bound == _largest(bound, rows, len(unit))[rows]
        cosines = _of_pairs(torch.linalg.vecdot, unit, keys, rows[first], entries[first])
        can = bound >= _largest(cosines, rows[first], len(unit))[rows] - 2 * _ROUNDING
        rows, entries = rows[can], entries[can]
        tally.left += len(rows)
        return (rows, entries) if len(rows) <= _COMPARED * len(unit) else None


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Products in the precision of their factors; other kinds of devices have no autocast."""
    return torch.autocast(device, enabled=False) if device in _AUTOCASTS else contextlib.nullcontext()


def _of_pairs(
    ask: Callable[[Tensor, Tensor], Tensor], unit: Tensor, keys: Tensor, rows: Tensor, entries: Tensor
) -> Tensor:
    """What is asked of pairs of a row and a key, in pieces that fit the memory."""
    pieces = zip(*(x.split(max(1, _AT_ONCE // keys.shape[1])) for x in (rows, entries)), strict=True)
    return torch.cat([ask(unit.index_select(0, r), keys.index_select(0, e)) for r, e in pieces])


def _largest(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Of each row; -2 where it has none."""
    return values.new_full((count,), -2.0).scatter_reduce_(0, rows, values, "amax")


def _exact_cosines(unit: Tensor, keys: Tensor) -> Tensor:
    return F.cosine_similarity(unit.double(), keys.double())


def _first_of_nearest(unit: Tensor, keys: Tensor, rows: Tensor, entries: Tensor, cosines: Tensor) -> Tensor:
    """For each row the nearest of its candidates, the first one of those that are the same key; any one where it has none.

    Candidates whose float32 cosines differ by no more than rounding are compared in float64, where their order does not
    depend on how the products were computed.
    """
    close = cosines >= _largest(cosines, rows, len(unit))[rows] - _ROUNDING
    rows, entries = rows[close], entries[close]
    found = rows.new_full((len(unit),), len(keys) - 1).scatter_reduce_(0, rows, entries, "amin")
    several = torch.bincount(rows, minlength=len(unit))[rows] > 1
    if bool(several.any()):
        rows, entries = rows[several], entries[several]
        exact = _of_pairs(_exact_cosines, unit, keys, rows, entries)
        nearest = exact == _largest(exact, rows, len(unit))[rows]
        found.scatter_reduce_(0, rows[nearest], entries[nearest], "amin", include_self=False)
        twins = _of_pairs(_distances, keys[found], keys, rows, entries) < _SAME
        found.scatter_reduce_(0, rows[twins], entries[twins], "amin")
    return found


def _distances(one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.vector_norm(one - other, dim=1)


def _split(unit: Tensor, directions: Tensor) -> Tensor:
    """Unit rows (n, d_in) as (n, d + 1): what they are in some directions, and the length of the rest, never too short."""
    inside = unit @ directions
    rest = (1 - inside.square().sum(1)).clamp_min(0) + _ROUNDING
    return torch.cat([inside, rest.sqrt()[:, None]], 1)


def _same(one: tuple[Memory, int], other: tuple[Memory, int]) -> bool:
    (first, i), (second, j) = one, other
    return torch.equal(first.keys[i].cpu(), second.keys[j].cpu()) and torch.equal(
        first.residuals[i].cpu(), second.residuals[j].cpu()
    )
