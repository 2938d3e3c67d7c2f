"""Rows of a table as dictionaries, where a sentence or a mark needs one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """All rows, in order."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def largest(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row with the largest known value of a column; of several alike the first."""
    return records(frame.iloc[[int(frame[column].to_numpy(dtype=float, na_value=-float("inf")).argmax())]])[0]


def smallest(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """The row with the smallest known value of a column; of several alike the first."""
    return records(frame.iloc[[int(frame[column].to_numpy(dtype=float, na_value=float("inf")).argmin())]])[0]


def ends(frame: pd.DataFrame, order: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first and the last row in the order of a column."""
    rows = records(frame.sort_values(order))
    return rows[0], rows[-1]


def stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One under the other, those without rows left out; where none has any, the columns alone."""
    return pd.concat([part for part in parts if len(part)] or [parts[0].iloc[:0]], ignore_index=True)
