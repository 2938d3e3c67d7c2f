"""Forgetting against retaining, and where retraining takes each method back to."""

from __future__ import annotations

import pandas as pd

from editlab.analysis.draw.plots import Drawing, legend, panels, share_axis
from editlab.analysis.draw.style import DARK, marks
from editlab.analysis.report.topic import Tables, Topic, figure
from editlab.analysis.statistics.intervals import NAN, mean_interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, listed, signed_with
from editlab.analysis.unlearning.numbers import basis, chosen, over_seeds, shown

CHANCE, KEPT = 0.25, 0.05  # of four choices; retained accuracy that may be lost


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
    summary = tables["summary"]
    rows = chosen(summary) if len(summary) else summary
    if not len(rows):
        return []
    numbers = mean_interval(-rows.groupby("seed")["retain_drop"].mean())
    sentence = (
        f"At the selected points accuracy on retained facts that nothing was chosen on changes by {signed_with(*numbers, 2)}, on "
        "average over methods."
    )
    kept = Finding("tradeoff.retained", sentence, *numbers, len(rows), bool(numbers.low >= -KEPT), "summary")
    return [_at_chance(over_seeds(rows)), kept]


def _at_chance(rows: pd.DataFrame) -> Finding:
    """Which methods forget down to chance and keep what must be kept."""
    good = rows[(rows["A"] <= CHANCE) & (rows["retain_drop"] <= KEPT)]
    names = listed([shown(m, r) for m, r in zip(good["method"], good["rank"], strict=True)])
    sentence = (
        f"{len(good)} of {counted(len(rows), 'method')} bring forgotten facts to chance or below, in the mean over seeds, and "
        f"lose at most 5 points on retained ones{': ' if names else ''}{names}."
    )
    share = len(good) / len(rows)
    return Finding("tradeoff.chance", sentence, share, NAN, NAN, len(rows), bool(len(good)), "summary")


TOPIC = Topic(
    name="tradeoff",
    title="Forgetting against retaining",
    about="what unlearning costs",
    figures=(forget_retain,),
    reads=("summary",),
    findings=findings,
)
