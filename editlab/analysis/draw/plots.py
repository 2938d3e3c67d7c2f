"""Plots and parts of plots that several figures share: panels, intervals, bands, heat maps, axes for shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from editlab.analysis.draw.style import COLUMN, DARK, HEAT, Mark, marks
from editlab.analysis.statistics.intervals import ends_of
from editlab.analysis.text.wording import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawing: TypeAlias = "Figure"  # of matplotlib, which is imported on first use

ROOM = 46  # characters in a line of a legend, marks apart


def panels(
    height: float, count: int = 1, columns: int = 1, *, xlabel: str = "", ylabel: str = "", **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure one column wide and ``height`` inches high, and its panels row by row; labels stand at its outer axes."""
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(COLUMN, height), squeeze=False, **options)
    for axis in grid.flat[count:]:
        axis.set_visible(False)
    for axis in grid[-1]:
        axis.set_xlabel(xlabel)
    for axis in grid[:, 0]:
        axis.set_ylabel(ylabel)
    return figure, list(grid.flat[:count])


def says(text: str) -> Figure:
    """In place of a figure whose data are empty."""
    figure, (axis,) = panels(1.0)
    axis.axis("off")
    axis.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color=DARK)
    return figure


def legend(figure: Figure, *axes: Axes, columns: int = 3, **options: Any) -> None:
    """One legend below all panels, of what is in these; each entry once. Long names have fewer columns."""
    found = [axis.get_legend_handles_labels() for axis in axes]
    unique = {name: handle for handles, names in found for name, handle in zip(names, handles, strict=True)}
    if unique:
        columns = min(columns, max(1, ROOM // max(map(len, unique))))
        spacing = {"columnspacing": 1.0, "handletextpad": 0.4, "borderaxespad": 0.1}
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns, **spacing | options)


def sides(rows: Any, name: str = "value") -> list[Any]:
    """Lengths of error bars of a column with its interval, below and above; 0 where a side is unknown."""
    low, high = ends_of(rows, name)
    below, above = rows[name] - rows[low], rows[high] - rows[name]
    return [below.clip(lower=0).fillna(0), above.clip(lower=0).fillna(0)]


def of_methods(table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, Mark, str]]:
    """The rows of each method, its look, and its name as it is shown."""
    looks = marks(table["method"])
    for method, rows in table.groupby("method", sort=False):
        yield rows, looks[str(method)], label(str(method))


def error_bars(axis: Axes, x: Any, rows: Any, mark: Mark, name: str | None = None, **options: Any) -> None:
    """Values with their intervals (columns value, low, high), in a method's look."""
    look = mark.plot() | {"capsize": 1.5, "elinewidth": 0.8, "label": name} | options
    axis.errorbar(x, rows["value"], yerr=sides(rows), **look)


def band(
    axis: Axes, rows: Any, x: str, mark: Mark, name: str | None = None, alpha: float = 0.15, **options: Any
) -> None:
    """A line with its 95 % band (columns value, low, high)."""
    rows = rows.sort_values(x)
    axis.plot(rows[x], rows["value"], label=name, **mark.plot() | options)
    axis.fill_between(rows[x], rows["low"], rows["high"], color=mark.color, alpha=alpha, linewidth=0)


def bands_over_edits(axis: Axes, rows: pd.DataFrame, looks: Mapping[str, Mark], **options: Any) -> None:
    """One line a method over the edits seen, with its 95 % band: paler where many would hide each other."""
    for method, part in rows.groupby("method", sort=False):
        pale = 0.15 if len(looks) < 6 else 0.07
        band(axis, part, "edits_seen", looks[str(method)], label(str(method)), pale, **options)


def curves_over_edits(parts: Sequence[tuple[pd.DataFrame, dict[str, str]]], height: float) -> Drawing:
    """Shares over the edits seen, one line a method with its 95 % band; a panel for each of ``parts``: rows, and labels."""
    figure, axes = panels(height, len(parts), xlabel="edits seen", sharex=True)
    looks = marks(method for rows, _ in parts for method in rows["method"])
    for axis, (rows, labels) in zip(axes, parts, strict=True):
        bands_over_edits(axis, rows, looks)
        axis.set(**labels)
        share_axis(axis, float(rows["low"].min()))
    legend(figure, *axes)
    return figure


def beside_each_other(table: pd.DataFrame, x: str, names: tuple[str, str], step: float) -> tuple[Figure, Axes]:
    """A figure of few places: one series with error bars a method, shifted so that they do not hide each other."""
    figure, (axis,) = panels(2.3, xlabel=names[0], ylabel=names[1])
    for i, (rows, mark, name) in enumerate(of_methods(table)):
        shift = step * (i - (table["method"].nunique() - 1) / 2)
        error_bars(axis, rows[x] + shift, rows, mark, name)
    axis.set_xticks(sorted(table[x].unique()))
    axis.grid(axis="x", visible=False)
    return figure, axis


def forest(
    names: Sequence[str],
    series: Iterable[tuple[str, Any, Any, dict[str, Any]]],
    height: float,
    xlabel: str,
    columns: int,
) -> tuple[Figure, Axes]:
    """A figure of shares across, one row a name, the first on top; ``columns`` of the legend.

    Args:
        series: name, rows (columns value, low, high), their places, and further options of the marks.
    """
    figure, (axis,) = panels(height, xlabel=xlabel)
    for name, rows, places, look in series:
        fixed: dict[str, Any] = {"linestyle": "none", "markersize": 3.2, "elinewidth": 0.9, "capsize": 1.3}
        axis.errorbar(rows["value"], places, xerr=sides(rows), label=name, **fixed, **look)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, columnspacing=1.2)
    return figure, axis


def rows_below(axis: Axes, names: Sequence[str]) -> None:
    """Names of bars down the y axis, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)


def doublings(axis: Axes, ticks: Sequence[float]) -> None:
    """An x axis on which equal steps are doublings."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def share_axis(axis: Axes, low: float = 0.0, high: float = 1.0) -> None:
    """A y axis for shares that leaves room for marks on its ends; not below what the data need, in steps of 0.1."""
    bottom = min(0.9, max(0.0, int(10 * (low - 0.02)) / 10))
    axis.set_ylim(bottom - 0.02 * (1 - bottom), high + 0.03 * (1 - bottom))


def apart(values: list[float]) -> list[float]:
    """Ticks that do not run into each other on an axis of doublings."""
    kept = values[:1]
    for value in values[1:]:
        if value / kept[-1] >= (values[-1] / values[0]) ** 0.12:
            kept.append(value)
    return kept


def heat_map(
    axis: Axes,
    values: Any,
    halves: Any,
    span: tuple[float, float],
    ticks: tuple[Sequence[str], Sequence[str]],
    numbers: bool = True,
) -> Any:
    """A map of ``(rows, columns)`` values; each cell says its value, and half the width of its interval where known, if
    there is room for ``numbers``. ``ticks``: texts of columns and rows.
    """
    image = axis.pcolormesh(values, cmap=HEAT, vmin=span[0], vmax=span[1], edgecolors="white", linewidth=1.0)
    for (i, j), value in np.ndenumerate(values):
        if numbers and not np.isnan(value):
            bright = (value - span[0]) / (span[1] - span[0]) > 0.55
            text = f"{value:.2f}" + (f"\n±{halves[i, j]:.2f}" if not np.isnan(halves[i, j]) else "")
            look: dict[str, Any] = {"size": 5.3, "color": "black" if bright else "white", "linespacing": 0.95}
            axis.text(j + 0.5, i + 0.5, text, ha="center", va="center", **look)
    axis.set_xticks(np.arange(values.shape[1]) + 0.5, list(ticks[0]))
    axis.set_yticks(np.arange(values.shape[0]) + 0.5, list(ticks[1]))
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image


def colour_bar(figure: Figure, image: Any, axes: Sequence[Axes], name: str = "") -> None:
    """The scale beside heat maps."""
    bar = figure.colorbar(image, ax=list(axes), shrink=0.85, pad=0.02)
    bar.set_label(name)
    bar.outline.set_visible(False)


def heat_maps(
    maps: Mapping[str, pd.DataFrame],
    places: tuple[tuple[str, list[Any]], tuple[str, list[Any]]],
    names: tuple[str, str],
    span: tuple[float, float],
    *,
    columns: int,
    height: float,
    numbers: bool = True,
    scale: str = "",
) -> Drawing:
    """Maps of one scale, beside and below each other.

    Args:
        maps: by title, long rows with ``value``, and in ``half`` half the width of its interval.
        places: column and values across, and down. names: of both axes. scale: name of the values.
    """
    labels = {"xlabel": names[0], "ylabel": names[1]}
    figure, axes = panels(height, len(maps), columns, sharex=True, sharey=True, **labels)
    (across, x), (down, y) = places
    ticks = [[f"{v:g}" if isinstance(v, float) else str(v) for v in values] for values in (x, y)]
    image: Any = None
    for axis, (title, rows) in zip(axes, maps.items(), strict=True):
        wide = (rows.pivot(index=down, columns=across, values=name) for name in ("value", "half"))
        values, halves = (table.reindex(index=y, columns=x).to_numpy(dtype=float) for table in wide)
        image = heat_map(axis, values, halves, span, (ticks[0], ticks[1]), numbers)
        axis.set_title(title)
    colour_bar(figure, image, figure.axes, scale)
    return figure
