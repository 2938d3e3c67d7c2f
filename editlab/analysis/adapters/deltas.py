"""Deltas: a map of what the adapters do, how reliable that is under each pooling, and the gates of the study."""

from __future__ import annotations

import pandas as pd

from editlab.analysis.adapters.scores import documents, joined
from editlab.analysis.draw.plots import Drawing, legend, panels
from editlab.analysis.draw.style import COLORS, MARKERS
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, listed

GATES = {
    "prompted": "the base with a description",
    "bare": "the base without one",
    "teachers": "the share of good teachers",
    "reliability": "the reliability of deltas",
}
POSITIONS = {"answer": "answer", "prompt_end": "end of the prompt", "neutral": "neutral text"}


def deltas_table(run: Run) -> pd.DataFrame:
    """Each adapter's place in the plane of the first two components of its seed's deltas."""
    return joined(run, "deltas")


def pooling_table(run: Run) -> pd.DataFrame:
    """Every pooling of every seed."""
    return joined(run, "pooling")


def gates_table(run: Run) -> pd.DataFrame:
    """One row a seed: what was measured, and ``{gate}_holds``."""
    found = documents(run, "gates")
    holds = [{f"{gate}_holds": held for gate, held in g["holds"].items()} for g in found]
    return pd.DataFrame([{"seed": g["seed"], **g["measured"], **h} for g, h in zip(found, holds, strict=True)])


@figure(
    "A map of adapters by what they do",
    "adapter_deltas",
    lambda rows: (
        f"Deltas of {len(rows)} adapters of seed {rows['seed'].iloc[0]} in the plane of their first two principal components "
        "(centred by the training mean). Colour and shape: the position operation. Hollow: held-out tasks."
    ),
    rows=lambda table: table[table["seed"] == table["seed"].min()],
    level=5,
)
def delta_map(table: pd.DataFrame) -> Drawing:
    """Adapters in the plane of two components."""
    figure, (axis,) = panels(2.9)
    column = "part_1" if "part_1" in table else "split"
    for place, (part, rows) in enumerate(table.groupby(column, sort=True)):
        color, marker = COLORS[place % len(COLORS)], MARKERS[(place + place // len(COLORS)) % len(MARKERS)]
        for test, own in rows.groupby(rows["split"] == "test"):
            face = "none" if test else color
            name = str(part) if not test else None
            axis.scatter(own["component_1"], own["component_2"], s=10, marker=marker, edgecolors=color, facecolors=face,
                         linewidths=0.6, label=name)  # fmt: skip
    axis.set_xlabel("first component")
    axis.set_ylabel("second component")
    legend(figure, axis, columns=4, columnspacing=0.8, handletextpad=0.1)
    return figure


@sheet("adapter_pooling", "Ways to pool deltas", "adapter_pooling", level=8)
def pooling_sheet(tables: Tables) -> Printed:
    """Reliability, seed noise and what descriptions tell, by pooling; means over seeds."""
    numbers = ["raw_reliability", "reliability", "seed_cosine", "seed_nearest", "text_r2"]
    table = tables["adapter_pooling"].reindex(columns=["position", "pool", *numbers])
    frame = table.groupby(["position", "pool"], sort=False).mean().reset_index()
    frame["position"] = frame["position"].map(POSITIONS)
    heads = {"raw_reliability": "reliability, raw", "reliability": "centred", "seed_cosine": "cosine of two trainings"}
    heads |= {"seed_nearest": "nearest is the other", "text_r2": "R2 from text"}
    columns = columns_of({"position": "states at", "pool": "probes"}, "text") + columns_of(heads)
    seeds = tables["adapter_pooling"]["seed"].nunique()
    legend = (
        "How deltas are pooled. Reliability: cosine of the deltas of two halves of the probes, raw and centred by the mean of "
        f"training. R2 from text: of held-out tasks' deltas, predicted from descriptions. Means over {seeds} seeds."
    )
    return Printed(frame, columns, legend)


@sheet("adapter_gates", "Gates of the adapters study", "adapter_gates", level=9)
def gates_sheet(tables: Tables) -> Printed:
    """What was measured before anything else is believed."""
    columns = [
        Column("seed", "seed", "count"),
        Column("prompted", "described, seen"),
        Column("prompted_held_out", "described, held out"),
        Column("bare", "bare", digits=3),
        Column("teacher", "teacher"),
        Column("teachers", "good teachers"),
        Column("reliability", "reliability"),
    ]
    legend = "Exact match of the base with and without a description, of the teachers, and the reliability of deltas, by seed."
    return Printed(tables["adapter_gates"], columns, legend)


def findings(tables: Tables) -> list[Finding]:
    """Whether the gates hold, and what raw reliability hides."""
    found = []
    if "adapter_gates" in tables:
        table = tables["adapter_gates"]
        failed = [
            f"{name} (seed {row['seed']})"
            for row in records(table)
            for key, name in GATES.items()
            if not bool(row[f"{key}_holds"])
        ]
        sentence = (
            f"These gates fail: {listed(failed)}." if failed else f"All gates hold ({counted(len(table), 'seed')})."
        )
        share = Interval(1 - len(failed) / (len(GATES) * len(table)))
        found.append(Finding("deltas.gates", sentence, *share, len(table), not failed, "adapter_gates"))
    if "adapter_pooling" in tables:
        groups = tables["adapter_pooling"].groupby(["position", "pool"], sort=False)
        rows = groups[["raw_reliability", "reliability"]].mean()
        gap = (rows["raw_reliability"] - rows["reliability"]).sort_values()
        position, pool = gap.index[-1]
        raw, centred = rows.loc[(position, pool)]
        sentence = (
            f"A raw reliability of {raw:.2f} can hide a centred one of {centred:.2f} (states at {POSITIONS[position]}, "
            f"{'mean over probes' if pool == 'mean' else 'probes apart'}): all adapters share a common part."
        )
        most = Interval(float(gap.iloc[-1]))
        found.append(Finding("deltas.common_part", sentence, *most, len(rows), True, "adapter_pooling"))
    return found


TOPIC = Topic(
    "Deltas and gates",
    tables=(
        Collected("adapter_deltas", deltas_table, inputs=("deltas",)),
        Collected("adapter_pooling", pooling_table, inputs=("pooling",)),
        Collected("adapter_gates", gates_table, inputs=("gates",)),
    ),
    reads=("adapter_gates", "adapter_pooling"),
    sentences=2,
)
