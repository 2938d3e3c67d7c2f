"""The state of a session in the middle of a stream, as one file: what a killed run needs to go on as if undisturbed.

Everything that later batches depend on is in it: the edited weights bit for bit, the store (updates or adapters), the
keys and the curvature of earlier batches, null spaces, normalisers, the replay buffer, what trust remembers, and the
events. Draws depend on seeds and batch numbers alone, so there is no generator to save. Tensors and one JSON header share
a safetensors file, written atomically.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from editlab.algebra.curvature import CurvatureSums
from editlab.algebra.history import histories_in
from editlab.algebra.normaliser import Normaliser
from editlab.algebra.second_moment import SecondMoment
from editlab.data.requests import EditRequest
from editlab.editing.events import Event
from editlab.editing.probes import Damage
from editlab.editing.replay import ReplayItem
from editlab.editing.snapshot import put_back
from editlab.errors import ArtifactError
from editlab.files.artifacts import load_tensors, save_tensors

if TYPE_CHECKING:
    from editlab.editing.session import EditSession

_FORMAT = "editlab-session-2"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A session in the middle of a stream, detached from it.

    Attributes:
        tensors: by name.
        facts: the rest, JSON-serialisable; ``identity`` says to which run it belongs.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @classmethod
    def capture(cls, session: EditSession, extra: Mapping[str, Any] | None = None) -> Checkpoint:
        """The state now, with ``extra`` (JSON-serialisable) kept for the caller."""
        tensors = {f"weight.{k}": w.clone() for k, w in session.weights.items()}
        for layer, history in session.proposer.history.items():
            tensors |= {f"history.{layer}.{name}": part for name, part in history.tensors().items()}
        for layer, normaliser in session.proposer.normalisers.items():
            tensors |= {f"normaliser.{layer}.{name}": part for name, part in normaliser.tensors().items()}
        for layer, sums in session.proposer.facts_curvature.items():
            tensors |= {f"curvature.{layer}.{name}": part for name, part in sums.tensors().items()}
        for layer, space in session.proposer.spaces.items():
            tensors |= {f"space.{layer}.matrix": space.matrix, f"space.{layer}.count": torch.tensor(space.count)}
        tensors |= {f"store.{k}": t for k, t in session.proposer.store.tensors().items()}
        items = list(session.buffer.items.values())
        tensors |= {f"replay.{i}": item.target for i, item in enumerate(items) if item.target is not None}
        monitor = session.guard.monitor
        if monitor is not None and monitor.damage_now is not None:
            arrays = dataclasses.asdict(monitor.damage_now)
            tensors |= {f"damage.{k}": torch.from_numpy(v) for k, v in arrays.items()}
        facts = {
            "format": _FORMAT,
            "identity": identity(session),
            "events": [event.record() for event in session.events],
            "edited": [r.to_record() for r in session.edited],
            "replay": [_item(item) for item in items],
            "scores": [] if monitor is None else monitor.scores,
            "seconds": {"wall": session.stopwatch.wall, "cpu": session.stopwatch.cpu},
            "extra": dict(extra or {}),
        }
        return cls(tensors, facts)

    def restore(self, session: EditSession) -> Mapping[str, Any]:
        """Bring an entered, unedited session into this state; returns what was kept as ``extra``.

        Raises:
            ArtifactError: the state belongs to another run; names what differs.
        """
        wanted = identity(session)
        different = [k for k in wanted if self.facts["identity"].get(k) != wanted[k]]
        if different:
            raise ArtifactError(f"checkpoint: made by another run (differs in {', '.join(different)}); delete it")
        put_back(session.weights, {k: self.tensors[f"weight.{k}"] for k in session.weights})
        earlier = histories_in(self.tensors, "history")
        session.proposer.history.update({k: h.to(session.weights[k].device) for k, h in earlier.items()})
        session.proposer.normalisers.update(self._normalisers(session))
        session.proposer.facts_curvature.update(self._facts_curvature(session))
        session.proposer.spaces.update(self._spaces(session))
        session.proposer.store.load(self._part("store"))
        session.buffer.items = {item.request.key: item for item in self._replay()}
        session.edited[:] = [EditRequest.from_record(r, "checkpoint") for r in self.facts["edited"]]
        session.proposer.remembered = len(session.edited)
        session.events[:] = [Event.model_validate(event) for event in self.facts["events"]]
        session.stopwatch.wall.update(self.facts["seconds"]["wall"])
        session.stopwatch.cpu.update(self.facts["seconds"]["cpu"])
        monitor, damage = session.guard.monitor, self._part("damage")
        if monitor is not None:
            monitor.scores = list(self.facts["scores"])
            monitor.damage_now = Damage(**{k: t.numpy() for k, t in damage.items()}) if damage else None
        return dict(self.facts["extra"])

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, self.tensors, self.facts)

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: missing, damaged or another kind of file.
        """
        tensors, facts = load_tensors(path)
        if facts.get("format") != _FORMAT:
            raise ArtifactError(f"{path}: not a session checkpoint; delete it and rerun")
        return cls(tensors, facts)

    def _part(self, name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}."): t for k, t in self.tensors.items() if k.startswith(f"{name}.")}

    def _normalisers(self, session: EditSession) -> dict[int, Normaliser]:
        parts = {k: self._part(f"normaliser.{k}") for k in session.layers}
        return {k: Normaliser.of_tensors(part, session.weights[k].device) for k, part in parts.items() if part}

    def _facts_curvature(self, session: EditSession) -> dict[int, CurvatureSums]:
        parts = {k: self._part(f"curvature.{k}") for k in session.layers}
        return {k: CurvatureSums.of_tensors(part, session.weights[k].device) for k, part in parts.items() if part}

    def _spaces(self, session: EditSession) -> dict[int, SecondMoment]:
        parts = {k: self._part(f"space.{k}") for k in session.layers}
        device = {k: session.weights[k].device for k in session.layers}
        return {k: SecondMoment(part["matrix"].to(device[k]), int(part["count"])) for k, part in parts.items() if part}

    def _replay(self) -> list[ReplayItem]:
        targets = self._part("replay")
        return [
            ReplayItem(
                EditRequest.from_record(item["request"], "checkpoint"),
                targets.get(str(i)),
                item["strength"],
                item["inserted_at"],
                item["used_at"],
            )
            for i, item in enumerate(self.facts["replay"])
        ]


def identity(session: EditSession) -> dict[str, Any]:
    """What two runs must share for a state to pass from one to the other."""
    digest = hashlib.sha256()
    for layer in session.layers:
        digest.update(np.ascontiguousarray(session.originals[layer].float().cpu().numpy()).tobytes())
    return {
        "recipe": session.recipe.model_dump(mode="json"),
        "layers": session.layers,
        "contexts": [list(group) for group in session.proposer.contexts],
        "replay": session.replay,
        "rank": session.rank,
        "seed": session.seed,
        "probes": [] if session.guard.monitor is None else [r.case_id for r in session.guard.monitor.probes],
        "model": digest.hexdigest()[:16],
        "relations": {k: list(v) for k, v in session.proposer.relations.templates.items()} or None,
    }


def _item(item: ReplayItem) -> dict[str, Any]:
    return {
        "request": item.request.to_record(),
        "strength": item.strength,
        "inserted_at": item.inserted_at,
        "used_at": item.used_at,
    }
