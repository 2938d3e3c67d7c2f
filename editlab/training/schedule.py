"""The rate of a training step: a linear rise, a plateau, a linear fall to zero."""

from __future__ import annotations


def trapezoid(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak rate at ``step`` (from 0): it rises over the share ``warmup`` and falls over the last ``decay``."""
    rise = (step + 1) / max(1.0, warmup * steps)
    fall = (steps - step) / max(1.0, decay * steps)
    return min(rise, fall, 1.0)
