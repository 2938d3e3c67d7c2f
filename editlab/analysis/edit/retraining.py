"""Is the old fact gone? What retraining on other edited facts brings back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, of_methods, panels, rows_below, sides
from editlab.analysis.draw.style import DARK
from editlab.analysis.edit.printing import METHOD, RANK
from editlab.analysis.paper.tabular import Printed, columns_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure, sheet
from editlab.analysis.statistics import intervals
from editlab.analysis.statistics.intervals import UNKNOWN, Interval, beside, grouped, records
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, label, percent_with

INTERVAL = "Student's 95 % interval over seeds, at least as wide as Wilson's over all facts"
SHARE = (
    "Share of the old objects of held-out edited facts that came back after retraining on other edited facts, by exact match "
    "of the answer (1: all)"
)


def retraining_table(run: Run) -> pd.DataFrame:
    """The scores of :mod:`editlab.editing.retraining`, long, with the restored share of B and N repeated in each row."""
    cells = zip(run.inputs["retrained"], run.cells["retraining"], strict=True)
    tables = [(pd.read_csv(file), cell) for file, (_, cell) in cells]
    return pd.concat([table.assign(**cell, **recovery(table)) for table, cell in tables], ignore_index=True)


def recovery(table: pd.DataFrame) -> dict[str, float]:
    """How much of the old knowledge retraining brought back.

    Returns:
        ``restored``: the rise of accuracy on held-out facts in the edited model as a share of what the edit had taken from
        them (1: all came back, 0: none); ``restored_redrawn``: the same after retraining on redrawn objects, which tells no
        truth (condition N). NaN where a condition is missing.
    """
    rows = table[(table["probe"] == "rewrite") & (table["facts"] == "held_out")]
    held_out = rows.set_index(["model", "when"])["accuracy"]
    taken = float(held_out["unedited", "before"] - held_out["edited", "before"])

    def share(model: str) -> float:
        rise = held_out.get((model, "after"), np.nan) - held_out.get((model, "before"), np.nan)
        return float(rise) / taken if taken > 0 else float("nan")

    return {"restored": share("edited"), "restored_redrawn": share("redrawn")}


def restored_shares(table: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Mean restored share of each group: ``by``, seeds, n (held-out facts, a seed), ``restored`` (B) and ``restored_redrawn`` (N)
    with ``_low`` and ``_high``, ``unedited`` (C: accuracy of the unedited model, retrained alike).

    Two seeds that agree by chance know no more than their facts do: the interval is at least as wide as that of a share
    of all held-out facts.
    """
    shares = ("restored", "restored_redrawn")
    columns = [*by, "seeds", "n", *beside(dict.fromkeys(shares, UNKNOWN)), "unedited"]
    if table.empty:
        return pd.DataFrame(columns=columns)

    def share(part: pd.DataFrame, name: str) -> Interval:
        found = intervals.mean_interval(part[name])
        least = intervals.share_interval(min(max(found.value, 0.0), 1.0), int(part["n"].sum()))
        return found.covering(least) if found.known else found

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = beside({name: share(part, name) for name in shares if name in part})
        return {"seeds": len(part), "n": int(part["n"].max()), **found, "unedited": float(part["unedited"].mean())}

    cell = ["method", "batch", "replay", "rank", "seed"]
    held_out = table[(table["facts"] == "held_out") & (table["probe"] == "rewrite")]
    control = held_out[(held_out["model"] == "unedited") & (held_out["when"] == "after")].set_index(cell)["accuracy"]
    edited = held_out[held_out["model"] == "edited"].drop_duplicates(cell)
    edited = edited.join(control.rename("unedited"), on=cell)
    return grouped(edited, by, told, columns=columns)


def _basis(rows: pd.DataFrame) -> str:
    seeds, held_out = (int(rows[name].max()) if len(rows) else 0 for name in ("seeds", "n"))
    return f"mean over {counted(seeds, 'seed')} with {INTERVAL} (n = {counted(held_out, 'held-out fact')} a seed)"


@figure(
    "What retraining brings back",
    "rtt_edits",
    lambda rows: f"{SHARE}: {_basis(rows)}.",
    rows=restored_shares,
    empty="No edit was retrained.",
    cites=("retraining.*",),
    level=8,
)
def retraining(rows: pd.DataFrame) -> Drawing:
    """Share of the edited-away knowledge that retraining on other facts brings back, by method."""
    figure, (axis,) = panels(0.6 + 0.27 * len(rows), xlabel="share of the old objects that came back")
    for place, (row, mark, _) in enumerate(of_methods(rows)):
        look: dict[str, Any] = {"color": mark.color, "hatch": mark.hatch, "edgecolor": "white", "alpha": 0.75}
        ends, thin = sides(row, "restored"), {"elinewidth": 0.8}
        axis.barh(place, row["restored"], xerr=ends, capsize=2, error_kw=thin, **look)
    rows_below(axis, [label(m) for m in rows["method"]])
    axis.axvline(0, color=DARK, linewidth=0.7)
    return figure


@sheet("retraining", "Retraining", "rtt_edits", level=8)
def retraining_sheet(tables: Tables) -> Printed:
    """Share of the old knowledge that retraining brought back."""
    frame = restored_shares(tables["rtt_edits"], ["method", "rank"])
    heads = {"restored": "restored", "restored_redrawn": "restored, told nothing true (N)"}
    columns = [METHOD, RANK, *columns_of(heads | {"unedited": "unedited, retrained (C)"})]
    text = (
        f"{SHARE}: {_basis(frame)}. N: the edited model retrained on redrawn objects; C: accuracy of the unedited model"
    )
    return Printed(frame, columns, f"{text}.")


def findings(tables: Tables) -> Iterator[Finding]:
    """How much of what an edit took away comes back when other facts are retrained."""
    for row in records(restored_shares(tables["rtt_edits"])):
        numbers, key = Interval.of(row, "restored"), f"retraining.{row['method']}"
        if numbers.value != numbers.value:
            continue
        sentence = (
            f"Retraining on other edited facts brings back {percent_with(*numbers)} of the exact answers that "
            f"{label(row['method'])} had replaced ({counted(row['seeds'], 'seed')})."
        )
        yield Finding(key, sentence, *numbers, row["seeds"], numbers.low > 0, "rtt_edits")


TOPIC = Topic(
    "Retraining",
    about="retraining after edits",
    tables=(Collected("rtt_edits", retraining_table, ("retraining",), files=(), inputs=("retrained",)),),
    reads=("rtt_edits",),
    sentences=2,
)
