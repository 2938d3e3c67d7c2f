"""A training run in the middle, as one file: what a killed run needs to go on as if undisturbed.

Weights, the state of the optimisers and that of the generator of rows are in it bit for bit, so that on the CPU a run
that was interrupted ends with the weights of an undisturbed one. The file names the run that it belongs to; another
run's file, or a damaged one, is ignored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from editlab.errors import ArtifactError
from editlab.files.artifacts import load_tensors, save_tensors

logger = logging.getLogger(__name__)

_FORMAT = "editlab-training-1"


@dataclasses.dataclass(frozen=True)
class Partial:
    """Where a run saves itself.

    Attributes:
        path: the file; the caller removes it once the result is written.
        run: checksum of all that the run depends on.
    """

    path: Path
    run: str

    @classmethod
    def of(cls, path: str | Path, *made_of: Any) -> Partial:
        """``made_of``: JSON-serialisable values that decide the weights."""
        text = json.dumps([_FORMAT, *made_of], sort_keys=True)
        return cls(Path(path), hashlib.sha256(text.encode()).hexdigest())

    def save(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], facts: Mapping[str, Any]) -> None:
        """Write the state now; ``facts`` (JSON-serialisable) come back from :meth:`load`."""
        tensors = {f"weight.{name}": p for name, p in model.named_parameters()}
        for i, optimizer in enumerate(optimizers):
            for j, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{name}": value for name, value in values.items()}
        save_tensors(self.path, tensors, {"run": self.run, **facts})

    def load(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any] | None:
        """Bring model and optimisers into the saved state; what was saved as ``facts``, or None where nothing is of use."""
        if not self.path.is_file():
            return None
        try:
            tensors, facts = load_tensors(self.path)
        except ArtifactError as error:
            logger.warning("%s; training starts anew", error)
            return None
        if facts.pop("run", None) != self.run:
            return None
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"weight.{name}"])
        states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, i, j, name = key.split(".")
                states[int(i)].setdefault(int(j), {})[name] = value
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return facts
