"""Is the old fact gone? What retraining on other edited facts brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import panels
from editlab.analysis.draw.style import DARK, marks
from editlab.analysis.edit.printing import METHOD, RANK
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics.intervals import mean_interval, wilson
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import records
from editlab.analysis.text.wording import counted, label, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

INTERVAL = "Student's 95 % interval over seeds, at least as wide as Wilson's over all facts"
SHARE = (
    "Share of the old objects of held-out edited facts that came back after retraining on other edited facts, by exact match "
    "of the answer (1: all)"
)


def retraining_table(run: Run) -> pd.DataFrame:
    """The scores of :mod:`editlab.training.retraining`, long, with the restored share repeated in each row."""
    parts = []
    for file, (_, cell) in zip(run.inputs["retrained"], run.cells["retraining"], strict=True):
        table = pd.read_csv(file)
        parts.append(table.assign(**cell, restored=recovery(table)["restored"]))
    return pd.concat(parts, ignore_index=True)


def recovery(table: pd.DataFrame, metric: str = "accuracy", probe: str = "rewrite") -> dict[str, float]:
    """How much of the old knowledge retraining brought back.

    Returns:
        ``edited`` and ``unedited``: rise of the metric on held-out facts; ``never_edited``: its change on facts that
        were never edited, in the edited model; ``restored``: the rise in the edited model as a share of what the edit
        had taken from the held-out facts (1: all came back, 0: none). NaN where a group of facts is empty.
    """
    rows = table[table["probe"] == probe].set_index(["model", "facts", "when"])[metric]

    def rise(model: str, facts: str) -> float:
        return float(rows.get((model, facts, "after"), np.nan) - rows.get((model, facts, "before"), np.nan))

    taken = float(rows["unedited", "held_out", "before"] - rows["edited", "held_out", "before"])
    return {
        "edited": rise("edited", "held_out"),
        "unedited": rise("unedited", "held_out"),
        "never_edited": rise("edited", "never_edited"),
        "restored": rise("edited", "held_out") / taken if taken > 0 else float("nan"),
    }


def restored_shares(table: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Mean restored share of each group: ``by``, seeds, facts (held-out, a seed), restored, restored_low, restored_high.

    Two seeds that agree by chance know no more than their facts do: the interval is at least as wide as that of a share
    of all held-out facts.

    Args:
        table: ``rtt_edits.csv``.
    """
    held_out = table[(table["model"] == "edited") & (table["facts"] == "held_out")] if len(table) else table
    rows: list[dict[str, Any]] = []
    if len(held_out):
        cells = held_out.drop_duplicates(["method", "batch", "replay", "rank", "seed"])
        for key, part in cells.groupby(list(by), sort=False):
            value, low, high = mean_interval(part["restored"])
            if low == low:
                least, most = wilson(min(max(value, 0.0), 1.0), int(part["n"].sum()))
                low, high = min(low, float(least)), max(high, float(most))
            names = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            found = {"restored": value, "restored_low": low, "restored_high": high}
            rows.append({**names, "seeds": len(part), "facts": int(part["n"].max()), **found})
    return pd.DataFrame(rows, columns=[*by, "seeds", "facts", "restored", "restored_low", "restored_high"])


def _basis(rows: pd.DataFrame, facts: str) -> str:
    seeds, held_out = (int(rows[name].max()) if len(rows) else 0 for name in ("seeds", facts))
    return f"mean over {counted(seeds, 'seed')} with {INTERVAL} (n = {counted(held_out, 'held-out fact')} a seed)"


@figure(
    "What retraining brings back",
    "rtt_edits",
    lambda rows: f"{SHARE}: {_basis(rows, 'facts')}.",
    rows=restored_shares,
    empty="No edit was retrained.",
    cites=("retraining.*",),
    level=8,
)
def retraining(rows: pd.DataFrame) -> Drawing:
    """Share of the edited-away knowledge that retraining on other facts brings back, by method."""
    figure, (axis,) = panels(1, 1, 0.6 + 0.27 * len(rows))
    looks = marks(rows["method"])
    for i, row in enumerate(records(rows)):
        mark = looks[row["method"]]
        value = row["restored"]
        low = 0.0 if pd.isna(row["restored_low"]) else value - row["restored_low"]
        high = 0.0 if pd.isna(row["restored_high"]) else row["restored_high"] - value
        look: dict[str, Any] = {"color": mark.color, "hatch": mark.hatch, "alpha": 0.75, "edgecolor": "white"}
        axis.barh(i, value, xerr=[[low], [high]], capsize=2, error_kw={"elinewidth": 0.8}, **look)
    axis.set_yticks(range(len(rows)), [label(m) for m in rows["method"]])
    axis.invert_yaxis()
    axis.axvline(0, color=DARK, linewidth=0.7)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("share of the old objects that came back")
    return figure


@sheet("retraining", "Retraining", "rtt_edits", level=8)
def retraining_sheet(tables: Tables) -> Printed:
    """Share of the old knowledge that retraining brought back."""
    frame = restored_shares(tables["rtt_edits"], ["method", "rank"]).rename(columns={"facts": "n"})
    columns = [METHOD, RANK, Column("restored", "restored")]
    return Printed(frame, columns, f"{SHARE}: {_basis(frame, 'n')}.", "rtt_edits")


def findings(tables: Tables) -> list[Finding]:
    """How much of what an edit took away comes back when other facts are retrained."""
    found = []
    for row in records(restored_shares(tables.get("rtt_edits", pd.DataFrame()))):
        value, low, high = (float(row[name]) for name in ("restored", "restored_low", "restored_high"))
        if value != value:
            continue
        number = percent(value) + (f" ({percent(low)} to {percent(high)})" if low == low else "")
        sentence = (
            f"Retraining on other edited facts brings back {number} of the exact answers that "
            f"{label(row['method'])} had replaced ({counted(row['seeds'], 'seed')})."
        )
        sure = bool(low == low and low > 0)
        key = f"retraining.{row['method']}"
        found.append(Finding(key, sentence, value, low, high, row["seeds"], sure, "rtt_edits"))
    return found


TOPIC = Topic(
    name="retraining",
    title="Retraining",
    about="retraining after edits",
    tables=(Collected("rtt_edits", retraining_table, ("retraining",), files=(), inputs=("retrained",)),),
    figures=(retraining,),
    sheets=(retraining_sheet,),
    reads=("rtt_edits",),
    findings=findings,
    sentences=2,
)
