"""Means over seeds with intervals, and names, as the topics of the unlearning study share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.statistics.intervals import Interval, beside, grouped, mean_interval, pooled_shares
from editlab.analysis.statistics.streams import ENOUGH
from editlab.analysis.text.wording import counted, level_with
from editlab.data.questions import CHANCE

ACCURACIES = ("A", "B", "C", "N", "B_two_fold", "C_two_fold", "N_two_fold")
RATES = ("recovery", "recovery_corrected", "recovery_two_fold", "recovery_corrected_two_fold", "retain_drop")
NAMES = {
    "gd": "GD",
    "whp": "WHP",
    "fwf": "FWF",
    "rmu": "RMU",
    "graddiff": "GradDiff",
    "npo": "NPO",
    "simnpo": "SimNPO",
    "repselect": "RepSelect",
    "layered": "layered",
    "hidden": "hidden on purpose",
    "lora": "LoRA",
    "trap": "(low rate)",
}
INTERVALS = "95 % intervals over questions and seeds"


def shown(method: str, rank: int = 0) -> str:
    """A method as it is shown: ``gd_lora`` at rank 4 is ``GD LoRA r4``."""
    words = [NAMES.get(part, part) for part in method.split("_")]
    return " ".join([*words, *([f"r{rank}"] if rank else [])])


def chosen(summary: pd.DataFrame, point: str = "selected", attack: str = "full") -> pd.DataFrame:
    """Rows of a kind of point and attack that have a model."""
    rows = summary[(summary["point"] == point) & (summary["attack"] == attack) & (summary["found"] == 1)]
    return rows.reset_index(drop=True)


def over_seeds(rows: pd.DataFrame, by: Sequence[str] = ("method", "rank")) -> pd.DataFrame:
    """One row a group: seeds, questions, and each number with ``_low`` and ``_high``.

    Accuracies honour both the questions of a seed (Wilson) and the spread of seeds; rates and drops have Student's interval
    over seeds.
    """

    def told(part: pd.DataFrame) -> dict[str, Any]:
        found = {name: pooled_shares(part[name], part["V_n"]) for name in ACCURACIES}
        found |= {name: mean_interval(part[name]) for name in RATES}
        rise = mean_interval(part["B_two_fold"] - part["A"])
        found["rise"] = rise if len(part) >= ENOUGH else Interval(rise.value)
        means = {name: float(part[name].mean()) for name in ("retain", "kl")}
        return {"seeds": len(part), "questions": int(part["V_n"].max()), **beside(found), **means}

    return grouped(rows, by, told)


def basis(rows: pd.DataFrame) -> str:
    """How much the numbers stand on."""
    return f"{counted(int(rows['questions'].max()), 'question')} a seed, {counted(int(rows['seeds'].max()), 'seed')}"


def metric_of(summary: pd.DataFrame) -> str:
    """The measure of the run; seeds that differ have cloze, which needs no skill with letters."""
    found = set(summary["metric"])
    return str(found.pop()) if len(found) == 1 else "cloze"


def recovered(row: Mapping[str, Any]) -> bool:
    """Whether facts came back beyond doubt: B is above A, paired within seeds, and its interval above that of N.

    B above N alone is no return where unlearning stopped above N. Where there is no N (a model that knew from its
    pre-training) chance stands in its place; with one or two seeds the interval of B must be above A.
    """
    rise = row["B_two_fold_low"] - row["A"] if pd.isna(row["rise_low"]) else row["rise_low"]
    return above_control(row) and bool(rise > 0)


def above_control(row: Mapping[str, Any], number: str = "B_two_fold_low") -> bool:
    """Whether B (its lower end) is above the interval of N, or above chance where there is no N."""
    return bool(row[number] > (CHANCE if pd.isna(row["N_two_fold"]) else row["N_two_fold_high"]))


def against(row: Mapping[str, Any]) -> str:
    """The control of a rate in words: the model that never knew, or chance where there is none."""
    if pd.isna(row["N_two_fold"]):
        return f"a chance of {CHANCE} (there is no model that never knew)"
    return f"{level_with(*Interval.of(row, 'N_two_fold'))} of the model that never knew"
