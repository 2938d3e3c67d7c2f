"""Where the model keeps a fact: the heat map of the causal trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import colour_bar, heat_map
from editlab.analysis.draw.style import COLUMN
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.rows import largest
from editlab.analysis.text.wording import counted, level_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

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
    import matplotlib.pyplot as plt

    positions = list(dict.fromkeys(effects["position"]))
    layers, sites = sorted(effects["layer"].unique()), list(dict.fromkeys(effects["site"]))
    height = 0.75 + 0.29 * min(len(layers), ROOM)
    figure, grid = plt.subplots(1, len(positions), figsize=(COLUMN, height), squeeze=False, sharey=True)
    span = min(0.0, float(effects["effect"].min())), max(1e-9, float(effects["effect"].max()))
    table = effects.assign(half=(effects["ci_high"] - effects["ci_low"]) / 2 if "ci_low" in effects else np.nan)
    image: Any = None
    for axis, position in zip(grid[0], positions, strict=True):
        part = table[table["position"] == position].set_index(["layer", "site"])
        maps = [
            part[name].unstack().reindex(index=layers, columns=sites).to_numpy(float) for name in ("effect", "half")
        ]
        ticks = [str(s) for s in sites], [str(n) for n in layers]
        image = heat_map(axis, maps[0], maps[1], span, ticks, numbers=len(layers) <= ROOM)
        axis.tick_params(axis="x", labelsize=5.8)
        axis.set_title(position)
    grid[0][0].set_ylabel("layer")
    colour_bar(figure, image, list(grid[0]))
    return figure


def findings(tables: Tables) -> list[Finding]:
    """The place whose MLP gives back the most."""
    effects = tables.get("indirect_effects", pd.DataFrame())
    if effects.empty:
        return []
    chosen = effects[effects["site"] == "mlp"] if (effects["site"] == "mlp").any() else effects
    best = largest(chosen, "effect")
    value, low, high = (float(best.get(c, np.nan)) for c in ("effect", "ci_low", "ci_high"))
    others = chosen[(chosen["layer"] != best["layer"]) | (chosen["position"] != best["position"])]
    sure = bool("ci_high" in others and len(others) and low > others["ci_high"].max())
    sentence = (
        f"Restoring the {best['site']} output of layer {best['layer']} at the {best['position']} gives back the most of the "
        f"recall: an average indirect effect of {level_with(value, low, high)} on the probability of the true object."
    )
    return [Finding("layers.best", sentence, value, low, high, int(best["n"]), sure, "indirect_effects")]


TOPIC = Topic(
    name="layers",
    title="Layers",
    tables=(Collected("indirect_effects", traced_effects, inputs=("traced",)),),
    figures=(layer_importance,),
    reads=("indirect_effects",),
    findings=findings,
)
