"""Where the model keeps a fact: the heat map of the causal trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from editlab.analysis.rows import largest
from editlab.analysis.style import COLUMN, HEAT, says, styled
from editlab.analysis.wording import counted, level_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_TRACE = "No fact was traced."


@styled
def layer_importance(effects: pd.DataFrame) -> Figure:
    """Average indirect effect by layer and site, one map a position, with half the width of its interval."""
    import matplotlib.pyplot as plt

    positions = list(dict.fromkeys(effects["position"]))
    if not positions:
        return says(NO_TRACE)
    layers, sites = sorted(effects["layer"].unique()), list(dict.fromkeys(effects["site"]))
    height = 0.75 + 0.29 * min(len(layers), 14)
    figure, grid = plt.subplots(1, len(positions), figsize=(COLUMN, height), squeeze=False, sharey=True)
    low, high = min(0.0, float(effects["effect"].min())), max(1e-9, float(effects["effect"].max()))
    image: Any = None
    for axis, position in zip(grid[0], positions, strict=True):
        part = effects[effects["position"] == position]
        table = part.pivot(index="layer", columns="site", values="effect").reindex(index=layers, columns=sites)
        values = table.to_numpy(dtype=float)
        image = axis.pcolormesh(values, cmap=HEAT, vmin=low, vmax=high, edgecolors="white", linewidth=0.8)
        for (i, j), value in np.ndenumerate(values):
            if len(layers) <= 14 and not np.isnan(value):
                color = "black" if (value - low) / (high - low) > 0.55 else "white"
                text = f"{value:.2f}{_half(part, layers[i], sites[j])}"
                axis.text(j + 0.5, i + 0.5, text, ha="center", va="center", size=5.2, color=color, linespacing=0.95)
        axis.set_xticks(np.arange(len(sites)) + 0.5, [str(s) for s in sites], size=5.8)
        axis.set_yticks(np.arange(len(layers)) + 0.5, [str(n) for n in layers])
        axis.set_title(position)
        axis.grid(visible=False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    grid[0][0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=list(grid[0]), shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _half(part: pd.DataFrame, layer: int, site: str) -> str:
    """``±0.03`` on a line of its own, where the table has an interval."""
    row = part[(part["layer"] == layer) & (part["site"] == site)]
    if "ci_low" not in part or row.empty:
        return ""
    return f"\n±{(row['ci_high'].iloc[0] - row['ci_low'].iloc[0]) / 2:.2f}"


def layer_importance_caption(effects: pd.DataFrame) -> str:
    """The place whose MLP gives back the most."""
    if effects.empty:
        return NO_TRACE
    chosen = effects[effects["site"] == "mlp"] if (effects["site"] == "mlp").any() else effects
    best = largest(chosen, "effect")
    low, high = (float(best.get(c, np.nan)) for c in ("ci_low", "ci_high"))
    return (
        f"Restoring the {best['site']} output of layer {best['layer']} at the {best['position']} gives back the most of the "
        f"recall: an average indirect effect of {level_with(float(best['effect']), low, high)} on the probability of the true "
        f"object. Each cell: effect, ± half of its 95 % interval where it is known "
        f"(n = {counted(int(effects['n'].max()), 'fact')})."
    )
