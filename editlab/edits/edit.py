"""An edit as an object: low-rank factors or a memory per layer, applied, taken back, combined, saved and loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editlab.algebra.linalg import Factors, compact
from editlab.algebra.merging import merge
from editlab.errors import ArtifactError, ConfigError, ModelError, NumericalError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.networks.architectures import Architecture
from editlab.networks.hooks import restored
from editlab.networks.lookup import attach, check_shapes, remembering
from editlab.networks.memory import Memory
from editlab.networks.precision import HALF, energy_lost

logger = logging.getLogger(__name__)

_FORMAT = "editlab-edit-1"
TOLERATED_LOSS = 0.01
"""Share of an edit's energy that rounding to half precision may lose without a warning."""


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of the edited maps: ``W -> W + delta(layer)``, or facts that are read beside a map, for each of its layers.

    Attributes:
        factors: by layer, the update as ``left (d_out, r) @ right (r, d_in)``, float64.
        info: how it was made (method, hyper-parameters, cases, diagnostics); JSON-serialisable.
        memory: by layer, facts as keys and residuals; ``edit.memory[layer].facts`` lists them.
    """

    factors: Mapping[int, Factors]
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    memory: Mapping[int, Memory] = dataclasses.field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        return sorted({*self.factors, *self.memory})

    def delta(self, layer: int) -> Tensor:
        """The update of one layer as a dense ``(d_out, d_in)`` float64 tensor.

        Raises:
            KeyError: the edit does not change the layer's weight.
        """
        if layer not in self.factors:
            kept = "; it keeps facts in memory" if layer in self.memory else ""
            raise KeyError(
                f"layer {layer}: the edit does not change its weight{kept}; it changes {sorted(self.factors)}"
            )
        return self.factors[layer].dense()

    def norm(self) -> float:
        """Frobenius norm of the whole change."""
        weights = sum(f.norm() ** 2 for f in self.factors.values())
        return (weights + sum(m.norm() ** 2 for m in self.memory.values())) ** 0.5

    @property
    def parameters(self) -> int:
        """Numbers that it keeps: the thinner of factors and dense matrix, or keys, residuals and gates, of all layers."""
        shapes = [(f.rank, *f.shape) for f in self.factors.values()]
        weights = sum(min(rank * (d_out + d_in), d_out * d_in) for rank, d_out, d_in in shapes)
        return weights + sum(m.parameters for m in self.memory.values())

    def without(self, cases: Collection[str | tuple[str, str]]) -> Edit:
        """The edit without some facts of its memory; the others stay as they are, bit for bit.

        Args:
            cases: case ids, or (subject, relation) where several edits were added up whose facts have ids in common.

        Raises:
            ConfigError: a case is in no memory of the edit, or its id is that of more than one fact.
        """
        held = {k: {name for f in m.facts for name in (f.case_id, f.identity)} for k, m in self.memory.items()}
        if missing := [case for case in cases if not any(case in names for names in held.values())]:
            number = len({f.identity for m in self.memory.values() for f in m.facts})
            raise ConfigError(f"case {missing[0]!r} is in no memory of the edit; {number} others are")
        fewer = {k: m.without([case for case in cases if case in held[k]]) for k, m in self.memory.items()}
        return dataclasses.replace(self, memory=fewer)

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The edited model inside the block; on leaving, also by an exception, its weights are back bit for bit.

        Raises:
            ModelError: the model is of another kind, a layer is missing in it or has another shape.
            NumericalError: an edited weight is not finite in the model's type.
        """
        weights = self._weights(model)
        with restored(weights), remembering(Architecture(model), self.memory):
            commit(weights, self.factors)
            yield model

    def apply_(self, model: nn.Module) -> nn.Module:
        """Edit the model in place for good (to save or serve it); keep a copy if you want to go back. A memory is a hook on this
        object: the model's own files do not hold it, those of :meth:`save` do."""
        commit(self._weights(model), self.factors)
        for layer, memory in self.memory.items():
            lookup, _ = attach(Architecture(model), layer)
            lookup.memory = lookup.memory + memory
        return model

    def _weights(self, model: nn.Module) -> dict[int, Tensor]:
        architecture = Architecture(model)
        if self.layers:
            architecture.check_maps(self.layers)
            self._check_kind(architecture)
        check_shapes(architecture, self.memory)
        for layer, factors in self.factors.items():
            if factors.shape != architecture.weight_shape(layer):
                raise ModelError(
                    f"edit of layer {layer} has shape {factors.shape}; "
                    f"the model's map has {architecture.weight_shape(layer)}"
                )
        return {layer: architecture.weight(layer) for layer in self.factors}

    def _check_kind(self, architecture: Architecture) -> None:
        """Maps of another kind of model may have the same shape, and are not the same maps."""
        from editlab.edits.peft import peft_target

        mine = _kind(self.info.get("target"))
        theirs = _kind(peft_target(architecture, self.layers)) if mine else ""
        if mine and not theirs.endswith(mine) and not mine.endswith(theirs):  # a wrapped model has longer names
            raise ModelError(f"the edit changes {mine}; the model's maps are called {theirs}")

    def inverse(self) -> Edit:
        """The edit that takes this one back."""
        info = {"inverse_of": dict(self.info), "target": self.info.get("target")}
        memory = {k: m.inverse() for k, m in self.memory.items()}
        return Edit({k: f.scaled(-1.0) for k, f in self.factors.items()}, info, memory)

    def scaled(self, scale: float) -> Edit:
        """The edit with its update multiplied by ``scale``."""
        memory = {k: m.scaled(scale) for k, m in self.memory.items()}
        return Edit({k: f.scaled(scale) for k, f in self.factors.items()}, {**self.info, "scale": scale}, memory)

    def __add__(self, other: Edit) -> Edit:
        """Both changes at once; ranks add up until they reach the size of the map, then they are recompressed.

        Raises:
            ModelError: the edits are of different models.
        """
        return Edit.merge([self, other], [1.0, 1.0])  # of a fact in both memories, the other's entry stays

    @staticmethod
    def merge(edits: Sequence[Edit], weights: Sequence[float], **options: Any) -> Edit:
        """One edit from several by a rule of :func:`editlab.algebra.merging.merge`; by default their weighted sum.

        Args:
            options: rule, space, rank, density and generator, as there.

        Raises:
            ConfigError: ranks that a rule cannot join, an unknown rule, or one for memories, which have none but the sum.
            ModelError: the edits are of different models.
        """
        for other in edits[1:]:
            _check_same_model(edits[0], other)
        memories = _joined_memories(edits, weights, options)
        merged = merge([edit.factors for edit in edits], weights, **options)
        target = functools.reduce(_joined, [edit.info.get("target") for edit in edits])
        info = {"sum_of": [dict(edit.info) for edit in edits], "target": target}
        if options or any(weight != 1 for weight in weights):
            chosen = {k: v for k, v in options.items() if k != "generator"}
            info |= {"weights": list(weights), "merged_by": chosen}
        return Edit({k: compact(merged[k]) for k in sorted(merged)}, info, memories)

    def to_peft(self, directory: str | Path, model: nn.Module | None = None) -> None:
        """Write the edit as a PEFT adapter (``adapter_config.json``, ``adapter_model.safetensors``).

        ``PeftModel.from_pretrained(unedited_model, directory)`` then gives the edited model.

        Args:
            model: names the modules; needed only for an edit that was not made by a session.

        Raises:
            ConfigError: the edit changes nothing, or does not know its model.
            ModelError: a layer is missing in the model or has another shape.
        """
        from editlab.edits.peft import peft_target, write_peft

        if self.memory:
            raise ConfigError("to_peft: the edit is a memory, and an adapter cannot hold one; save the edit itself")
        if model is not None:
            self._weights(model)
        target = self.info.get("target") if model is None else peft_target(Architecture(model), self.layers)
        if target is None:
            raise ConfigError("to_peft: the edit does not name the modules of its model; give the model")
        write_peft(self.factors, directory, target)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: factors and memories by layer, ``info`` and the names of facts as metadata."""
        tensors = {}
        for layer, factors in self.factors.items():
            tensors[f"{layer}.left"], tensors[f"{layer}.right"] = factors.left, factors.right
        for layer, memory in self.memory.items():
            tensors |= {f"{layer}.{name}": part for name, part in memory.tensors().items()}
        header: dict[str, Any] = {"format": _FORMAT, "info": dict(self.info)}
        if self.memory:
            header["facts"] = {str(k): memory.names() for k, memory in self.memory.items()}
            header["everywhere"] = [k for k, memory in self.memory.items() if memory.everywhere]
        save_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Edit:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: missing, damaged or another kind of file.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise ArtifactError(f"{path}: not an edit (format {metadata.get('format')!r}, expected {_FORMAT!r})")
        try:
            layers = sorted({int(name.split(".")[0]) for name in tensors})
            facts = {int(k): names for k, names in metadata.get("facts", {}).items()}
            factors = {
                k: Factors(tensors[f"{k}.left"], tensors[f"{k}.right"])
                for k in layers
                if k not in facts or f"{k}.left" in tensors
            }
            everywhere = metadata.get("everywhere", list(facts))
            memory = {
                k: Memory.restored(_part(tensors, k), names, everywhere=k in everywhere) for k, names in facts.items()
            }
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: damaged edit ({error})") from None
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise ArtifactError(f"{path}: damaged edit (NaN or infinite values)")
        return cls(factors, metadata.get("info", {}), memory)


def _part(tensors: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    return {name.split(".")[1]: part for name, part in tensors.items() if name.split(".")[0] == str(layer)}


def _joined_memories(edits: Sequence[Edit], weights: Sequence[float], options: Mapping[str, Any]) -> dict[int, Memory]:
    """By layer, the facts of all memories, the later ones last."""
    found: dict[int, Memory] = {}
    for edit, weight in zip(edits, weights, strict=True):
        for layer, memory in edit.memory.items():
            if options:
                raise ConfigError("merge: memories have no rule but the plain sum")
            own = memory if weight == 1 else memory.scaled(weight)
            found[layer] = found[layer] + own if layer in found else own
    return found


def _check_same_model(one: Edit, other: Edit) -> None:
    for layer in sorted({*one.factors} & {*other.factors}):
        first, second = one.factors[layer].shape, other.factors[layer].shape
        if first != second:
            raise ModelError(
                f"edits of different models cannot be added: layer {layer} has shape {first} in one, {second} in the other"
            )
    for what, mine, theirs in zip(("model", "kind"), _origin(one), _origin(other), strict=True):
        if mine and theirs and mine != theirs:
            raise ModelError(
                f"edits of different models cannot be added: the {what} of one is {mine}, of the other {theirs}"
            )


def _origin(edit: Edit) -> tuple[str, str]:
    """(base model, what its edited maps are called) as far as an edit knows them."""
    target = edit.info.get("target") or {}
    return target.get("base_model") or "", _kind(target)


def _kind(target: Mapping[str, Any] | None) -> str:
    """What edited maps are called, without the numbers of their layers; empty where it is not known."""
    names = {re.sub(r"\d+", "#", name) for name in (target or {}).get("modules", {}).values()}
    return ", ".join(sorted(names))


def _joined(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The modules that both targets name; None where one is not known."""
    if first is None or second is None:
        return None
    return {**first, "modules": {**first["modules"], **second["modules"]}}


def commit(weights: Mapping[int, Tensor], updates: Mapping[int, Factors]) -> dict[int, float]:
    """Add updates to weights in place, all or none; the sum is formed in float64 and rounded once to the model's type.

    Returns:
        by layer of half precision, the share of the update's energy that rounding lost (a line is logged above 1 %).

    Raises:
        NumericalError: an edited weight is not finite in the model's type; no weight was changed.
    """
    edited, lost = {}, {}
    for layer, factors in updates.items():
        if factors.rank:
            weight = weights[layer]
            exact = factors.to(device=weight.device).dense().double() + weight
            edited[layer] = exact.to(weight.dtype)
            if weight.dtype in HALF:
                lost[layer] = energy_lost(weight.double(), exact, weight.dtype)
            if not bool(edited[layer].isfinite().all()):
                raise NumericalError(f"layer {layer}: the edited weight holds NaN or infinite values in {weight.dtype}")
    with torch.no_grad():
        for layer, value in edited.items():
            weights[layer].copy_(value)
    if max(lost.values(), default=0.0) > TOLERATED_LOSS:
        half = next(iter(edited.values())).dtype
        logger.warning("%.1f %% of the edit's energy is lost in %s", 100 * max(lost.values()), half)
    return lost
