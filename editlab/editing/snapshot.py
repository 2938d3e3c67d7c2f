"""The state of a proposer at one moment, so that a batch can be taken back bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from editlab.algebra.curvature import CurvatureSums
from editlab.algebra.normaliser import Normaliser


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The maps, what the store keeps of them, and what is known of the rows and facts of the stream, at one moment."""

    weights: dict[int, Tensor]
    stored: Any
    normalisers: dict[int, Normaliser]
    facts_curvature: dict[int, CurvatureSums]


def put_back(weights: Mapping[int, Tensor], values: Mapping[int, Tensor]) -> None:
    """Write values into weights, bit for bit."""
    with torch.no_grad():
        for layer, weight in weights.items():
            weight.copy_(values[layer])
