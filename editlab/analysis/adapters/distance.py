"""Generalisation by distance: how exact match falls with the distance of a task to the nearest one that was trained."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.adapters.generators import LINEAR
from editlab.analysis.adapters.scores import SPLITS, joined
from editlab.analysis.draw.plots import Drawing, legend, panels
from editlab.analysis.draw.style import COLORS, MARKERS
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import rank_correlation
from editlab.analysis.text.findings import Finding, direction
from editlab.analysis.text.wording import signed_with

ORACLE = "teacher's delta (oracle)"


def distances_table(run: Run) -> pd.DataFrame:
    """For each held-out task: scores of the linear hyper-network, and 1 - the cosine of the nearest training teacher's delta."""
    scores, found = joined(run, "adapter_scores"), joined(run, "retrieved")
    own = scores[(scores["group"] == "generator") & (scores["method"] == LINEAR)]
    near = found[(found["query"] == ORACLE) & (found["index"] == "training")]
    near = near.drop_duplicates(["seed", "split", "task"]).assign(distance=lambda t: 1 - t["cosine"])
    columns = ["seed", "split", "task", "exact", "letters"]
    return own[columns].merge(near[["seed", "split", "task", "distance"]], on=["seed", "split", "task"])


@figure(
    "Generalisation by distance",
    "adapter_distances",
    lambda rows: (
        "Each held-out task: letters that the adapter of the linear hyper-network gets right, over the distance (1 - cosine of "
        f"centred deltas) of the task's own teacher to the nearest training teacher; {len(rows)} tasks of "
        f"{rows['seed'].nunique()} seeds."
    ),
    cites=("distance.*",),
    level=4,
)
def generalisation_by_distance(table: pd.DataFrame) -> Drawing:
    """Letters over distance, a mark a split."""
    figure, (axis,) = panels(2.1)
    for place, (split, rows) in enumerate(table.groupby("split", sort=True)):
        look: dict[str, Any] = {"marker": MARKERS[place], "color": COLORS[place], "s": 8, "alpha": 0.7, "linewidths": 0}
        axis.scatter(rows["distance"], rows["letters"], label=SPLITS.get(str(split), str(split)), **look)
    axis.set_xlabel("distance to the nearest training teacher")
    axis.set_ylabel("letters right")
    axis.set_ylim(-0.03, 1.03)
    legend(figure, axis, columns=2)
    return figure


def findings(tables: Tables) -> list[Finding]:
    """How letters go with distance, by rank."""
    table = tables["adapter_distances"]
    found = []
    for split, rows in table.groupby("split") if len(table) else ():
        numbers = rank_correlation(rows["distance"], rows["letters"])
        if not numbers.known:
            continue
        told = direction(numbers.low, numbers.high, "get better with", "get worse with") or "do not measurably go with"
        sentence = (
            f"On {SPLITS.get(str(split), str(split))}, generated adapters {told} the distance to the nearest training "
            f"teacher (rank correlation {signed_with(*numbers, 2)})."
        )
        found.append(Finding(f"distance.{split}", sentence, *numbers, len(rows), numbers.clear, "adapter_distances"))
    return found


TOPIC = Topic(
    "Generalisation by distance",
    tables=(Collected("adapter_distances", distances_table, inputs=("adapter_scores", "retrieved")),),
    reads=("adapter_distances",),
    sentences=1,
)
