"""LaTeX of tables and captions: booktabs, every text escaped, intervals small beside their value."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import pandas as pd

from editlab.analysis.wording import MINUS, label

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    MINUS: "$-$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
    "’": "'",
    "Δ": r"$\Delta$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "⁄": "/",
}  # fmt: skip
ROWS = 60  # of a printed table; the CSV has all of them


# Letters beyond ASCII that pdfLaTeX has in T1 fonts: Latin-1 and Latin Extended-A, with these exceptions.
LETTERS = frozenset(c for c in map(chr, range(0xC0, 0x180)) if c.isalpha()) - frozenset("ĦħĸĿŀŉŦŧſ")


def escape(text: str) -> str:
    """Text that LaTeX prints as it is: no command, no environment, no ligature, one line.

    A character that pdfLaTeX lacks becomes its plain form (``ỏ`` -> ``o``) or its code point (``[U+4E2D]``); control
    characters vanish.
    """
    flat = " ".join(str(text).split())
    return re.sub("([-,])(?=\\1)", r"\1{}", "".join(map(_character, flat)))


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    if " " <= character <= "~" or character in LETTERS:
        return character
    plain = unicodedata.normalize("NFKD", character)
    if plain != character and (reduced := "".join(_character(c) for c in plain if not unicodedata.combining(c))):
        return reduced
    return f"[U+{ord(character):04X}]" if character.isprintable() and not unicodedata.combining(character) else ""


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
