"""How much of the old knowledge came back when other edited facts were retrained, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from editlab.analysis.intervals import mean_interval, wilson

INTERVAL = "Student's 95 % interval over seeds, at least as wide as Wilson's over all facts"


def restored_shares(table: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Mean restored share of each group: ``by``, seeds, facts (held-out, a seed), restored, restored_low, restored_high.

    Two seeds that agree by chance know no more than their facts do: the interval is at least as wide as that of a share
    of all held-out facts.

    Args:
        table: ``rtt_edits.csv``.
    """
    held_out = table[(table["model"] == "edited") & (table["facts"] == "held_out")] if len(table) else table
    rows: list[dict[str, Any]] = []
    if len(held_out):
        cells = held_out.drop_duplicates(["method", "batch", "replay", "rank", "seed"])
        for key, part in cells.groupby(list(by), sort=False):
            value, low, high = mean_interval(part["restored"])
            if low == low:
                least, most = wilson(min(max(value, 0.0), 1.0), int(part["n"].sum()))
                low, high = min(low, float(least)), max(high, float(most))
            names = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            found = {"restored": value, "restored_low": low, "restored_high": high}
            rows.append({**names, "seeds": len(part), "facts": int(part["n"].max()), **found})
    return pd.DataFrame(rows, columns=[*by, "seeds", "facts", "restored", "restored_low", "restored_high"])
