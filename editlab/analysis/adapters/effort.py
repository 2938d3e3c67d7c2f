"""Cost against quality: CPU seconds that each way to adapters takes, and the exact match that it reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.adapters.methods import NAMES
from editlab.analysis.adapters.scores import COMBINATIONS, joined, means
from editlab.analysis.draw.plots import Drawing, legend, panels
from editlab.analysis.draw.style import COLORS, MARKERS
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.text.findings import Finding
from editlab.files.artifacts import load_provenance, provenance_file


def effort_table(run: Run) -> pd.DataFrame:
    """CPU seconds of the job that made the adapters of all held-out tasks, and their mean exact match.

    A generator's job trains it, tunes it and scores it; the pool of teachers that it learns from is a row of its own, with what
    the teachers of the held-out tasks reach.
    """
    rows = []
    scores = joined(run, "adapter_scores")
    scores = scores[scores["split"] == COMBINATIONS]
    for file in run.inputs["adapter_scores"]:
        if Path(file).name != "scores.csv":
            continue
        own = pd.read_csv(run.root / file)
        first = own[(own["group"] == "generator") & (own["split"] == COMBINATIONS)]
        rows.append(
            {"seed": int(first["seed"].iloc[0]), "method": first["method"].iloc[0], "seconds": _seconds(run, file)}
        )
    for file in run.inputs["adapter_pools"]:
        seed = int(Path(file).parent.name.removeprefix("seed~"))
        rows.append({"seed": seed, "method": "teacher", "seconds": _seconds(run, file)})
    quality = means(scores[scores["group"].isin(["generator", "reference"])], ["seed", "method"], ["exact"])
    return pd.DataFrame(rows).merge(quality[["seed", "method", "exact"]], on=["seed", "method"])


def _seconds(run: Run, file: str) -> float:
    """CPU seconds of the job that made a file."""
    record: dict[str, Any] = load_provenance(provenance_file(run.root / file))
    return float(record["seconds"]["job"]["cpu"])


@figure(
    "Cost against quality",
    "adapter_effort",
    lambda rows: (
        "Exact match on held-out combinations over the CPU seconds of the job that made all of their adapters: training, tuning "
        "and scoring a generator, or training the whole pool of teachers, which every generator needs beside its own job. One "
        f"mark a seed ({rows['seed'].nunique()})."
    ),
    level=6,
)
def cost_against_quality(table: pd.DataFrame) -> Drawing:
    """Exact match over seconds, a mark a method."""
    figure, (axis,) = panels(3.0)
    for place, (method, rows) in enumerate(table.groupby("method", sort=True)):
        axis.scatter(rows["seconds"], rows["exact"], s=12, color=COLORS[place % len(COLORS)],
                     marker=MARKERS[place % len(MARKERS)], label=NAMES.get(str(method), str(method)))  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("CPU seconds")
    axis.set_ylabel("exact match")
    axis.set_ylim(-0.03, 1.03)
    legend(figure, axis, columns=2)
    return figure


def findings(tables: Tables) -> list[Finding]:
    """The best exact match of a generator for its seconds."""
    table = tables["adapter_effort"]
    if not len(table):
        return []
    mean = table.groupby("method")[["seconds", "exact"]].mean()
    made = mean.drop(index="teacher", errors="ignore")
    if not len(made):
        return []
    best = made.sort_values(["exact", "seconds"], ascending=[False, True]).reset_index()
    row = records(best)[0]
    name = NAMES.get(row["method"], row["method"])
    sentence = (
        f"The generator with the highest exact match ({name}) takes {row['seconds']:.0f} CPU seconds to train, tune and score, "
        f"and reaches {row['exact']:.2f}."
    )
    seconds = Interval(float(row["seconds"]))
    return [Finding("effort.best", sentence, *seconds, len(table), True, "adapter_effort")]


TOPIC = Topic(
    "Cost against quality",
    tables=(Collected("adapter_effort", effort_table, inputs=("adapter_scores", "adapter_pools")),),
    reads=("adapter_effort",),
    sentences=1,
)
