"""Seeds derived from coordinates and thread counts: never from time, order of jobs or process id."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*coordinates: object) -> int:
    """A seed in [0, 2**31) that depends on the coordinates alone, e.g. ``derive_seed("cell", "memit", 32, 1)``."""
    text = "\x1f".join(repr(c) for c in coordinates)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def python_rng(*coordinates: object) -> random.Random:
    """A private Python generator for the coordinates."""
    return random.Random(derive_seed(*coordinates))


def torch_rng(*coordinates: object, device: str = "cpu") -> torch.Generator:
    """A private torch generator for the coordinates."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*coordinates))


@contextlib.contextmanager
def seeded_dropout(device: torch.device, *coordinates: object) -> Iterator[None]:
    """Inside the block torch's global generators, from which dropout draws, start at the coordinates' seed; on leaving
    they are as before."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(*coordinates))
        yield


def set_threads(threads: int) -> None:
    """Let torch use ``threads`` threads in this process: the thread count of the rule, not of the machine."""
    import torch

    torch.set_num_threads(max(1, int(threads)))
