"""How many facts are optimised at once: as many as the memory for targets holds.

What one evaluation of the loss keeps for its gradient grows with the tokens that it runs: 150 to 175 kB a token and block for
models of 1.5 to 8 billion parameters. It is measured here, on a few facts of the batch itself, and not modelled: families differ,
and so do contexts, vocabularies and the length of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

TOKENS_AT_ONCE = 8192
"""Suffix tokens of a chunk on the CPU, where the memory that is free now belongs to other jobs a moment later."""
SHARE = 0.8
"""Share of a GPU's free memory that ``auto`` takes; the rest is for what is computed and thrown away within a step."""


def budget_bytes(setting: int | Literal["auto"], device: torch.device) -> int | None:
    """Bytes for the targets of a chunk: the setting (in MB of 1e6 bytes), or a share of the device's free memory.

    Returns:
        None on a device whose free memory is not for one job to take: a chunk has :data:`TOKENS_AT_ONCE` tokens there.
    """
    if setting != "auto":
        return int(setting) * 10**6
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(SHARE * (free + unused))


def bytes_kept(evaluate: Callable[[], Tensor], beside: Iterable[Tensor], weights: Iterable[Tensor]) -> int:
    """Bytes that an evaluation keeps for its gradient, and those of the tensors that it starts from, each storage once.

    Args:
        evaluate: one evaluation of a loss.
        beside: tensors that live as long.
        weights: tensors that are there anyway and do not count.
    """
    known = {_place(tensor)[0] for tensor in weights}
    seen: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def note(tensor: Tensor) -> None:
        place, size = _place(tensor)
        if place not in known:
            seen[place] = size
            alive.append(tensor.detach())  # a graph that held the tensor itself would hold itself, for good

    with torch.autograd.graph.saved_tensors_hooks(note, _unread):
        evaluate()
    for tensor in beside:
        note(tensor)
    return sum(seen.values())


def _unread(_: None) -> Tensor:
    raise AssertionError("no gradient is computed where memory is measured")


def _place(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    failed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return failed or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def power_of_two(tokens: int) -> int:
    """The largest power of two that is no more: free memory varies, and what is computed should not."""
    return 1 << max(0, tokens.bit_length() - 1)
