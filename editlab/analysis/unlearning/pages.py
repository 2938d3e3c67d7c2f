"""The interactive page of the unlearning study: every kept point."""

from __future__ import annotations

from typing import Any

from editlab.analysis.report.pages import column, table_data
from editlab.analysis.report.topic import Page, Tables
from editlab.analysis.text.wording import counted

SHOWN = (
    "attack", "point", "method", "rank", "seed", "A", "B", "C", "N", "B_two_fold", "recovery", "recovery_corrected",
    "retain", "retain_drop", "perplexity_ratio", "kl", "lr", "epoch",
)  # fmt: skip


def points_data(tables: Tables) -> dict[str, Any]:
    """Kept points with their conditions and rates."""
    frame = tables["summary"]
    frame = frame[frame["found"] == 1]
    names = [name for name in SHOWN if name in frame]
    return table_data(frame, [column(frame, name) for name in names], "unlearning_points", best="recovery")


def points_caption(tables: Tables) -> str:
    """How many there are."""
    return f"{counted(int(tables['summary']['found'].sum()), 'kept point')} of unlearning, each under its attacks."


PAGES = (
    Page(
        "unlearning_points",
        "Points and attacks",
        "Every point of unlearning that was kept, with accuracy on held-out facts before and after each attack. Click on a "
        "column head to sort, or type under it to filter.",
        "table",
        ("summary",),
        points_data,
        points_caption,
    ),
)
