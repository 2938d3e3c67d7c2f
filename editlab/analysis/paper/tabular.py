"""Printed tables: booktabs, every text escaped, intervals small beside their value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import MINUS, label

ROWS = 60  # of a printed table; the CSV has all of them


@dataclasses.dataclass(frozen=True)
class Column:
    """A printed column.

    Attributes:
        name: column of the frame; ``{name}_low`` and ``{name}_high`` are its interval, ``{name}_best`` prints it bold.
        title: head, plain text.
        kind: ``text``, ``method`` (shown by its label), ``count``, ``level`` or ``difference`` (with a sign).
        digits: decimals.
        scale: printed value = value * scale.
    """

    name: str
    title: str
    kind: str = "level"
    digits: int = 2
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Printed:
    """A table to print.

    Attributes:
        frame: numbers; for a printed column also ``_low``, ``_high`` (interval) and ``_best`` (bold) where they apply.
        columns: what is printed, in order; those that the frame lacks are left out.
        legend: its caption, plain text.
        source: name of the collected table that the numbers come from.
    """

    frame: pd.DataFrame
    columns: Sequence[Column]
    legend: str
    source: str

    def latex(self) -> str:
        """The ``tabular``."""
        return tabular(self.frame, self.columns, f"{self.source}.csv")


def tabular(frame: pd.DataFrame, columns: Sequence[Column], source: str, rows: int = ROWS) -> str:
    """A ``tabular`` with booktabs rules.

    Args:
        source: file that the numbers come from, named in a comment.
        rows: printed at most; a last line says how many more the CSV has.
    """
    present = [c for c in columns if c.name in frame]
    layout = "".join("l" if c.kind in ("text", "method") else "r" for c in present)
    lines = [
        f"% From {escape(source)}; made by the workflow, not to be edited.",
        rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
    ]
    lines += [r"\toprule", " & ".join(escape(c.title) for c in present) + r" \\", r"\midrule"]
    for record in frame.head(rows).to_dict("records"):
        lines.append(" & ".join(cell(record, column) for column in present) + r" \\")
    if len(frame) > rows:
        more = f"and {len(frame) - rows} further rows in the CSV file"
        lines.append(rf"\multicolumn{{{len(present)}}}{{@{{}}l@{{}}}}{{{escape(more)}}} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def cell(record: dict[Any, Any], column: Column) -> str:
    """One entry: the value, bold where it is best, with its interval in small print."""
    value = record[column.name]
    if column.kind == "method":
        return escape(label(str(value)))
    if column.kind == "text":
        return escape("" if pd.isna(value) else str(value))
    if pd.isna(value):
        return "--"
    if column.kind == "count":
        return escape(f"{value:,.0f}")
    number = number_text(float(value) * column.scale, column)
    best = record.get(f"{column.name}_best")
    text = rf"\textbf{{{number}}}" if isinstance(best, (bool, int)) and bool(best) else number
    low, high = (float(record.get(f"{column.name}_{side}", math.nan)) * column.scale for side in ("low", "high"))
    if math.isnan(low) or math.isnan(high):
        return text
    small = f"{number_text(low, column, True)}, {number_text(high, column, True)}"
    return rf"{text}\,{{\tiny[{small}]}}"


def number_text(value: float, column: Column, short: bool = False) -> str:
    """A number for print; ``short`` leaves out the zero before the point."""
    sign = "+" if column.kind == "difference" else ""
    text = f"{value:{sign}.{column.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    if short and column.digits:
        text = text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
    return escape(text.replace("-", MINUS))
