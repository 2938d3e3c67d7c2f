"""What was found, in sentences that the numbers write.

A finding has its direction and interval from the data; where an interval includes zero, or overlaps, the sentence says so
and ``supported`` is False. Only tables that are there are looked at, so a smaller study has fewer findings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from editlab.analysis.findings import costs, guarded, matrix
from editlab.analysis.findings.base import Finding

Tables = Mapping[str, pd.DataFrame]
MAKERS: tuple[Callable[[Tables], list[Finding]], ...] = (
    matrix.best_methods,
    matrix.control_findings,
    matrix.batch_findings,
    matrix.replay_findings,
    matrix.forgetting_findings,
    guarded.replay_ablation_findings,
    guarded.long_stream_findings,
    guarded.lora_findings,
    guarded.trust_findings,
    guarded.greedy_findings,
    guarded.retraining_findings,
    costs.cost_findings,
    costs.speed_findings,
)


def findings(tables: Tables) -> list[dict[str, object]]:
    """All findings of the tables that are there, as JSON values (an unknown number is None)."""
    rows = [finding for maker in MAKERS for finding in maker(tables)]
    return [{k: _json(v) for k, v in finding.as_dict().items()} for finding in rows]


def _json(value: object) -> object:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value
