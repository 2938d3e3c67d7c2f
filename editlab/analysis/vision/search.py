"""What the search finds: which fields matter, and what the cell that discovery chose is worth on test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import colour_bar, heat_map, panels
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import rank_correlation
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import largest
from editlab.analysis.text.wording import counted, level, level_with, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LATE = (
    "cell", "source", "method", "seed", "dataset", "same_as", "discovery_score", "clipped", "used_edits", "used_samples",
    "used_layers", "key_share", "residual", "edit_time_seconds", "duration_seconds",
)  # fmt: skip
MEASURED = ("edit_", "rest_", "right_", "test_", "proj_", "heldout_")


def search_table(run: Run) -> pd.DataFrame:
    """The searches of all data sets, without the seconds, which differ from run to run."""
    parts = []
    for path in run.inputs["searches"]:
        frame = pd.read_csv(run.root / path).drop(columns=["edit_time_seconds", "duration_seconds"], errors="ignore")
        frame.insert(0, "dataset", Path(path).stem.removeprefix("param_search_summary_"))
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def axes_of(table: pd.DataFrame) -> list[str]:
    """The searched fields: columns that vary over the grid and are no result."""
    grid = table[table["source"] == "grid"]
    return [c for c in map(str, table) if c not in LATE and not c.startswith(MEASURED) and grid[c].nunique() > 1]


def spread(table: pd.DataFrame) -> pd.Series:
    """How much of the discovery score each searched field moves: range of its means over the grid, largest first."""
    grid = table[table["source"] == "grid"]
    ranges = {a: float(np.ptp(grid.groupby(a)["discovery_score"].mean())) for a in axes_of(table)}
    return pd.Series(ranges, dtype=float).sort_values(ascending=False, kind="stable")


@figure(
    "Search",
    "vision_search",
    lambda rows: (
        f"Discovery score over the two fields that move it most ({counted(int((rows['source'] == 'grid').sum()), 'cell')}): the "
        "mean over all other fields. 1: every discovery error is fixed and nothing is broken."
    ),
    rows=lambda table: table if len(axes_of(table)) > 1 else table.iloc[:0],
    empty="No search over two fields was run.",
    cites=("search.best",),
    level=5,
)
def vision_search_map(rows: pd.DataFrame) -> Drawing:
    """A heat map of the discovery score."""
    names = list(dict.fromkeys(rows["dataset"]))
    drawing, panes = panels(len(names), 1, 1.9 * len(names))
    image: Any = None
    for axis, name in zip(panes, names, strict=True):
        own = rows[(rows["dataset"] == name) & (rows["source"] == "grid")]
        down, across = list(spread(rows[rows["dataset"] == name]).index[:2])
        wide = own.pivot_table(index=down, columns=across, values="discovery_score")
        values = wide.to_numpy(float)
        span = float(np.nanmin(values)), float(np.nanmax(values)) + 1e-9
        ticks = [f"{v:g}" for v in wide.columns], [f"{v:g}" for v in wide.index]
        image = heat_map(axis, values, np.full_like(values, np.nan), span, ticks)
        axis.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "), title=name)
    colour_bar(drawing, image, panes, "discovery score")
    return drawing


def findings(tables: Tables) -> list[Finding]:
    """What matters, what the chosen cell is worth, and whether discovery tells what test will say."""
    if "vision_search" not in tables or tables["vision_search"].empty:
        return []
    table, found = tables["vision_search"], []
    several = table["dataset"].nunique() > 1
    for dataset, part in table.groupby("dataset", sort=False):
        on, tail = (f" on {dataset}", f".{dataset}") if several else ("", "")
        found += _of_dataset(part, on, tail)
    return found


def _of_dataset(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    cells = part[part["source"] != "baseline"].dropna(subset=["discovery_score"])
    if cells.empty:
        return []
    best = largest(cells, "discovery_score")
    nan = float("nan")
    sentence = (
        f"The cell that discovery ranks first{on} ({best['source']}) fixes {level(float(best['edit_fix_ratio']))} of the edited "
        f"errors and changes test accuracy by {signed(float(best['test_acc_delta']))}."
    )
    value = float(best["test_acc_delta"])
    found = [Finding(f"search.best{tail}", sentence, value, nan, nan, len(cells), False, "vision_search")]
    ranges = spread(part)
    if len(ranges) > 1:
        first, last = ranges.index[0], ranges.index[-1]
        sentence = (
            f"Over the grid{on}, {first.replace('_', ' ')} moves the discovery score most (by {level(ranges.iloc[0])}), "
            f"{last.replace('_', ' ')} least ({level(ranges.iloc[-1])})."
        )
        found.append(
            Finding(
                f"search.fields{tail}", sentence, float(ranges.iloc[0]), nan, nan, len(cells), False, "vision_search"
            )
        )
    once = cells[cells["same_as"] == cells["cell"]]
    rho = rank_correlation(once["discovery_score"], once["test_acc_delta"])
    verb = "predicts" if rho[1] > 0 else "does not predict"
    sentence = (
        f"The discovery score {verb} the change of test accuracy{on}: their ranks correlate at {level_with(*rho)}."
    )
    found.append(
        Finding(f"search.transfer{tail}", sentence, *rho, len(once), bool(rho[1] > 0 or rho[2] < 0), "vision_search")
    )
    return found


TOPIC = Topic(
    name="search",
    title="Search",
    tables=(Collected("vision_search", search_table, inputs=("searches",)),),
    figures=(vision_search_map,),
    reads=("vision_search",),
    findings=findings,
)
