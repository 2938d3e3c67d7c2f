"""What a stream's scores say about forgetting: which edits hold, by age and by subject, and what became of their neighbours.

All functions take a frame of :func:`editlab.evaluation.scoring.score_requests` (or, :func:`by_subject`, its means by case).
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from editlab.evaluation.summary import summarize

COMPOSITE = {"PS": "paraphrase", "S": "composite"}
Rows = list[tuple[str, float, int]]
"""(metric, value, n) of points of a curve."""


def by_subject(cases: pd.DataFrame) -> pd.DataFrame:
    """Means of cases as :func:`summarize` takes them, with the rewrites split by whether their subject came again."""
    rewrite = cases[cases["probe"] == "rewrite"]
    split = rewrite.assign(probe=rewrite["edited_again"].map({0: "rewrite_single", 1: "rewrite_repeated"}))
    parts = [cases, split] if rewrite["edited_again"].any() else [cases]
    return pd.concat(parts, ignore_index=True).assign(index=0)


def left_out(frame: pd.DataFrame) -> pd.DataFrame:
    """The share of the neighbours that NS leaves out, because their own facts are edited."""
    edited = frame["probe"] == "edited_neighborhood"
    around = edited | (frame["probe"] == "neighborhood")
    row = {"metric": "NS_left_out", "protocol": "share", "value": float(edited[around].mean()), "n": int(around.sum())}
    nan = float("nan")
    return pd.DataFrame([{**row, "ci_low": nan, "ci_high": nan, "when": "final"}] if around.any() else [])


def retention(frame: pd.DataFrame, age_of: Mapping[str, int]) -> Rows:
    """Scores of some of the earlier edits, and their retention by age in quarters of the stream so far."""
    rewrite = frame[frame["probe"] == "rewrite"]
    rows = [(f"retention_{p}", rewrite[p].mean(), len(rewrite)) for p in ("success", "accuracy")]
    ages = rewrite["case_id"].map(age_of)
    for age in range(4):
        group = rewrite[ages == age]
        if len(group):
            rows.append((f"retention_success_age{age + 1}", group["success"].mean(), len(group)))
    return rows


def by_return(rewrite: pd.DataFrame, again: Mapping[str, bool]) -> Rows:
    """Retention of the facts to whose subject the stream has come back since, and of the others."""
    came = rewrite["case_id"].map(again).astype(bool)
    groups = {"retention_single": rewrite[~came], "retention_repeated": rewrite[came]}
    return [
        (f"{name}_{p}", group[p].mean(), len(group))
        for name, group in groups.items()
        for p in ("success", "accuracy")
        if len(group)
    ]


def composite(frame: pd.DataFrame) -> Rows:
    """PS (other wordings of the edits) and S, as a table of scores has them: means over cases."""
    table = summarize(frame, resamples=0)
    scored = table[(table["n"] > 0) & table["protocol"].isin(("success", "accuracy"))]
    return [
        (f"{name}_{row['protocol']}", row["value"], row["n"])
        for metric, name in COMPOSITE.items()
        for row in scored[scored["metric"] == metric].to_dict("records")
    ]


def neighbors(frame: pd.DataFrame) -> Rows:
    """Scores of what an edit should leave as it was, and the share of the neighbours that are edited themselves."""
    edited, untouched = frame["probe"] == "edited_neighborhood", frame["probe"] == "neighborhood"
    groups = {
        "neighborhood": untouched,
        "neighborhood_published": edited | untouched,
        "same_subject": frame["probe"] == "same_subject",
    }
    rows = [
        (f"{name}_{p}", frame.loc[where, p].mean(), frame.loc[where, "case_id"].nunique())
        for name, where in groups.items()
        for p in ("success", "accuracy")
        if where.any()
    ]
    around = edited | untouched
    return [*rows, ("neighborhood_left_out", float(edited[around].mean()), int(around.sum()))] if around.any() else rows
