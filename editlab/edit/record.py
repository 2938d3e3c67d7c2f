"""An edit as an object: low-rank factors per layer that can be applied, taken back, combined, saved and loaded."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editlab.architectures import Architecture
from editlab.artifacts import load_tensors, save_tensors
from editlab.errors import ArtifactError, ModelError
from editlab.hooks import restored
from editlab.linalg import Factors

_FORMAT = "editlab-edit-1"


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of the edited maps, ``W -> W + delta(layer)`` for each of its layers.

    Attributes:
        factors: by layer, the update as ``left (d_out, r) @ right (r, d_in)``, float64.
        info: how it was made (method, hyper-parameters, cases, diagnostics); JSON-serialisable.
    """

    factors: Mapping[int, Factors]
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        return sorted(self.factors)

    def delta(self, layer: int) -> Tensor:
        """The update of one layer as a dense ``(d_out, d_in)`` float64 tensor.

        Raises:
            KeyError: the edit does not touch the layer.
        """
        return self.factors[layer].dense()

    def norm(self) -> float:
        """Frobenius norm of the whole change."""
        return sum(f.norm() ** 2 for f in self.factors.values()) ** 0.5

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The edited model inside the block; on leaving, also by an exception, its weights are back bit for bit.

        Raises:
            ModelError: a layer is missing in the model or has another shape.
        """
        weights = self._weights(model)
        with restored(weights):
            commit(weights, self.factors)
            yield model

    def apply_(self, model: nn.Module) -> nn.Module:
        """Edit the model in place for good (to save or serve it); keep a copy if you want to go back."""
        commit(self._weights(model), self.factors)
        return model

    def _weights(self, model: nn.Module) -> dict[int, Tensor]:
        architecture = Architecture(model)
        if self.factors:
            architecture.check_layers(self.layers)
        for layer, factors in self.factors.items():
            if factors.shape != architecture.weight_shape(layer):
                raise ModelError(
                    f"edit of layer {layer} has shape {factors.shape}; "
                    f"the model's map has {architecture.weight_shape(layer)}"
                )
        return {layer: architecture.weight(layer) for layer in self.factors}

    def inverse(self) -> Edit:
        """The edit that takes this one back."""
        return Edit({k: f.scaled(-1.0) for k, f in self.factors.items()}, {"inverse_of": dict(self.info)})

    def scaled(self, scale: float) -> Edit:
        """The edit with its update multiplied by ``scale``."""
        return Edit({k: f.scaled(scale) for k, f in self.factors.items()}, {**self.info, "scale": scale})

    def __add__(self, other: Edit) -> Edit:
        """Both changes at once; ranks add up until they reach the size of the map, then they are recompressed."""
        layers = sorted({*self.factors, *other.factors})
        parts = {k: [e.factors[k] for e in (self, other) if k in e.factors] for k in layers}
        return Edit(
            {k: compact(Factors.concatenate(p)) for k, p in parts.items()},
            {"sum_of": [dict(self.info), dict(other.info)]},
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: factors by layer, ``info`` as metadata."""
        tensors = {}
        for layer, factors in self.factors.items():
            tensors[f"{layer}.left"], tensors[f"{layer}.right"] = factors.left, factors.right
        save_tensors(path, tensors, {"format": _FORMAT, "info": dict(self.info)})

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
            factors = {k: Factors(tensors[f"{k}.left"], tensors[f"{k}.right"]) for k in layers}
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: damaged edit ({error})") from None
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise ArtifactError(f"{path}: damaged edit (NaN or infinite values)")
        return cls(factors, metadata.get("info", {}))


def compact(factors: Factors) -> Factors:
    """The same update with at most min(d_out, d_in) columns: keeps the memory of a long stream flat."""
    return factors.compressed() if factors.rank > min(factors.shape) else factors


def commit(weights: Mapping[int, Tensor], updates: Mapping[int, Factors]) -> None:
    """Add updates to weights in place; the sum is formed in float64 and rounded once to the model's type."""
    with torch.no_grad():
        for layer, factors in updates.items():
            if factors.rank:
                weight = weights[layer]
                weight.copy_(weight.double() + factors.to(device=weight.device).dense())
