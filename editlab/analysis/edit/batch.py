"""What the batch size does: scores over batch sizes, and each method's largest batch against its smallest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, apart, doublings, error_bars, legend, of_methods, panels, share_axis
from editlab.analysis.edit.comparisons import of_kind
from editlab.analysis.edit.printing import METHOD, differences_sheet
from editlab.analysis.edit.scores import SCORES, over, plain, pooled_scores
from editlab.analysis.paper.tabular import Printed, columns_of
from editlab.analysis.report.topic import Tables, Topic, figure, sheet
from editlab.analysis.text.findings import Finding
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
    methods = table["method"].nunique()
    height = 3.3 + 0.13 * max(0, methods // 3 - 1)
    figure, axes = panels(height, 4, 2, xlabel="batch size", ylabel="success", sharex=True)
    batches = sorted(table["batch"].unique())
    spread = min(0.16 if len(batches) < 4 else 0.06, 0.9 / methods)
    for axis, metric in zip(axes, SCORES, strict=True):
        part = table[table["metric"] == metric]
        for i, (rows, mark, name) in enumerate(of_methods(part)):
            ordered = rows.sort_values("batch")
            shift = 2 ** (spread * (i - (methods - 1) / 2))
            error_bars(axis, ordered["batch"] * shift, ordered, mark, name)
        doublings(axis, apart(batches))
        axis.set(title=SCORE_NAMES[metric], xlim=(batches[0] / 1.7, batches[-1] * 1.7))
        share_axis(axis, float(part["low"].min()))
    legend(figure, axes[0])
    return figure


@sheet("batch_effect", "Effect of batch size", "comparisons")
def batch_effect_sheet(tables: Tables) -> Printed:
    """Each method's largest against its smallest batch, on the same cases."""
    rows = tables["comparisons"].query("kind == 'batch'")
    rows = rows.rename(columns={"a": "method", "b_batch": "from", "a_batch": "to"})
    places = [METHOD, *columns_of({"from": "from", "to": "to"}, "count")]
    what = "What a larger batch changes: paired differences on the same cases with 95 % intervals, no replay"
    return differences_sheet(rows, places, what)


def _told(row: Mapping[str, Any]) -> tuple[str, str, str]:
    instead = "one by one" if row["b_batch"] == 1 else str(row["b_batch"])
    key = f"batch.{row['a']}" + (f"_rank{row['a_rank']}" if row["a_rank"] else "")
    return key, f"Editing {row['a_batch']} facts at once instead of {instead}", f" of {label(row['a'])}"


def findings(tables: Tables) -> Iterator[Finding]:
    """Each method's largest batch against its smallest: S, then whom it helps in all."""
    return of_kind(tables, "batch", _told, "A larger batch")


TOPIC = Topic("Batch size", about="the batch size", reads=("ablation_matrix", "comparisons"))
