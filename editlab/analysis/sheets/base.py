"""What a printed table is, and how its files are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.latex import Column, escape, tabular
from editlab.analysis.rows import records
from editlab.analysis.wording import rst
from editlab.files.artifacts import write_csv, write_text

Tables = Mapping[str, pd.DataFrame]
SCORE_COLUMNS = tuple(Column(metric, metric) for metric in ("ES", "PS", "NS", "S"))
DIFFERENCE_COLUMNS = tuple(Column(metric, f"Δ{metric}", "difference", 3) for metric in ("ES", "PS", "NS", "S"))


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table to print.

    Attributes:
        frame: numbers; for a printed column also ``_low``, ``_high`` (interval) and ``_best`` (bold) where they apply.
        columns: what is printed, in order; those that the frame lacks are left out.
        caption: plain text.
        source: the file that the numbers come from.
    """

    frame: pd.DataFrame
    columns: Sequence[Column]
    caption: str
    source: str


def write_sheet(sheet: Sheet, outputs: Mapping[str, Any]) -> None:
    """Write ``csv``, ``tex``, and the caption as ``rst`` and ``caption`` (LaTeX)."""
    write_csv(str(outputs["csv"]), sheet.frame)
    write_text(str(outputs["tex"]), tabular(sheet.frame, sheet.columns, sheet.source))
    write_text(str(outputs["rst"]), rst(sheet.caption) + "\n")
    write_text(str(outputs["caption"]), escape(sheet.caption) + "\n")


def differences_wide(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Paired differences side by side: one row a place, ES, ES_low, ES_high, ES_best (interval excludes zero), ..., n."""
    found: list[dict[str, Any]] = []
    for key, part in rows.groupby(list(by), sort=False):
        row: dict[str, Any] = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        for record in records(part):
            metric, low, high = record["metric"], record["ci_low"], record["ci_high"]
            row |= {metric: record["value"], f"{metric}_low": low, f"{metric}_high": high}
            row[f"{metric}_best"] = bool(low > 0 or high < 0)
        found.append(row | {"n": int(part["n"].max()), "seeds": int(part["seeds"].max())})
    return pd.DataFrame(found)
