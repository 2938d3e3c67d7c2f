"""The interactive page of the adapters study: every method on both ways of holding tasks out."""

from __future__ import annotations

from typing import Any

from editlab.analysis.adapters.methods import KINDS, shown
from editlab.analysis.adapters.scores import COMBINATIONS, SPLITS, stands
from editlab.analysis.report.pages import column, table_data
from editlab.analysis.report.topic import Page, Tables
from editlab.analysis.statistics.intervals import records
from editlab.analysis.text.wording import counted

NUMBERS = {
    "delta_ratio": "delta error",
    "delta_cosine": "delta cosine",
    "delta_r2": "delta R2",
    "gain": "gain",
    "won": "won",
    "likeness": "alike",
    "n": "tasks",
    "seeds": "seeds",
}


def methods_data(tables: Tables) -> dict[str, Any]:
    """Exact match and letters with their intervals, and what the printed table leaves out."""
    frame = tables["adapter_methods"]
    frame = frame.assign(
        method=[shown(row) for row in records(frame)],
        kind=frame["group"].map(KINDS),
        split=frame["split"].map(SPLITS),
    )
    scores = [{"title": name, "kind": "interval", "digits": 3, "name": name} for name in ("exact", "letters")]
    texts = [column(frame, name) for name in ("split", "kind", "method")]
    columns = [*texts, *scores, *({**column(frame, n), "title": title} for n, title in NUMBERS.items() if n in frame)]
    chosen = {"split": SPLITS[COMBINATIONS]}
    return table_data(frame, columns, "adapter_methods", hidden=("tasks", "seeds"), filters=chosen, best="exact")


def methods_caption(tables: Tables) -> str:
    """How many there are, and what they stand on."""
    frame = tables["adapter_methods"]
    return f"{counted(frame['method'].nunique(), 'way')} to an adapter for an unseen task; {stands(frame)}."


PAGES = (
    Page(
        "adapter_methods",
        "Ways to an adapter",
        "Exact match and letters, each with its interval over tasks and seeds, of every generated, retrieved and reference "
        "adapter, on new combinations of operations or on operations that were held out. Gain: share of what an adapter trained "
        "on the task itself gains. Won: tasks with more letters than the best single adapter. Click on a column head to sort.",
        "table",
        ("adapter_methods",),
        methods_data,
        methods_caption,
    ),
)
