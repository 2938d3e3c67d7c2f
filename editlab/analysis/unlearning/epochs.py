"""Accuracy on held-out facts along the epochs of retraining, with the controls; and by the split that was held out."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, band, legend, panels, share_axis
from editlab.analysis.draw.style import DARK, marks
from editlab.analysis.paper.tabular import Column, Printed, columns_of
from editlab.analysis.report.topic import Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import pooled_shares
from editlab.analysis.text.wording import counted
from editlab.analysis.unlearning.numbers import INTERVALS, metric_of, shown
from editlab.analysis.unlearning.tables import by_category

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
        "Accuracy on held-out facts along the epochs of retraining on the other facts, at the rate that is best on average; "
        f"{INTERVALS} ({counted(int(rows['seeds'].max()), 'seed')}). The dotted line is chance."
    ),
    rows=along,
    cites=(),
    level=4,
)
def rtt_epochs(rows: pd.DataFrame) -> Drawing:
    """One line a method over the epochs, full fine-tuning above and LoRA below, the controls in both."""
    groups = [name for name in ("full", "lora") if (rows["group"] == name).any()]
    drawing, axes = panels(len(groups), 1, 0.6 + 1.6 * len(groups), sharex=True)
    looks = marks(rows["series"])
    for axis, group in zip(axes, groups, strict=True):
        for series, part in rows[rows["group"].isin([group, ""])].groupby("series", sort=False):
            band(axis, part, "epoch", looks[str(series)], str(series), 0.05)
        axis.axhline(0.25, color=DARK, linewidth=0.6, linestyle=":")
        axis.set(ylabel="held-out accuracy", title={"full": "full fine-tuning", "lora": "LoRA"}[group])
        share_axis(axis)
    for series in dict.fromkeys(rows["series"]):  # the legend speaks for both panels
        axes[-1].plot([], [], label=str(series), **looks[str(series)].plot())
    axes[-1].set(xlabel="epoch of retraining", xticks=sorted(set(rows["epoch"])))
    legend(drawing, axes[-1], columns=3)
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
    return Printed(frame, columns, text, "rtt")


TOPIC = Topic(
    name="epochs", title="Along the attack", figures=(rtt_epochs,), sheets=(categories_sheet,), reads=("rtt",)
)
