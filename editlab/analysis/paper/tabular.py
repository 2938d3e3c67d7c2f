"""Printed tables: booktabs, every text escaped, intervals small beside their value."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
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


def columns_of(titles: Mapping[str, str], kind: str = "level", digits: int = 2, scale: float = 1.0) -> list[Column]:
    """Columns of one kind, by name with their heads."""
    return [Column(name, title, kind, digits, scale) for name, title in titles.items()]


@dataclasses.dataclass(frozen=True)
class Printed:
    """A table to print.

    Attributes:
        frame: numbers; for a printed column also ``_low``, ``_high`` (interval) and ``_best`` (bold) where they apply.
        columns: what is printed, in order; those that the frame lacks are left out.
        legend: its caption, plain text.
    """

    frame: pd.DataFrame
    columns: Sequence[Column]
    legend: str


def tabular(frame: pd.DataFrame, columns: Sequence[Column], source: str) -> str:
    """A ``tabular`` with booktabs rules; a comment names the ``source``, the last line how many more rows the CSV has."""
    present = [c for c in columns if c.name in frame]
    layout = "".join("l" if c.kind in ("text", "method") else "r" for c in present)
    lines = [f"% From {escape(source)}; made by the workflow, not to be edited."]
    lines += [rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}", r"\toprule"]
    lines += [" & ".join(escape(c.title) for c in present) + r" \\", r"\midrule"]
    for record in frame.head(ROWS).to_dict("records"):
        lines.append(" & ".join(cell(record, column) for column in present) + r" \\")
    if len(frame) > ROWS:
        more = f"and {len(frame) - ROWS} further rows in the CSV file"
        lines.append(rf"\multicolumn{{{len(present)}}}{{@{{}}l@{{}}}}{{{escape(more)}}} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def parts(record: Mapping[Any, Any], column: Column, short: bool = True) -> tuple[str, str, bool]:
    """One entry as plain text: the value, its interval (``.91, .96``; empty where unknown), and whether it is bold."""
    value = record[column.name]
    if pd.isna(value):
        return "", "", False
    if column.kind in ("method", "text"):
        return (label(str(value)) if column.kind == "method" else str(value)), "", False
    if column.kind == "count":
        return f"{value:,.0f}", "", False
    best = record.get(f"{column.name}_best")
    low, high = (float(record.get(f"{column.name}_{side}", math.nan)) * column.scale for side in ("low", "high"))
    unknown = math.isnan(low) or math.isnan(high)
    interval = "" if unknown else f"{number_text(low, column, short)}, {number_text(high, column, short)}"
    return number_text(float(value) * column.scale, column), interval, isinstance(best, (bool, int)) and bool(best)


def cell(record: Mapping[Any, Any], column: Column) -> str:
    """One entry in LaTeX: the value, bold where it is best, with its interval in small print."""
    value, interval, best = parts(record, column)
    if column.kind not in ("method", "text") and not value:
        return "--"
    text = rf"\textbf{{{escape(value)}}}" if best else escape(value)
    return rf"{text}\,{{\tiny[{escape(interval)}]}}" if interval else text


def list_of(printed: Printed, form: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows for a page, text by text through the escape ``form``; best values in ``**``."""
    columns = [c for c in printed.columns if c.name in printed.frame]
    rows = []
    for record in printed.frame.to_dict("records"):
        entries = [parts(record, column, short=False) for column in columns]
        shown = [f"**{form(value)}**" if best else form(value) for value, _, best in entries]
        rows.append([f"{s} {form(f'[{i}]')}" if i else s for s, (_, i, _) in zip(shown, entries, strict=True)])
    return [form(c.title) for c in columns], rows


def number_text(value: float, column: Column, short: bool = False) -> str:
    """A number for print; ``short`` leaves out the zero before the point."""
    sign = "+" if column.kind == "difference" else ""
    text = f"{value:{sign}.{column.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    if short and column.digits:
        text = text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
    return text.replace("-", MINUS)


def wrapped(text: str, layout: str, anywhere: bool = False) -> str:
    """A tabular as wide as a column, in which the columns ``X`` wrap: at underscores, or ``anywhere`` in long words."""
    start, end = text.index(r"\begin{tabular}{@{}"), text.index("@{}}")
    layout = layout.replace("X", r">{\raggedright\arraybackslash}X")
    head, body = text[:start], text[end:].replace(r"\end{tabular}", r"\end{tabularx}")
    if anywhere:
        command = re.compile(r"\\(top|mid|bottom)rule|\\end")
        body = "\n".join(line if command.match(line) else _breakable(line) for line in body.split("\n"))
    else:
        body = body.replace(r"\_", r"\_\allowbreak{}")
    return rf"{head}\footnotesize\begin{{tabularx}}{{\columnwidth}}{{@{{}}{layout}{body}"


def _breakable(line: str) -> str:
    """Escaped text in which words of more than eight letters may be broken after every one of them."""

    def split(match: re.Match[str]) -> str:
        units = re.findall(r"\\[a-zA-Z]+\{\}|\\.|\$[^$]*\$|.", match[0])
        return match[0] if len(units) <= 8 or "\\\\" in match[0] else r"\allowbreak{}".join(units)

    return re.sub(r"\S+", split, line)
