"""The interactive page of the vision study: all methods on all levels."""

from __future__ import annotations

from typing import Any

from editlab.analysis.report.pages import column, table_data
from editlab.analysis.report.topic import Page, Tables
from editlab.analysis.text.wording import counted
from editlab.analysis.vision.cells import SHARES, shown


def comparison_data(tables: Tables) -> dict[str, Any]:
    """Every data set, method and level."""
    frame = tables["vision_comparison"]
    frame = frame.assign(method=[shown(m) for m in frame["method"]])
    columns = [column(frame, n) for n in ("dataset", "method", "level")]
    columns += [{"title": n.replace("_", " "), "kind": "interval", "digits": 3, "name": n} for n in SHARES]
    columns += [column(frame, n) for n in ("mcnemar_better", "mcnemar_worse", "cells", "seeds")]
    return table_data(frame, columns, "vision_comparison", filters={"level": "test"}, best="accuracy delta")


def comparison_caption(tables: Tables) -> str:
    """What the page holds."""
    frame = tables["vision_comparison"]
    return f"{counted(frame['method'].nunique(), 'method')} on {counted(frame['level'].nunique(), 'level')}."


PAGES = (
    Page(
        "vision_comparison",
        "All methods on all levels",
        "Means over seeds with 95 % intervals; choose a level to compare methods on it.",
        "table",
        ("vision_comparison",),
        comparison_data,
        comparison_caption,
    ),
)
