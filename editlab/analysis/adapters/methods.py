"""Every method in one row: scores with intervals over tasks and seeds, deltas, gain, tasks won, likeness of its adapters."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from editlab.analysis.adapters.scores import documents, joined, means, over_tasks
from editlab.analysis.report.run import Run
from editlab.analysis.statistics.intervals import records

MERGED = re.compile(r"B2b (.+), k = (\d+), (\w+)")
HIDDEN = r"softmax|k = 3|text, k = 1|delta \(oracle"  # in the figure and the printed table: near copies of other rows
RIVALS = ("best single (oracle)", "nearest by text")
KINDS = {"generator": "generated", "shuffled": "control", "retrieval": "retrieved", "reference": "rival"}
# The methods that the literature sets side by side, as its names go.
NAMES = {
    "coefficients, weights": "linear, weights (ridge)",
    "coefficients, both": "linear, weights and deltas",
    "coefficients, deltas": "linear, deltas (B1)",
    "hyperconvolution, weights": "convolution, weights (DnD)",
    "hyperconvolution, both": "convolution, weights and deltas",
    "hyperconvolution, deltas": "convolution, deltas (B1)",
    "B2a": "unlabelled adapter by delta (B2a)",
    "B2w": "sum that has the delta (B2w)",
}


def methods_table(run: Run) -> pd.DataFrame:
    """One row a split and method: exact match and letters with intervals, deltas, share of the teachers' gain, tasks won,
    and for generators how alike their adapters are."""
    scores = joined(run, "adapter_scores")
    frame = means(scores, ["split", "group", "method"])
    frame["gain"] = [_share(scores, row) for row in records(frame)]
    frame["won"] = [_won(scores, row) for row in records(frame)]
    checks = pd.DataFrame(documents(run, "checks"))
    if "likeness" in checks:
        checks["method"] = checks["decoder"] + ", " + checks["supervision"]
        alike = checks.groupby(["split", "method"])["likeness"].mean().reset_index().assign(group="generator")
        frame = frame.merge(alike, on=["split", "group", "method"], how="left")
    order = {name: place for place, name in enumerate(KINDS)}
    return frame.sort_values(["split", "group"], key=lambda c: c.map(order) if c.name == "group" else c, kind="stable")


def shown(row: dict[str, Any]) -> str:
    """The name of a method in figures and tables."""
    method = str(row["method"])
    if merged := MERGED.fullmatch(method):
        query, k, weighing = merged.groups()
        count = "" if k == "1" else f"{k} "
        return f"{count}nearest by {query}{'' if weighing == 'uniform' else f', {weighing}'} (B2b)"
    name = NAMES.get(method, method)
    return f"{name}, shuffled" if row["group"] == "shuffled" else name


def _share(table: pd.DataFrame, row: dict[str, Any]) -> float:
    """Gain over the base as a share of the teachers', on the seeds that the method has."""
    split = table[table["split"] == row["split"]]
    own = split[(split["group"] == row["group"]) & (split["method"] == row["method"])]
    rivals = split[(split["group"] == "reference") & split["seed"].isin(own["seed"])]
    base, teacher = (over_tasks(rivals[rivals["method"] == m], "exact").value for m in ("base", "teacher"))
    return float((row["exact"] - base) / (teacher - base)) if teacher > base else float("nan")


def _won(table: pd.DataFrame, row: dict[str, Any]) -> float:
    """Share of the tasks with more letters than the best single adapter, or the nearest one where that was not sought."""
    split = table[table["split"] == row["split"]]
    rivals = [r for r in RIVALS if (split["method"] == r).any()]
    own = split[(split["group"] == row["group"]) & (split["method"] == row["method"])]
    both = own.merge(split[split["method"] == rivals[0]], on=["seed", "task"], suffixes=("", "_rival"))
    return float((both["letters"] > both["letters_rival"]).mean()) if len(both) else float("nan")
