"""What an edited model costs to read: CPU time of scoring the same prompts with it and with the unedited one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from editlab.evaluation.scoring import score_targets

ROUNDS = 9


def scoring_seconds(model: Any, pairs: Sequence[tuple[str, str]], rounds: int = ROUNDS) -> float:
    """CPU seconds of scoring (prompt, target) pairs: the least of some rounds, after one that warms up."""
    score_targets(model, pairs)
    times = []
    for _ in range(rounds):
        start = time.process_time()
        score_targets(model, pairs)
        times.append(time.process_time() - start)
    return min(times)
