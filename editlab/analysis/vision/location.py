"""Where errors arise and where they can be mended: the causal trace and the trial edits, side by side."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, colour_bar, heat_map, panels, sides
from editlab.analysis.draw.style import COLORS, DARK
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import Interval, mean_interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, level_with
from editlab.analysis.vision.cells import by_dataset, coordinates


def layer_table(run: Run) -> pd.DataFrame:
    """Every site of every classifier, with its recovery or the score of its trial edit."""
    parts = []
    for path in run.inputs["statistics"]:
        frame = pd.read_csv(run.root / path)
        for name, value in reversed(coordinates(path).items()):
            frame.insert(0, name, value)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def location_table(run: Run) -> pd.DataFrame:
    """One row a classifier: the layer that each ranking names, how they correlate, how stable the trace is."""
    files = {path: (run.root / path).read_text(encoding="utf-8") for path in run.inputs["locations"]}
    return pd.DataFrame([{**coordinates(path), **json.loads(text)} for path, text in files.items()])


@figure(
    "Layers by trace and by trial edit",
    "vision_layers",
    lambda rows: (
        "Left: share of the probability of the prediction that returns when the MLP output of a block at the classification "
        "token is restored. Right: discovery errors fixed that were not edited, minus right images broken, when that block "
        f"alone is edited. One line a classifier ({counted(len(rows[['dataset', 'seed']].drop_duplicates()), 'classifier')}); "
        "95 % intervals over images, and over draws."
    ),
    rows=lambda table: table[table["ranked"]],
    cites=("location.agreement",),
    level=3,
)
def vision_layer_importance(rows: pd.DataFrame) -> Drawing:
    """Both rankings over the layers."""
    drawing, axes = panels(1.9, 2, 2)
    titles = {"trace": "recovery", "trial": "net gain on discovery"}
    for axis, (ranking, title) in zip(axes, titles.items(), strict=True):
        part = rows[rows["ranking"] == ranking]
        for k, (_, own) in enumerate(part.groupby(["dataset", "seed"], sort=True)):
            axis.errorbar(
                own["layer"] + 0.06 * k,
                own["value"],
                yerr=sides(own),
                marker="o",
                color=COLORS[k % len(COLORS)],
                capsize=1.5,
                linewidth=0.8,
            )
        axis.axhline(0, color=DARK, linewidth=0.6)
        axis.set(xlabel="block", title=title)
        axis.set_xticks(sorted(part["layer"].unique()))
    return drawing


@figure(
    "Attention heads by trace",
    "vision_layers",
    lambda rows: (
        "Share of the probability of the prediction that returns when the features of one attention head at the "
        f"classification token are restored; mean over {counted(len(rows[['dataset', 'seed']].drop_duplicates()), 'classifier')}."
    ),
    rows=lambda table: table[table["part"] == "head"],
    empty="No attention head was traced.",
    level=7,
)
def vision_head_importance(rows: pd.DataFrame) -> Drawing:
    """A map of blocks and heads, one a data set."""
    names = list(dict.fromkeys(rows["dataset"]))
    drawing, axes = panels(1.7 * len(names), len(names))
    image: Any = None
    for axis, name in zip(axes, names, strict=True):
        wide = rows[rows["dataset"] == name].groupby(["layer", "head"])["value"].mean().unstack()
        values = wide.to_numpy(float)
        span = min(0.0, float(np.nanmin(values))), max(1e-9, float(np.nanmax(values)))
        ticks = [str(h) for h in wide.columns], [str(k) for k in wide.index]
        image = heat_map(axis, values, np.full_like(values, np.nan), span, ticks, numbers=values.size <= 40)
        axis.set(xlabel="head", ylabel="block", title=name)
    colour_bar(drawing, image, axes, "recovery")
    return drawing


def _correlation(values: pd.Series) -> Interval:
    """Mean over classifiers, its interval within [-1, 1]."""
    return mean_interval(values).within(-1.0, 1.0)


def findings(tables: Tables) -> list[Finding]:
    """Whether trace and trial edits name the same layer, and whether the trace agrees with itself."""
    table, found = tables["vision_location"], []
    for part, on, tail in by_dataset(table):
        same, n = int(part["same_layer"].astype(bool).sum()), len(part)
        rho = _correlation(part["spearman"])
        trace, trial = (part[f"{r}_layer"].mode().iloc[0] for r in ("trace", "trial"))
        verdict = "name the same block" if same == n else f"name the same block in {same} of {counted(n, 'classifier')}"
        if same == 0:
            verdict = "never name the same block"
        often = "" if n == 1 and same else f" (most often block {trace:.0f} and block {trial:.0f})"
        sentence = (
            f"The causal trace and the trial edits {verdict}{on}{often}; their rankings of blocks correlate at "
            f"{level_with(*rho)} (Spearman)."
        )
        clear = rho.clear or same in (0, n)
        found.append(Finding(f"location.agreement{tail}", sentence, *rho, n, clear, "vision_location"))
        halves = _correlation(part["split_half"])
        sentence = f"Between random halves of the images, the trace's ranking of blocks{on} correlates at {level_with(*halves)}."
        found.append(Finding(f"location.stability{tail}", sentence, *halves, n, halves.low > 0, "vision_location"))
    return found


TOPIC = Topic(
    "Location",
    about="where errors arise",
    tables=(
        Collected("vision_layers", layer_table, inputs=("statistics",)),
        Collected("vision_location", location_table, inputs=("locations",)),
    ),
    reads=("vision_location",),
)
