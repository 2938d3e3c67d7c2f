"""What the search finds: which fields matter, and what the cell that discovery chose is worth on test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, colour_bar, heat_map, panels
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import Interval, mean_interval, rank_correlation
from editlab.analysis.text.findings import Finding, direction
from editlab.analysis.text.wording import counted, level, level_with, signed_with
from editlab.analysis.vision.cells import bounded, by_dataset

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


def _distinct(table: pd.DataFrame) -> pd.DataFrame:
    """Cells of the grid without those that repeat another because their values were clipped."""
    return table[(table["source"] == "grid") & (table["same_as"] == table["cell"])]


def spread(table: pd.DataFrame) -> pd.Series:
    """How much of the discovery score each searched field moves: range of its means over the grid, largest first."""
    grid = _distinct(table)
    ranges = {a: float(np.ptp(grid.groupby(a)["discovery_score"].mean())) for a in axes_of(table)}
    return pd.Series(ranges, dtype=float).sort_values(ascending=False, kind="stable")


@figure(
    "Search",
    "vision_search",
    lambda rows: (
        "Discovery score over the two fields that move it most, mean over all other fields and over classifiers "
        f"({counted(len(_distinct(rows)), 'cell')}; those that coincide with another are left out). 1: every discovery error is "
        "fixed and nothing is broken; "
        "0: nothing is gained."
    ),
    rows=lambda table: table if len(axes_of(table)) > 1 else table.iloc[:0],
    empty="No search over two fields was run.",
    cites=("search.best",),
    level=5,
)
def vision_search_map(rows: pd.DataFrame) -> Drawing:
    """A heat map of the discovery score."""
    names = list(dict.fromkeys(rows["dataset"]))
    drawing, panes = panels(1.9 * len(names), len(names))
    image: Any = None
    for axis, name in zip(panes, names, strict=True):
        own = _distinct(rows[rows["dataset"] == name])
        down, across = list(spread(rows[rows["dataset"] == name]).index[:2])
        wide = own.pivot_table(index=down, columns=across, values="discovery_score")
        values = wide.to_numpy(float)
        span = float(np.nanmin(values)), float(np.nanmax(values)) + 1e-9
        ticks = [_text(v) for v in wide.columns], [_text(v) for v in wide.index]
        image = heat_map(axis, values, np.full_like(values, np.nan), span, ticks)
        axis.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "), title=name)
    colour_bar(drawing, image, panes, "discovery score")
    return drawing


def findings(tables: Tables) -> list[Finding]:
    """What the chosen cell is worth, which fields matter, and whether discovery tells what test will say."""
    table, found = tables["vision_search"], []
    for part, on, tail in by_dataset(table):
        part = part.dropna(subset=["discovery_score"])
        found += [f for make in (_best, _fields, _transfer, _bayesian) for f in make(part, on, tail)]
    return found


def _best(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """The cell with the best mean over classifiers: of the grid, and of what was tried around its best."""
    cells = part[part["source"].isin(["grid", "refined"])]
    if cells.empty:
        return []
    means = cells.groupby(["source", "cell"], sort=True)["discovery_score"].mean()
    source, cell = means.index[int(means.to_numpy().argmax())]
    best = cells[(cells["source"] == source) & (cells["cell"] == cell)].sort_values("seed")
    test = mean_interval(best["test_acc_delta"])
    fixed = bounded("fix_rate", mean_interval(best["edit_fix_ratio"]), _counts(best))
    names = [n for n in best.columns if n in axes_of(part) or (source == "refined" and n in _refined(cells))]
    told = ", ".join(f"{n.replace('_', ' ')} {_text(best[n].iloc[0])}" for n in names)
    sentence = (
        f"Of {counted(len(means), 'cell')}, the one that discovery ranks first{on} ({told}) fixes {level_with(*fixed)} of the "
        f"edited errors and changes test accuracy by {signed_with(*test)} ({_seeds(best)})."
    )
    return [Finding(f"search.best{tail}", sentence, *test, int(best["test_total"].sum()), test.clear, "vision_search")]


def _fields(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """The field that moves the discovery score most, and the one that moves it least."""
    ranges = spread(part)
    if len(ranges) < 2:
        return []
    first, last = (str(ranges.index[k]).replace("_", " ") for k in (0, -1))
    sentence = (
        f"Over the grid{on}, {first} moves the discovery score most (its means differ by {level(ranges.iloc[0])}) and {last} "
        f"least (by {level(ranges.iloc[-1])})."
    )
    cells, moved = len(_distinct(part)), Interval(float(ranges.iloc[0]))
    return [Finding(f"search.fields{tail}", sentence, *moved, cells, False, "vision_search")]


def _transfer(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """Whether cells that discovery ranks high do well on test: cells of one classifier are alike, so classifiers count."""
    once = part[(part["source"] != "baseline") & (part["same_as"] == part["cell"])]
    values = [
        rank_correlation(own["discovery_score"], own["test_acc_delta"])[0] for _, own in once.groupby("seed", sort=True)
    ]
    rho = mean_interval(values).within(-1.0, 1.0)
    if np.isnan(rho.value):
        return []
    verb = direction(rho.low, rho.high, "predicts", "predicts the opposite of") or "does not reliably predict"
    sentence = (
        f"A cell's discovery score {verb} its change of test accuracy{on}: over the cells of a classifier, ranks correlate at "
        f"{level_with(*rho)} ({_seeds(once)})."
    )
    return [Finding(f"search.transfer{tail}", sentence, *rho, len(once), rho.clear, "vision_search")]


def _bayesian(part: pd.DataFrame, on: str, tail: str) -> list[Finding]:
    """How far the trials of the Bayesian search get, against the grid, classifier by classifier."""
    best = part.groupby(["source", "seed"])["discovery_score"].max()
    sources = best.index.get_level_values("source")
    if not {"bayesian", "grid"} <= set(sources):
        return []
    gain = mean_interval(best["bayesian"] - best["grid"])
    ran = part[part["same_as"] == part["cell"]]
    trials, cells = (int(ran[ran["source"] == s].groupby("seed").size().max()) for s in ("bayesian", "grid"))
    reached = {name: level(float(best[name].mean())) for name in ("bayesian", "grid")}
    sentence = (
        f"The best of {counted(trials, 'Bayesian trial')} has a discovery score of {reached['bayesian']}{on}, the best of "
        f"{counted(cells, 'distinct grid cell')} one of {reached['grid']}; the difference is {signed_with(*gain, 2)} "
        f"({_seeds(part)})."
    )
    return [Finding(f"search.bayesian{tail}", sentence, *gain, trials, gain.clear, "vision_search")]


def _counts(cells: pd.DataFrame) -> pd.DataFrame:
    """Fixed and other edited errors, as :func:`bounded` wants them."""
    fixed = cells["edit_num_fixed"]
    return pd.DataFrame({"seed": cells["seed"], "wrong_right": fixed, "wrong_wrong": cells["edit_total_wrong"] - fixed})


def _refined(cells: pd.DataFrame) -> list[str]:
    """Fields that were varied around the best cell."""
    own = cells[cells["source"] == "refined"]
    return [c for c in map(str, own) if c not in LATE and not c.startswith(MEASURED) and own[c].nunique() > 1]


def _seeds(rows: pd.DataFrame) -> str:
    return counted(int(rows["seed"].nunique()), "classifier")


def _text(value: Any) -> str:
    """A searched value: a number, or a list of layers as the table holds it."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


TOPIC = Topic(
    "Search",
    tables=(Collected("vision_search", search_table, inputs=("searches",)),),
    reads=("vision_search",),
)
