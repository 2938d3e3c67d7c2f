"""Findings of the matrix: the best methods, controls, batch size, replay, forgetting within its streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.comparisons import between, clear_winner
from editlab.analysis.figures.forgetting import RETENTION, sequential
from editlab.analysis.findings.base import Finding, difference_finding
from editlab.analysis.rows import records
from editlab.analysis.scores import CONTROLS, SCORES, controls, headline, pooled_curves, pooled_scores, wide
from editlab.analysis.wording import (
    SCORE_NAMES,
    counted,
    label,
    level_with,
    listed,
    signed_with,
)

Tables = Mapping[str, pd.DataFrame]
MATRIX, COMPARISONS, CURVES = "results/ablation_matrix.csv", "results/comparisons.csv", "results/curves.csv"


def _headline(tables: Tables) -> pd.DataFrame:
    return wide(headline(pooled_scores(tables["matrix"])))


def best_methods(tables: Tables) -> list[Finding]:
    """For each score the method on top, and whether the paired test puts it above every other one."""
    if "matrix" not in tables or "comparisons" not in tables:
        return []
    table, compared = _headline(tables), tables["comparisons"]
    table = table[~table["method"].isin(controls(tables["matrix"]))]
    return [_best(table, compared, metric) for metric in SCORES if len(table) and table[metric].notna().any()]


def _best(table: pd.DataFrame, compared: pd.DataFrame, metric: str) -> Finding:
    ordered = table.sort_values(metric, ascending=False, kind="stable")
    top = ordered.iloc[0]
    value, low, high = (float(top[c]) for c in (metric, f"{metric}_low", f"{metric}_high"))
    name, said = label(top["method"]), level_with(value, low, high)
    key, n = f"methods.best_{metric}", int(top["n"])
    score = SCORE_NAMES[metric]
    if len(ordered) == 1:
        return Finding(
            key, f"{name}, the only method, reaches a {score} of {said}.", value, low, high, n, False, MATRIX
        )
    others = list(ordered["method"].iloc[1:])
    if clear_winner(compared, top["method"], others, metric):
        second = ordered.iloc[1]
        pair = between(compared, top["method"], second["method"], metric)
        assert pair is not None
        gap = signed_with(pair["value"], pair["ci_low"], pair["ci_high"])
        sentence = (
            f"{name} has the highest {score} of {len(ordered)} methods ({setting(table)}), {said}: {gap} against "
            f"{label(second['method'])}, the next, on the same cases."
        )
        return Finding(key, sentence, value, low, high, n, True, MATRIX)
    level = [label(m) for m in others if not _above(compared, top["method"], m, metric)]
    sentence = (
        f"{name} comes out with the highest {score} of {len(ordered)} methods ({setting(table)}), {said}, but the paired "
        f"test does not set it apart from {listed(level)}."
    )
    return Finding(key, sentence, value, low, high, n, False, MATRIX)


def setting(table: pd.DataFrame) -> str:
    """The headline setting in words: ``batch 32 (ROME: 1), no replay``."""
    sizes = table["batch"].value_counts()
    usual = int(sizes.index[0])
    others = [f"{label(r['method'])}: {r['batch']}" for r in records(table) if r["batch"] != usual]
    replay = float(table["replay"].max())
    exceptions = f" ({', '.join(others)})" if others else ""
    return f"batch {usual}{exceptions}, {f'replay {replay:g}' if replay else 'no replay'}"


def _above(compared: pd.DataFrame, a: str, b: str, metric: str) -> bool:
    pair = between(compared, a, b, metric)
    return pair is not None and pair["ci_low"] > 0


def control_findings(tables: Tables) -> list[Finding]:
    """What the unedited model and random updates score: how much of a method's score is its own."""
    if "matrix" not in tables:
        return []
    table, outside = _headline(tables), controls(tables["matrix"])
    inside = table[~table["method"].isin(outside)]
    found = []
    for row in records(table[table["method"].isin(outside)]):
        value, low, high = row["ES"], row["ES_low"], row["ES_high"]
        what = (
            "The unedited model" if row["method"] == "none" else f"A control of updates that are {label(row['method'])}"
        )
        sentence = f"{what} has an efficacy (ES) of {level_with(value, low, high)}"
        beaten = [r for r in records(inside) if r["ES_low"] > high]
        sure = len(inside) > 0 and len(beaten) == len(inside)
        if sure:
            sentence += f"; the intervals of all {counted(len(inside), 'method')} lie above it."
        elif len(inside):
            rest = [label(r["method"]) for r in records(inside) if r not in beaten]
            sentence += f"; {listed(rest)} {'is' if len(rest) == 1 else 'are'} not measurably above it."
        else:
            sentence += "."
        found.append(
            Finding(f"methods.control_{row['method']}", sentence, value, low, high, int(row["n"]), sure, MATRIX)
        )
    return found


def batch_findings(tables: Tables) -> list[Finding]:
    """Each method's largest against its smallest batch: S, then who it helps in all."""
    rows = _kind(tables, "batch")
    found = []
    for row in rows:
        change = f"Editing {row['a_batch']} facts at once instead of {_one(row['b_batch'])}"
        key = f"batch.{row['a']}" + (f"_rank{row['a_rank']}" if row["a_rank"] else "")
        found.append(difference_finding(key, row, change, "S", COMPARISONS, f" of {label(row['a'])}"))
    return found + _summary("batch.summary", rows, found, "A larger batch", "S")


def _one(batch: int) -> str:
    return "one by one" if batch == 1 else str(batch)


def replay_findings(tables: Tables) -> list[Finding]:
    """Every replay rate against none: S, then the count of what helps and what hurts."""
    rows = _kind(tables, "replay")
    found = []
    for row in rows:
        tail = f" of {label(row['a'])} at batch {row['a_batch']}"
        rank = f"_rank{row['a_rank']}" if row["a_rank"] else ""
        key = f"replay.{row['a']}_batch{row['a_batch']}_rate{row['a_replay']:g}{rank}"
        subject = f"Replaying {row['a_replay']:g} facts per new fact"
        found.append(difference_finding(key, row, subject, "S", COMPARISONS, tail))
    return found + _summary("replay.summary", rows, found, "Replay", "S")


def _kind(tables: Tables, kind: str) -> list[dict[str, Any]]:
    """Comparisons of S of one kind, controls left out."""
    if "comparisons" not in tables:
        return []
    compared = tables["comparisons"]
    rows = compared[(compared["kind"] == kind) & (compared["metric"] == "S")]
    outside = {*CONTROLS, *(controls(tables["matrix"]) if "matrix" in tables else ())}
    return [r for r in records(rows) if r["a"] not in outside]


def _summary(
    key: str, rows: Sequence[Mapping[str, Any]], found: Sequence[Finding], subject: str, metric: str
) -> list[Finding]:
    """How many of the comparisons show a gain or a loss; value: the mean difference."""
    if not found:
        return []
    up = sum(f.low > 0 for f in found)
    down = sum(f.high < 0 for f in found)
    rest = len(found) - up - down
    parts = [f"raises {metric} measurably in {up}", f"lowers it in {down}", f"makes no measurable difference in {rest}"]
    mean = sum(f.value for f in found) / len(found)
    sentence = f"{subject} {listed(parts)} of {counted(len(found), 'comparison')} on the same cases."
    nan = float("nan")
    n = max(int(r["n"]) for r in rows)
    return [Finding(key, sentence, mean, nan, nan, n, up + down > 0, COMPARISONS)]


def forgetting_findings(tables: Tables) -> list[Finding]:
    """How many of its edits each method still holds at the end, one batch after another without replay."""
    if "curves" not in tables or tables["curves"].empty:
        return []
    curves = pooled_curves(sequential(tables["curves"]))
    found = []
    for method, part in curves[curves["metric"] == RETENTION].groupby("method", sort=False):
        ordered = part.sort_values("edits_seen")
        first, last = ordered.iloc[0], ordered.iloc[-1]
        if len(ordered) < 2:
            continue
        ends = [level_with(r["value"], r["low"], r["high"]) for r in (first, last)]
        lost = bool(last["high"] < first["low"])
        gained = bool(last["low"] > first["high"])
        how = "falls" if lost else "rises" if gained else "does not change measurably"
        sentence = (
            f"The share of edits that hold under {label(str(method))} (batch {last['batch']}, no replay) {how}: {ends[0]} after "
            f"{first['edits_seen']} edits, {ends[1]} after {last['edits_seen']}."
        )
        numbers = (float(last["value"]), float(last["low"]), float(last["high"]))
        found.append(Finding(f"forgetting.{method}", sentence, *numbers, int(last["n"]), lost or gained, CURVES))
    return found
