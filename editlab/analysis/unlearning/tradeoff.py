"""Forgetting against retaining, and where retraining takes each method back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from editlab.analysis.draw.plots import legend, panels, share_axis
from editlab.analysis.draw.style import DARK, marks
from editlab.analysis.report.topic import Tables, Topic, figure
from editlab.analysis.statistics.intervals import mean_interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import level_with
from editlab.analysis.unlearning.numbers import basis, chosen, over_seeds, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def _points(summary: pd.DataFrame) -> pd.DataFrame:
    rows = chosen(summary)
    return over_seeds(rows) if len(rows) else rows


@figure(
    "Forgetting, retaining, and the way back",
    "summary",
    lambda rows: (
        "Accuracy on forgotten facts (left is better) against accuracy on retained ones at the selected point of each method; "
        f"an arrow leads to the held-out accuracy after retraining on the other facts. Means over seeds ({basis(rows)})."
    ),
    rows=_points,
    cites=("tradeoff.*",),
    level=3,
)
def forget_retain(rows: pd.DataFrame) -> Drawing:
    """The trade-off with an arrow for the attack."""
    drawing, (axis,) = panels(1, 1, 2.6)
    looks = marks(rows["method"])
    for row in records(rows):
        mark = looks[row["method"]]
        axis.plot(row["A"], row["retain"], label=shown(row["method"]), **(mark.plot() | {"linestyle": ""}))
        arrow = {"arrowstyle": "->", "color": mark.color, "linewidth": 0.7, "shrinkB": 0}
        axis.annotate("", (row["B_two_fold"], row["retain"]), (row["A"], row["retain"]), arrowprops=arrow)
    axis.axvline(0.25, color=DARK, linewidth=0.6, linestyle=":")
    axis.set(xlabel="accuracy on forgotten facts, and after retraining", ylabel="accuracy on retained facts")
    axis.set_xlim(-0.03, 1.03)
    share_axis(axis, float(rows["retain"].min()))
    legend(drawing, axis)
    return drawing


def findings(tables: Tables) -> list[Finding]:
    """What the selected points cost on retained facts, all methods together."""
    summary = tables.get("summary", pd.DataFrame())
    rows = chosen(summary) if len(summary) else summary
    if not len(rows):
        return []
    by_seed = rows.groupby("seed")["retain_drop"].mean()
    numbers = mean_interval(by_seed)
    sentence = (
        f"The selected points lose {level_with(*numbers)} of the accuracy on retained facts that nothing was chosen on, on "
        "average over methods."
    )
    return [Finding("tradeoff.retained", sentence, *numbers, len(rows), bool(numbers[2] <= 0.05), "summary")]


TOPIC = Topic(
    name="tradeoff",
    title="Forgetting against retaining",
    about="what unlearning costs",
    figures=(forget_retain,),
    reads=("summary",),
    findings=findings,
)
