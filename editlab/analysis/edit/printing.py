"""What the printed tables of several topics share: columns, differences side by side, every setting of a table of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from editlab.analysis.edit.comparisons import clear_winner
from editlab.analysis.edit.scores import SCORES, basis, controls, over, side_by_side
from editlab.analysis.paper.tabular import Column, Printed
from editlab.analysis.report.topic import Sheet, Tables
from editlab.analysis.statistics.intervals import Interval, beside, grouped, largest, records
from editlab.analysis.text.findings import ALPHA

EXCLUDES = "bold: p < .05 after Holm's correction for the comparisons of its kind"
BOLD = "bold: the best method, where its paired difference to every other one (controls apart) excludes zero"
METHOD = Column("method", "method", "method")
BATCH, RANK = Column("batch", "batch", "count"), Column("rank", "rank", "count")
REPLAY = Column("replay", "replay", "level", 1)
SCORE_COLUMNS = tuple(Column(metric, metric) for metric in SCORES)
DIFFERENCE_COLUMNS = tuple(Column(metric, f"Δ{metric}", "difference", 3) for metric in SCORES)
DIFFERENCE_OF_S = Column("dS", "ΔS", "difference", 3)


def every_setting(name: str, title: str, tables: Sequence[str], first: str, level: int = 9) -> Sheet:
    """Every setting of the first table, one of cells, with seeds together; bold within each block where it stands beside
    comparisons."""

    def make(found: Tables) -> Printed:
        frame, compared = side_by_side(found[tables[0]]), found.get("comparisons")
        if compared is not None and len(frame):
            inside = frame[~frame["method"].isin(controls(found[tables[0]]))]
            compared_at = dict(iter(compared.groupby(["a_batch", "a_replay", "a_rank"])))
            blocks = inside.groupby(["batch", "replay", "rank"], sort=False)
            mark_best(frame, [(block, compared_at.get(key, compared.head(0))) for key, block in blocks], "best")
        said = f"; {BOLD}, in the same block" if compared is not None else ""
        ranked = [RANK] if len(frame) and frame["rank"].nunique() > 1 else []
        columns = [METHOD, BATCH, REPLAY, *ranked, *SCORE_COLUMNS, Column("seeds", "seeds", "count")]
        return Printed(frame, columns, f"{first}. Success at the end of the stream with {over(frame)}{said}.")

    return Sheet(name, title, tuple(tables), make, level)


def mark_best(frame: pd.DataFrame, blocks: Sequence[tuple[pd.DataFrame, pd.DataFrame]], kind: str) -> None:
    """Set ``{metric}_best`` where the paired tests of a kind put the top of a block (rows, and their comparisons) above all
    others of it."""
    for metric in SCORES:
        frame[f"{metric}_best"] = False
        for block, compared in blocks:
            top = largest(block, metric)["method"]
            if clear_winner(compared, top, list(block["method"]), metric, kind):
                frame.loc[block.index[block["method"] == top], f"{metric}_best"] = True


def differences_wide(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Paired differences side by side: one row a place, ES, ES_low, ES_high, ES_best (by Holm), ..., n."""

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for row in records(part):
            found |= beside({row["metric"]: Interval.of(row)}) | {f"{row['metric']}_best": bool(row["p_holm"] < ALPHA)}
        return found | {"n": int(part["n"].max()), "seeds": int(part["seeds"].max())}

    return grouped(rows, by, told)


def differences_sheet(rows: pd.DataFrame, places: Sequence[Column], what: str) -> Printed:
    """Paired differences of ES, PS, NS and S by place; the legend says what they are."""
    frame = differences_wide(rows, [place.name for place in places])
    said = f" ({basis(frame)})" if len(frame) else ""
    return Printed(frame, [*places, *DIFFERENCE_COLUMNS], f"{what}{said}; {EXCLUDES}.")


def add_difference(gain: pd.DataFrame, frame: pd.DataFrame, base: str) -> pd.DataFrame:
    """Add the paired difference of S to a base method, if there is one: dS, dS_low, dS_high, dS_best."""
    if gain.empty or not base:
        return frame
    rows = gain[(gain["metric"] == "S") & (gain["b"] == base)]
    rows = rows.assign(dS_best=rows["p_holm"] < ALPHA)
    named = rows.rename(columns={"a": "method", "value": "dS", "ci_low": "dS_low", "ci_high": "dS_high"})
    keys = ["method", "rank", "replay"]
    merged = frame.merge(named[[*keys, "dS", "dS_low", "dS_high", "dS_best"]], on=keys, how="left")
    return merged.assign(dS_best=merged["dS_best"].eq(True))
