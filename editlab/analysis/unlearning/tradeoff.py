"""Forgetting against retaining, and where retraining takes each method back to."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, panels
from editlab.analysis.draw.style import COLORS, DARK, GREY
from editlab.analysis.report.topic import Tables, Topic, figure
from editlab.analysis.statistics.intervals import NAN, mean_interval, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, listed, signed_with
from editlab.analysis.unlearning.numbers import INTERVALS, basis, chosen, over_seeds, shown

CHANCE, NEAR, KEPT = 0.25, 0.05, 0.05  # of four choices; above it and still near; retained accuracy that may be lost


def _points(summary: pd.DataFrame) -> pd.DataFrame:
    rows = chosen(summary)
    return over_seeds(rows) if len(rows) else rows


@figure(
    "Forgetting, retaining, and the way back",
    "summary",
    lambda rows: (
        "Accuracy on forgotten facts at the selected point of each method (full mark; further left is better) and, at the end of "
        "the arrow, on held-out ones after retraining on the other facts; grey: the model that never knew, retrained alike; "
        "dotted: chance. On the right, accuracy on retained facts. "
        f"{INTERVALS} ({basis(rows)})."
    ),
    rows=_points,
    cites=("tradeoff.*",),
    level=3,
)
def forget_retain(rows: pd.DataFrame) -> Drawing:
    """A line a method: what is left of the facts, the arrow of the attack, and what was retained."""
    drawing, (axis, beside) = panels(0.7 + 0.19 * len(rows), 2, 2, sharey=True, width_ratios=[3.4, 1])
    axis.axvspan(rows["N_two_fold_low"].min(), rows["N_two_fold_high"].max(), color=GREY, alpha=0.25, linewidth=0)
    axis.axvline(CHANCE, color=DARK, linewidth=0.6, linestyle=":")
    names = []
    for place, row in enumerate(records(rows)):
        color = COLORS[2 if row["rank"] else 0]
        names.append(shown(row["method"], row["rank"]))
        arrow = {"arrowstyle": "->", "color": color, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 2}
        axis.annotate("", (row["B_two_fold"], place), (row["A"], place), arrowprops=arrow)
        for shift, name, face in ((-0.18, "A", color), (0.18, "B_two_fold", "white")):
            ends = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
            look: dict[str, Any] = {"marker": "", "linestyle": "", "color": color, "elinewidth": 0.6}
            axis.errorbar([row[name]], [place + shift], xerr=ends, **look)
            axis.plot(row[name], place, marker="o", color=color, markerfacecolor=face)
        beside.plot(row["retain"], place, marker="o", color=color)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy, forgotten facts", xlim=(-0.04, 1.04), xticks=[0, 0.25, 0.5, 0.75, 1])
    beside.set(xlabel="retained", xlim=(min(0.88, float(rows["retain"].min()) - 0.02), 1.02))
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
    near = rows[(rows["A"] > CHANCE) & (rows["A"] <= CHANCE + NEAR) & (rows["retain_drop"] <= KEPT)]
    said, close = _listed(good), _listed(near)
    sentence = (
        f"{len(good)} of {counted(len(rows), 'method')} bring forgotten facts to chance or below, in the mean over seeds, and "
        f"lose at most 5 points on retained ones{': ' if said else ''}{said}"
        + (f"; within 5 points of chance: {close}." if close else ".")
    )
    share = len(good) / len(rows)
    return Finding("tradeoff.chance", sentence, share, NAN, NAN, len(rows), bool(len(good)), "summary")


def _listed(rows: pd.DataFrame) -> str:
    return listed([shown(m, r) for m, r in zip(rows["method"], rows["rank"], strict=True)])


TOPIC = Topic(
    "Forgetting against retaining",
    about="what unlearning costs",
    reads=("summary",),
)
