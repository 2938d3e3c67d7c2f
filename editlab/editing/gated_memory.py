"""A memory in place of a change of the weight: what a session keeps, and what it tells of it.

*Where.* NeuralDB looks a fact up at the last token of its subject, so that all facts of a subject share a key and one of them
wins. At the last token of the *prompt* the key says the relation too; the residual then is what the answer starts from, and
there is one place a prompt where a lookup is needed (:mod:`editlab.networks.lookup`).

*Independence.* Targets, keys and residuals are found on the model without its memory, so that an entry depends on its own fact
alone: not on the batch, on what was put in before, or on the order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.linalg import Factors
from editlab.algebra.problem import Problem
from editlab.config.recipe import MemoryStorage
from editlab.data.requests import EditRequest
from editlab.editing.gate import Gate, calibrated_gate, token_keys
from editlab.editing.keys import Contexts
from editlab.networks.architectures import Architecture
from editlab.networks.lookup import Lookup, attach
from editlab.networks.memory import Memory, StoredFact


def stored_facts(requests: Sequence[EditRequest]) -> list[StoredFact]:
    """What a memory calls them."""
    return [StoredFact(r.case_id, *r.key, r.target_new) for r in requests]


class MemoryStore:
    """A memory a layer, on the device of its map, read by hooks on the model while it is attached; the weights never change.

    Args:
        gate: of every new entry.
        everywhere: the memory is read at every token.

    Attributes:
        memories: by layer.
    """

    def __init__(self, architecture: Architecture, layers: Sequence[int], gate: Gate, *, everywhere: bool) -> None:
        self.architecture, self.gate, self.everywhere = architecture, gate, everywhere
        self.memories = {
            layer: Memory.empty(*architecture.weight_shape(layer)).to(device=architecture.weight(layer).device)
            for layer in layers
        }
        self._shown: dict[int, tuple[Lookup, Memory]] = {}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """The model remembers what is stored, beside what it remembered before."""
        with contextlib.ExitStack() as stack:
            for layer in self.memories:
                lookup, detach = attach(self.architecture, layer)
                stack.callback(detach)
                stack.callback(setattr, lookup, "memory", lookup.memory)
                self._shown[layer] = (lookup, lookup.memory)
            stack.callback(self._shown.clear)
            self._show(self.memories)
            yield

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The model without what is stored here."""
        self._show({})
        try:
            yield
        finally:
            self._show(self.memories)

    def _show(self, memories: Mapping[int, Memory]) -> None:
        for layer, (lookup, before) in self._shown.items():
            lookup.memory = before + memories[layer] if layer in memories else before

    def entries(self, problem: Problem, requests: Sequence[EditRequest]) -> Memory:
        """The entries of a batch: its keys and residuals as they are."""
        facts = stored_facts(requests)
        return Memory.of(problem.keys, problem.residual, self.gate.value, facts, everywhere=self.everywhere)

    def add(
        self, layer: int, update: Any, problem: Problem | None = None, *, whole: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """Put entries in; facts that are there already are replaced. The event says how many and what collides."""
        old = self.memories[layer]
        self.restore({**self.memories, layer: old + update})
        new = self.memories[layer]
        found = {
            "facts": update.size,
            "update_norm": update.norm(),
            "entries": new.size,
            "replaced": old.size + update.size - new.size,
            "collisions": len(update.collisions(new)),
            "gate": self.gate.value,
        }
        return update, found

    def remember(self, layer: int, keys: Tensor) -> None:
        """Nothing to remember: entries do not see each other."""

    def total(self, layer: int) -> Factors | None:
        """No weight gained anything."""
        return None

    def snapshot(self) -> Any:
        """The state now."""
        return dict(self.memories)

    def restore(self, state: Any) -> None:
        """Back to a :meth:`snapshot`, bit for bit."""
        self.memories = dict(state)
        self._show(self.memories)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to save: the gate of new entries too, and names of facts as the bytes of their JSON."""
        found = {"memory.gate": torch.tensor(self.gate.value, dtype=torch.float64)}
        for layer, memory in self.memories.items():
            found |= {f"memory.{layer}.{name}": part for name, part in memory.tensors().items()}
            text = json.dumps(memory.names()).encode()
            found[f"memory.{layer}.names"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The state from :meth:`tensors`."""
        found = {}
        self.gate = dataclasses.replace(self.gate, value=float(tensors["memory.gate"]))
        for layer, empty in self.memories.items():
            part = {name: tensors[f"memory.{layer}.{name}"] for name in ("keys", "residuals", "gates", "names")}
            names = json.loads(bytes(part.pop("names").tolist()).decode())
            found[layer] = Memory.restored(part, names, everywhere=self.everywhere).to(device=empty.keys.device)
        self.restore(found)


def memory_store(
    model: torch.nn.Module,
    layers: Sequence[int],
    contexts: Contexts,
    options: MemoryStorage,
    facts: Sequence[EditRequest],
    texts: Sequence[str],
) -> MemoryStore:
    """An empty memory with its gate, the one of the options or calibrated (:func:`calibrated_gate` has the arguments)."""
    given = None if options.gate is None else Gate(options.gate)
    gate = given or calibrated_gate(model, layers[0], contexts, options, facts, texts)
    gate.warn_if_closed("memory")
    return MemoryStore(Architecture(model), layers, gate, everywhere=options.lookup != "prompt")


def firing_rate(model: torch.nn.Module, layer: int, memory: Memory, texts: Sequence[str]) -> float:
    """Share of the tokens of some texts at which a memory answers."""
    return float(memory.live.read(token_keys(model, layer, texts)).fires.double().mean()) if memory.live.size else 0.0


def memory_report(store: MemoryStore, model: torch.nn.Module, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What a table of metrics says about a memory: facts, gate, share of them that collide, firing rate on texts."""
    (layer, memory), *_ = store.memories.items()
    rows = [
        {"metric": "memory_facts", "value": float(memory.size), "n": memory.size},
        {"metric": "memory_gate", "value": store.gate.value, "n": 1},
    ]
    if memory.size:
        rows.append({"metric": "memory_collisions", "value": len(memory.collisions()) / memory.size, "n": memory.size})
    if texts and memory.size:
        rate = firing_rate(model, layer, memory, texts)
        rows.append({"metric": "memory_firing_neutral", "value": rate, "n": len(texts)})
    return rows
