"""Where the model keeps a fact: the heat map of the causal trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, heat_maps
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import NAN, Interval, largest
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, level_with

ROOM = 14  # layers that have room for a number


def traced_effects(run: Run) -> pd.DataFrame:
    """Average indirect effect by site, position and layer, as traced for the model of the run."""
    return pd.read_csv(run.inputs["traced"][0])


@figure(
    "Causal trace of the layers",
    "indirect_effects",
    lambda effects: (
        "Each cell: average indirect effect on the probability of the true object, ± half of its 95 % interval where it is "
        f"known (n = {counted(int(effects['n'].max()), 'fact')})."
    ),
    empty="No fact was traced.",
    cites=("layers.best",),
)
def layer_importance(effects: pd.DataFrame) -> Drawing:
    """Average indirect effect by layer and site, one map a position, with half the width of its interval."""
    layers, sites = sorted(effects["layer"].unique()), list(dict.fromkeys(effects["site"]))
    half = (effects["ci_high"] - effects["ci_low"]) / 2 if "ci_low" in effects else NAN
    table = effects.rename(columns={"effect": "value"}).assign(half=half)
    maps = {str(position): part for position, part in table.groupby("position", sort=False)}
    span = min(0.0, float(table["value"].min())), max(1e-9, float(table["value"].max()))
    size: dict[str, Any] = {"height": 0.75 + 0.29 * min(len(layers), ROOM), "numbers": len(layers) <= ROOM}
    figure = heat_maps(maps, (("site", sites), ("layer", layers)), ("", "layer"), span, columns=len(maps), **size)
    for axis in figure.axes[: len(maps)]:
        axis.tick_params(axis="x", labelsize=5.8)
    return figure


def findings(tables: Tables) -> Iterator[Finding]:
    """The place whose MLP gives back the most."""
    effects = tables["indirect_effects"]
    if effects.empty:
        return
    chosen = effects[effects["site"] == "mlp"] if (effects["site"] == "mlp").any() else effects
    best = largest(chosen, "effect")
    numbers = Interval.of(best, "effect")
    others = chosen[(chosen["layer"] != best["layer"]) | (chosen["position"] != best["position"])]
    sure = bool("ci_high" in others and len(others) and numbers.low > others["ci_high"].max())
    sentence = (
        f"Restoring the {best['site']} output of layer {best['layer']} at the {best['position']} gives back the most of the "
        f"recall: an average indirect effect of {level_with(*numbers)} on the probability of the true object."
    )
    yield Finding("layers.best", sentence, *numbers, int(best["n"]), sure, "indirect_effects")


TOPIC = Topic(
    "Layers", tables=(Collected("indirect_effects", traced_effects, inputs=("traced",)),), reads=("indirect_effects",)
)
