"""How well edits hold as more edits follow: scores by the *age* of an edit.

The age of an edit at a snapshot is the number of edits made after its own batch. Gradual forgetting is a slope over
age; catastrophic forgetting is a fall of all ages at once, the newest included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from editlab.errors import ConfigError, DataError

COLUMNS = ["edits_seen", "age_low", "age_high", "n", "success", "accuracy", "immediate_success", "retained"]


def retention(
    frame_now: pd.DataFrame,
    inserted_at: Mapping[str, int],
    edits_seen: int,
    *,
    immediate: pd.DataFrame | None = None,
    bins: int | Sequence[int] = 10,
    probe: str = "rewrite",
) -> pd.DataFrame:
    """Retention by age at one snapshot.

    Args:
        frame_now: a frame of ``score_requests`` on the model as it is now; cases absent from ``inserted_at`` are left
            out (controls, edits not made).
        inserted_at: edits seen right after the batch of each case, so that age = ``edits_seen`` - ``inserted_at``.
        immediate: frame of the same kind scored right after each case's own batch; gives the last two columns.
        bins: number of equal bins over 0 .. edits_seen, or their ascending edges (an age on an edge opens a bin; the
            last edge is included; ages outside are left out).
        probe: probe set that counts.

    Returns:
        one row a non-empty bin, youngest first; columns edits_seen, age_low, age_high (half-open but for the last bin),
        n (cases), success and accuracy (means over cases), immediate_success (the same cases right after their edit),
        retained (share of the cases successful then that still are; a case is successful from 0.5). NaN where unknown.

    Raises:
        ConfigError: bins out of range or not ascending.
        DataError: a case was inserted after ``edits_seen``.
    """
    edges = _edges(bins, edits_seen)
    now = _case_means(frame_now, probe)
    now = now[now.index.isin(list(inserted_at))]
    age = edits_seen - now.index.map(inserted_at).to_numpy(dtype=np.int64)
    if (age < 0).any():
        case = now.index[int(np.argmin(age))]
        raise DataError(
            f"retention: case {case!r} was inserted at {inserted_at[case]}, after edits_seen = {edits_seen}"
        )
    before = _case_means(immediate, probe)["success"].reindex(now.index) if immediate is not None else np.nan
    now = now.assign(before=before, bin=np.searchsorted(edges, age, side="right") - 1, age=age)
    now.loc[now["age"] == edges[-1], "bin"] = len(edges) - 2
    now = now[(now["bin"] >= 0) & (now["bin"] < len(edges) - 1)]
    rows = []
    for index in range(len(edges) - 1):
        cases = now[now["bin"] == index]
        if cases.empty:
            continue
        scores = [cases[name].mean() for name in ("success", "accuracy", "before")]
        rows.append([edits_seen, edges[index], edges[index + 1], len(cases), *scores, _retained(cases)])
    return pd.DataFrame(rows, columns=COLUMNS)


def _retained(cases: pd.DataFrame) -> float:
    held = cases[cases["before"] >= 0.5]
    return float((held["success"] >= 0.5).mean()) if len(held) else float("nan")


def _case_means(frame: pd.DataFrame, probe: str) -> pd.DataFrame:
    """Success and accuracy of each case on one probe set, index case_id (sorted)."""
    chosen = frame[frame["probe"] == probe].sort_values(["case_id", "index"], kind="stable")
    return chosen.groupby("case_id")[["success", "accuracy"]].mean()


def _edges(bins: int | Sequence[int], edits_seen: int) -> list[int]:
    if isinstance(bins, int):
        if bins < 1:
            raise ConfigError(f"bins: {bins} is not allowed; at least 1")
        width = max(1, -(-edits_seen // bins))
        return list(range(0, max(edits_seen, 1) + width, width))
    edges = [int(edge) for edge in bins]
    if len(edges) < 2 or edges != sorted(set(edges)):
        raise ConfigError(f"bins: {list(bins)} is not allowed; two or more ascending ages")
    return edges
