"""Accuracy on held-out facts along the epochs of retraining, with the controls; and by the split that was held out."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, band, panels, share_axis
from editlab.analysis.draw.style import COLORS, DARK, GREY, Mark
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.topic import Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import pooled_shares
from editlab.analysis.text.wording import counted
from editlab.analysis.unlearning.numbers import INTERVALS, metric_of, shown
from editlab.analysis.unlearning.tables import by_category

COLUMNS = 3  # panels beside each other
CONTROL = Mark(GREY, "", "-", "", GREY)
CONTROLS = {"C": "not unlearned (C)", "N": "never knew (N)"}


def _metric(rtt: pd.DataFrame) -> str:
    """Letters where the model that was not unlearned has the skill, else cloze."""
    start = rtt[(rtt["condition"] == "C") & (rtt["epoch"] == 0) & (rtt["metric"] == "letters")]
    return "letters" if len(start) and float(start["value"].mean()) >= 0.85 else "cloze"


def along(rtt: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on V by series and epoch, at the rate that is best on average for that series: value, low, high, seeds."""
    rows = rtt[(rtt["attack"] == "full") & (rtt["set"] == "V") & (rtt["metric"] == _metric(rtt))]
    rows = rows[rows["point"].fillna("").isin(["", "selected"])]  # a control is no point: a blank cell of the file
    names = [
        CONTROLS.get(c) or shown(m, r) for c, m, r in zip(rows["condition"], rows["method"], rows["rank"], strict=True)
    ]
    rows = rows.assign(series=names)
    rows = rows[(rows["condition"] != "C") | (rows["base"] != "hidden")]
    found: list[dict[str, Any]] = []
    for series, part in rows.groupby("series", sort=False):
        trained = part[part["epoch"] > 0]
        best = trained.groupby("lr")["value"].mean().idxmax()
        group = "" if series in CONTROLS.values() else "lora" if (part["rank"] > 0).any() else "full"
        for epoch, looked in part[part["lr"] == best].groupby("epoch"):
            right = (looked["value"] * looked["n"]).groupby(looked["seed"]).sum()
            count = looked["n"].groupby(looked["seed"]).sum()
            numbers = pooled_shares(right / count, count)._asdict() | {"seeds": len(count), "group": group}
            found.append({"series": series, "epoch": int(str(epoch)), **numbers})
    return pd.DataFrame(found)


@figure(
    "Held-out accuracy along the attack",
    "rtt",
    lambda rows: (
        "Accuracy on held-out facts along the epochs of retraining on the other facts, one panel a method, at the best rate "
        "on average; grey above: the model that was not unlearned (C), grey below: the one that never knew (N), both retrained "
        f"alike. {INTERVALS} ({counted(int(rows['seeds'].max()), 'seed')}). The dotted line is chance."
    ),
    rows=along,
    cites=(),
    level=4,
)
def rtt_epochs(rows: pd.DataFrame) -> Drawing:
    """A panel a method, the controls in each."""
    attacked = rows[rows["group"] != ""]
    names = list(dict.fromkeys(attacked["series"]))
    height = 0.5 + 0.85 * -(-len(names) // COLUMNS)
    drawing, axes = panels(height, len(names), COLUMNS, sharex=True, sharey=True)
    controls = [part for name, part in rows.groupby("series", sort=False) if name in CONTROLS.values()]
    for axis, name in zip(axes, names, strict=True):
        part = attacked[attacked["series"] == name]
        for control in controls:
            band(axis, control, "epoch", CONTROL, alpha=0.2)
        color = COLORS[2 if part["group"].iloc[0] == "lora" else 0]
        look = dataclasses.replace(CONTROL, color=color, face=color, marker="o")
        band(axis, part, "epoch", look)
        axis.axhline(0.25, color=DARK, linewidth=0.6, linestyle=":")
        axis.set_title("\n".join(textwrap.wrap(name, 22)), fontsize="small")
        axis.set_xticks(sorted(set(rows["epoch"])))
        share_axis(axis)
    for axis in axes[-COLUMNS:]:
        axis.tick_params(labelbottom=True)
    drawing.supxlabel("epoch of retraining", fontsize="medium")
    drawing.supylabel("held-out accuracy", fontsize="medium")
    return drawing


@sheet("recovery_by_category", "Recovery by the split held out", "rtt", "summary", level=8)
def categories_sheet(tables: Tables) -> Printed:
    """A and B of every held-out split (a category of MMLU, a group of people)."""
    frame = by_category(tables["rtt"], metric_of(tables["summary"]))
    frame = frame.assign(name=[shown(m, r) for m, r in zip(frame["method"], frame["rank"], strict=True)])
    columns = columns_of({"name": "method", "v_split": "held out"}, "text")
    columns += [*columns_of({"before": "A", "two_fold": "B"}), Column("seeds", "seeds", "count")]
    text = (
        "Accuracy on each held-out split after unlearning (A) and after retraining on the others (B), means over seeds."
    )
    return Printed(frame, columns, text)


TOPIC = Topic("Along the attack", reads=("rtt",))
