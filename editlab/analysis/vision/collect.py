"""The table of a search: its cells, what they gained on test, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.statistics.intervals import records
from editlab.vision.discovery import discovery_columns

KINDS = {"retrain": "baseline_retrain", "finetune_errors": "baseline_finetune"}


def collect_search(cells: Sequence[str], scores: Sequence[str], baselines: Sequence[str], method: str) -> pd.DataFrame:
    """One row an experiment and baseline.

    ``source`` says which search a cell is of; ``same_as`` names the cell that a clipped one coincides with, whose numbers it
    repeats. Seconds differ from run to run; all other columns do not.

    Args:
        cells: folders of cells. scores: their test tables, in the same order. baselines: tables of baselines.
    """
    parts = [_of_folder(Path(folder), Path(score), method) for folder, score in zip(cells, scores, strict=True)]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    frame = pd.concat([_repeated(part) for _, part in frame.groupby(["seed", "search"], sort=False)], ignore_index=True)
    rows = [row for path in baselines for row in _of_baseline(pd.read_csv(path))]
    return pd.concat([frame.drop(columns="search"), pd.DataFrame(rows)], ignore_index=True)


def _of_folder(folder: Path, score: Path, method: str) -> pd.DataFrame:
    """The cells of one job, with their scores and seconds."""
    frame = pd.read_csv(folder / "cells.csv")
    for extra in (score, folder / "seconds.csv"):
        frame = frame.merge(pd.read_csv(extra), on="cell", how="left")
    frame["edit_time_seconds"] = frame.pop("edit_seconds")
    frame["duration_seconds"] = frame["edit_time_seconds"] + frame.pop("score_seconds")
    seed = int(folder.parent.name.removeprefix("seed~"))
    search = folder.name.split("~")[0]
    frame.insert(0, "seed", seed)
    frame.insert(0, "source", search)
    frame.insert(0, "method", method)
    return frame.assign(search=search)


def _repeated(frame: pd.DataFrame) -> pd.DataFrame:
    """Clipped cells that coincide with another repeat its numbers; only the cell that was run has seconds."""
    frame = frame.reset_index(drop=True)
    ran = frame[frame["same_as"] == frame["cell"]].set_index("cell")
    late = frame.columns[frame.columns.get_loc("same_as") + 1 :]  # type: ignore[operator]
    for name in (n for n in late if n not in ("search", "edit_time_seconds", "duration_seconds")):
        repeated = frame["same_as"].map(ran[name])
        frame[name] = frame[name].where(frame["same_as"] == frame["cell"], repeated)
    return frame


def _of_baseline(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a draw of a baseline."""
    found = []
    for (method, seed, draw), part in table.groupby(["method", "seed", "draw"], sort=True):
        by = {row["level"]: row for row in records(part)}
        edit, test, projection = by["edit"], by["test"], by["projection"]
        found.append(
            {
                "method": KINDS.get(str(method), f"baseline_{method}"),
                "source": "baseline",
                "seed": int(str(seed)),
                "cell": int(str(draw)),
                "max_edits": int(edit["requested"]),
                "used_edits": int(edit["used"]),
                **discovery_columns(part),
                "test_total": int(test["n"]),
                "test_acc_before": float(test["accuracy_before"]),
                "test_acc_after": float(test["accuracy_after"]),
                "test_acc_delta": float(test["accuracy_delta"]),
                "test_correct_to_wrong": int(test["right_wrong"]),
                "test_wrong_to_correct": int(test["wrong_right"]),
                "proj_stability": float(projection["stability"]),
                "proj_regression_rate": float(projection["regression_rate"]),
            }
        )
    return found
