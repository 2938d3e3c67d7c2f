"""What the batch size does: scores over batch sizes, and each method's largest batch against its smallest."""

from __future__ import annotations

import pandas as pd

from editlab.analysis.draw.plots import Drawing, apart, error_bars, legend, panels, share_axis
from editlab.analysis.draw.style import marks
from editlab.analysis.edit.comparisons import how_many, of_kind
from editlab.analysis.edit.printing import METHOD, differences_sheet
from editlab.analysis.edit.scores import SCORES, over, plain, pooled_scores
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.topic import Tables, Topic, figure, sheet
from editlab.analysis.text.findings import Finding, difference_finding
from editlab.analysis.text.wording import SCORE_NAMES, label


@figure(
    "Batch size and scores",
    "ablation_matrix",
    lambda table: f"Success at the end without replay; bars are {over(table)}.",
    rows=lambda matrix: pooled_scores(plain(matrix)),
    cites=("batch.summary", "batch.*"),
    level=5,
)
def batch_size(table: pd.DataFrame) -> Drawing:
    """ES, PS, NS and S over the batch size, one line a method."""
    figure, axes = panels(2, 2, 3.3 + 0.13 * max(0, table["method"].nunique() // 3 - 1), sharex=True)
    looks = marks(table["method"])
    batches = sorted(table["batch"].unique())
    spread = min(0.16 if len(batches) < 4 else 0.06, 0.9 / len(looks))
    for axis, metric in zip(axes, SCORES, strict=True):
        part = table[table["metric"] == metric]
        for i, (method, rows) in enumerate(part.groupby("method", sort=False)):
            ordered = rows.sort_values("batch")
            shift = 2 ** (spread * (i - (len(looks) - 1) / 2))
            error_bars(axis, ordered["batch"] * shift, ordered, looks[str(method)], label(str(method)))
        axis.set_xscale("log", base=2)
        ticks = apart(batches)
        axis.set_xticks(ticks, [f"{b:g}" for b in ticks])
        axis.minorticks_off()
        axis.set_xlim(batches[0] / 1.7, batches[-1] * 1.7)
        axis.set_title(SCORE_NAMES[metric])
        share_axis(axis, float(part["low"].min()))
    for axis in axes[2:]:
        axis.set_xlabel("batch size")
    for axis in axes[::2]:
        axis.set_ylabel("success")
    legend(figure, axes[0])
    return figure


@sheet("batch_effect", "Effect of batch size", "comparisons")
def batch_effect_sheet(tables: Tables) -> Printed:
    """Each method's largest against its smallest batch, on the same cases."""
    compared = tables["comparisons"]
    rows = compared[compared["kind"] == "batch"].rename(columns={"a": "method", "b_batch": "from", "a_batch": "to"})
    places = [METHOD, Column("from", "from", "count"), Column("to", "to", "count")]
    what = "What a larger batch changes: paired differences on the same cases with 95 % intervals, no replay"
    return differences_sheet(rows, places, what, "comparisons")


def findings(tables: Tables) -> list[Finding]:
    """Each method's largest against its smallest batch: S, then whom it helps in all."""
    rows = of_kind(tables, "batch")
    found = []
    for row in rows:
        instead = "one by one" if row["b_batch"] == 1 else str(row["b_batch"])
        change = f"Editing {row['a_batch']} facts at once instead of {instead}"
        key = f"batch.{row['a']}" + (f"_rank{row['a_rank']}" if row["a_rank"] else "")
        found.append(difference_finding(key, row, change, "S", "comparisons", f" of {label(row['a'])}"))
    return found + how_many("batch.summary", rows, found, "A larger batch")


TOPIC = Topic(
    name="batch",
    title="Batch size",
    about="the batch size",
    figures=(batch_size,),
    sheets=(batch_effect_sheet,),
    reads=("ablation_matrix", "comparisons"),
    findings=findings,
)
