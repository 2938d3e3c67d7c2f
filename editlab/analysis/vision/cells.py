"""Cells of the comparison as tables: every seed and draw, and means with intervals over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.report.run import Run
from editlab.analysis.statistics.intervals import (
    Interval,
    beside,
    grouped,
    mean_interval,
    paired_change,
    share_interval,
)
from editlab.analysis.text.wording import label
from editlab.files.artifacts import read_verified

SHARES = (
    "accuracy_before", "accuracy_after", "accuracy_delta", "fix_rate", "stability", "regression_rate", "unchanged", "net_gain",
)  # fmt: skip
KAPPAS = ("kappa_before", "kappa_after")
EVERY = ("right_right", "right_wrong", "wrong_right", "wrong_wrong")
OF = {
    "accuracy_before": EVERY, "accuracy_after": EVERY, "unchanged": EVERY, "fix_rate": EVERY[2:],
    "stability": EVERY[:2], "regression_rate": EVERY[:2],
}  # fmt: skip
"""Shares, and the counts that add up to what each is a share of."""
SIGNED = ("accuracy_delta", *KAPPAS)
NAMES = {
    "alphaedit_last": "AlphaEdit (last block)",
    "alphaedit_trace": "AlphaEdit (traced block)",
    "alphaedit_stepwise": "AlphaEdit (one by one)",
    "head_ewc": "EWC on the head",
    "head_closed_form": "closed form on the head",
    "head_ablation": "attention-head ablation",
    "finetune_errors": "fine-tuning on errors",
    "finetune_errors_high": "fine-tuning at a higher rate",
    "retrain": "retraining with errors",
    "churn": "retraining without errors",
    "random": "random update",
    "random_null_space": "random null-space update",
    "wrong_labels": "wrong labels",
    "already_right": "images already right",
}


def shown(method: str) -> str:
    """A method as it is shown."""
    return NAMES.get(method, label(method))


def opening(method: str) -> str:
    """A method at the start of a sentence."""
    name = shown(method)
    return name[:1].upper() + name[1:]


def is_control(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe edits nothing that it should: what it gains is no merit of an edit."""
    return recipe["method"] == "churn" or recipe.get("control") is not None


def coordinates(path: str) -> dict[str, Any]:
    """Data set and seed of a file ``.../DATASET/seed~SEED/NAME``."""
    parts = Path(path).parts
    return {"dataset": parts[-3], "seed": int(parts[-2].removeprefix("seed~"))}


def read_cells(run: Run, name: str = "comparative_evaluation.csv") -> pd.DataFrame:
    """One file of every cell, rows as they are (one a draw and level, for the comparison itself)."""
    paths = [Path(run.root, folder, name) for cells in run.cells.values() for folder, _ in cells]
    return pd.concat([pd.read_csv(read_verified(path)) for path in paths], ignore_index=True)


def of_seeds(rows: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Means over draws within a seed, then over seeds, with Student's interval over seeds (over draws, if there is one seed).

    Draws of one classifier are alike: counted as if they were independent, they would make intervals too narrow.
    """

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = {}
        for column in columns:
            values = part.groupby("seed")[column].mean() if part["seed"].nunique() > 1 else part[column]
            found[column] = bounded(column, mean_interval(values), part)
        counts = {"seeds": part["seed"].nunique(), "cells": len(part), "images": int(part["n"].sum())}
        return {**counts, **beside(found)}

    return grouped(rows, by, told)


def by_dataset(table: pd.DataFrame, joined: str = " on ") -> Iterator[tuple[pd.DataFrame, str, str]]:
    """The rows of each data set, with what sentences (" on NAME") and keys (".NAME") add where there are several."""
    several = table["dataset"].nunique() > 1
    for dataset, part in table.groupby("dataset", sort=False):
        yield (part, f"{joined}{dataset}", f".{dataset}") if several else (part, "", "")


def bounded(column: str, number: Interval, part: pd.DataFrame) -> Interval:
    """An interval within what its column can be; at least as wide as the images allow.

    Seeds that agree to the last image say nothing about the next one: 60 of 60 fixed is not "1.00 (1.00 to 1.00)", and one
    image lost by each of three classifiers no loss without a doubt. A share gets Wilson's interval, a change of accuracy that of
    Agresti and Min. Draws of one classifier share images, so that only the images of one draw a seed are counted.
    """
    bounds = (0.0, 1.0) if column in OF else (-1.0, 1.0) if column in SIGNED else (-np.inf, np.inf)
    images, known = Interval(number.value), not np.isnan(number.value)
    if known and column in OF:
        images = share_interval(number.value, int(_a_seed(part[list(OF[column])].sum(axis=1), part)))
    elif known and column == "accuracy_delta" and set(EVERY) <= set(part):
        images = paired_change(*(_a_seed(part[name], part) for name in ("wrong_right", "right_wrong", "n")))
    return number.covering(images).within(*bounds)


def _a_seed(counts: pd.Series, part: pd.DataFrame) -> float:
    """Counts of one draw a seed."""
    return float(counts.groupby(part["seed"]).mean().sum())
