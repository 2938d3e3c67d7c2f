"""What an edit does on the discovery set, from the rows of :func:`editlab.vision.scoring.score`: what a search may look at.

Test is not looked at. Searches and the table that sets baselines beside them take their columns from here.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

LEVELS = ("edit", "discovery_rest", "discovery_right")


def discovery_score(table: pd.DataFrame) -> float:
    """What a search ranks by: discovery images gained, edited ones included, minus those lost, over its errors.

    An edit that does nothing has 0, one that fixes every error and breaks nothing 1; NaN without errors.
    """
    mine = table[table["level"].isin(LEVELS)]
    errors = int((mine["wrong_right"] + mine["wrong_wrong"]).sum())
    return float(mine["net_gain"].sum()) / errors if errors else math.nan


def heldout_score(table: pd.DataFrame) -> float:
    """Discovery errors that were not edited and are fixed, minus right images that are broken."""
    mine = table.set_index("level")["net_gain"]
    return float(mine["discovery_rest"] + mine["discovery_right"])


def discovery_columns(table: pd.DataFrame) -> dict[str, Any]:
    """The discovery levels of one edit on one row."""
    by: dict[Any, Any] = table.set_index("level").to_dict("index")
    edit, rest, right = (by[level] for level in LEVELS)
    return {
        "discovery_score": discovery_score(table),
        "edit_total_wrong": int(edit["wrong_right"] + edit["wrong_wrong"]),
        "edit_num_fixed": int(edit["wrong_right"]),
        "edit_fix_ratio": float(edit["fix_rate"]),
        "rest_total": int(rest["n"]),
        "rest_fixed": int(rest["wrong_right"]),
        "right_total": int(right["n"]),
        "right_broken": int(right["right_wrong"]),
    }
