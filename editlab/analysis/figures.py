"""Figures of one tidy table each: seaborn, colour-blind safe, byte-stable, intervals and n shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from editlab.artifacts import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {"ES": "efficacy (ES)", "PS": "paraphrase (PS)", "NS": "neighbourhood (NS)"}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "editlab",
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the house style, without a display."""
    import functools

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        import matplotlib as mpl

        mpl.use("agg")
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def save_figure(figure: Figure, pdf: str, png: str) -> None:
    """Write a figure as PDF and PNG without dates, so that equal data give equal bytes."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(STYLE):
        with atomic_path(pdf) as temporary:
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Producer": None})
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)


@styled
def method_comparison(matrix: pd.DataFrame, when: str = "final", protocol: str = "success") -> Figure:
    """ES, PS and NS of every method by batch size: dots are cells, bars the mean over seeds and replay rates."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    rows = matrix[(matrix["when"] == when) & (matrix["protocol"] == protocol)]
    tidy = rows.melt(id_vars=["method", "batch", "replay", "seed"], value_vars=list(SCORES), var_name="score")
    batches = sorted(tidy["batch"].unique())
    palette = sns.color_palette("colorblind", len(batches))
    figure, axes = plt.subplots(1, 3, figsize=(6.3, 2.4), sharey=True, layout="constrained")
    order = list(dict.fromkeys(tidy["method"]))
    for axis, (score, label) in zip(axes, SCORES.items(), strict=True):
        part = tidy[tidy["score"] == score]
        sns.pointplot(
            part,
            x="value",
            y="method",
            hue="batch",
            hue_order=batches,
            palette=palette,
            order=order,
            ax=axis,
            errorbar=("ci", 95),
            seed=0,
            linestyle="none",
            dodge=0.4,
            markersize=4,
            capsize=0.1,
            err_kws={"linewidth": 1},
        )
        sns.stripplot(
            part,
            x="value",
            y="method",
            hue="batch",
            hue_order=batches,
            palette=palette,
            order=order,
            ax=axis,
            dodge=True,
            size=2,
            alpha=0.5,
            legend=False,
            jitter=False,
        )
        axis.set(xlabel=label, ylabel="", xlim=(-0.02, 1.02))
        axis.grid(axis="x", alpha=0.3)
        if axis is not axes[-1] and axis.get_legend():
            axis.get_legend().remove()
    axes[-1].legend(title="batch", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    cells = rows.drop_duplicates(["method", "batch", "replay", "seed"])
    figure.suptitle(
        f"{when}, {protocol}; {len(cells)} cells of {int(rows['edits'].max())} edits; 95 % intervals over cells"
    )
    return figure


@styled
def layer_importance(effects: pd.DataFrame) -> Figure:
    """Heat map of the average indirect effect by layer, one panel a position."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    positions = list(dict.fromkeys(effects["position"]))
    figure, axes = plt.subplots(
        1, len(positions), figsize=(3.1 * len(positions), 2.6), layout="constrained", squeeze=False
    )
    top = effects["effect"].max()
    for axis, position in zip(axes[0], positions, strict=True):
        part = effects[effects["position"] == position]
        table = part.pivot(index="layer", columns="site", values="effect").sort_index(ascending=False)
        sns.heatmap(
            table, ax=axis, cmap="cividis", vmin=min(0.0, effects["effect"].min()), vmax=top, annot=True, fmt=".2f"
        )
        axis.set(title=position, xlabel="", ylabel="layer")
    figure.suptitle(f"average indirect effect, n = {int(effects['n'].max())} facts")
    return figure
