"""Findings of the studies on replay, long streams, LoRA, trust, greedy steps and retraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from editlab.analysis.decisions import area_under_roc
from editlab.analysis.figures.forgetting import RETENTION
from editlab.analysis.figures.greedy import rank_correlation
from editlab.analysis.figures.trust import area_with_interval, both_classes, stressed
from editlab.analysis.findings.base import Finding, difference_finding, direction, size_percent
from editlab.analysis.retraining import restored_shares
from editlab.analysis.rows import largest, records
from editlab.analysis.scores import pooled_curves
from editlab.analysis.wording import counted, label, leading, level_with, percent, signed, signed_with
from editlab.analysis.worth import guarded_runs, worth

Tables = Mapping[str, pd.DataFrame]


def replay_ablation_findings(tables: Tables) -> list[Finding]:
    """The largest gain of S by replay, and how often it helps."""
    if "replay_gain" not in tables or tables["replay_gain"].empty:
        return []
    source = "results/replay_gain.csv"
    rows = tables["replay_gain"]
    rows = rows[rows["metric"] == "S"]
    best = largest(rows, "value")
    where = f" of {label(best['method'])} (capacity {best['capacity']}, {best['strategy']} sampling)"
    subject = f"Replaying {best['replay']:g} facts per new fact, the best of {counted(len(rows), 'setting')},"
    found = [difference_finding("replay.best_setting", best, subject, "S", source, where)]
    helps, hurts = int((rows["ci_low"] > 0).sum()), int((rows["ci_high"] < 0).sum())
    sentence = f"Of {counted(len(rows), 'replay setting')}, {helps} raise S measurably and {hurts} lower it."
    mean, nan = float(rows["value"].mean()), float("nan")
    return [
        *found,
        Finding("replay.settings", sentence, mean, nan, nan, int(rows["n"].max()), helps + hurts > 0, source),
    ]


def long_stream_findings(tables: Tables) -> list[Finding]:
    """Who holds the most after the long stream, and where forgetting turns."""
    found: list[Finding] = []
    if "large_scale" in tables and len(tables["large_scale"]):
        curves = pooled_curves(tables["large_scale"][tables["large_scale"]["metric"] == RETENTION])
        last = curves[curves["edits_seen"] == curves["edits_seen"].max()].sort_values(
            "value", ascending=False, kind="stable"
        )
        rows = [(_named(r), float(r["value"]), float(r["low"]), float(r["high"])) for r in records(last)]
        if rows:
            edits = counted(int(last["edits_seen"].max()), "edit")
            sentence = leading(rows, f"share of edits that hold after {edits}")
            sure = len(rows) > 1 and rows[0][2] > max(r[3] for r in rows[1:])
            numbers = rows[0][1:]
            n = int(last["n"].max())
            found.append(
                Finding("forgetting.long_stream", sentence, *numbers, n, sure, "results/large_scale_forgetting.csv")
            )
    points = tables.get("turning_points", pd.DataFrame())
    return found + [_turn(row) for row in records(points)]


def _named(row: Mapping[str, Any]) -> str:
    return f"{label(row['method'])} with replay {row['replay']:g}" if row["replay"] else label(row["method"])


def _turn(row: Mapping[str, Any]) -> Finding:
    """Where a broken line fits better than one: the turning point with its interval."""
    name, kind = _named(row), row["kind"]
    key = f"forgetting.turn_{row['method']}_replay{row['replay']:g}"
    value, low, high = float(row["edits"]), float(row["ci_low"]), float(row["ci_high"])
    slopes = f"{signed(row['slope_before'], 2)} before and {signed(row['slope_after'], 2)} after it, per 1,000 edits"
    if kind == "none":
        sentence = f"{name} shows no turning point: one straight line describes its retention."
    else:
        how = "turns into a steeper fall" if kind == "collapse" else "levels off"
        spread = f"95 % interval {low:,.0f} to {high:,.0f}; slope {slopes}"
        sentence = f"The retention of {name} {how} at about {value:,.0f} edits ({spread})."
    return Finding(key, sentence, value, low, high, int(row["seeds"]), kind != "none", "results/turning_points.csv")


def lora_findings(tables: Tables) -> list[Finding]:
    """Native LoRA against the raw edit and against the plain cut, by rank."""
    if "lora_gain" not in tables or tables["lora_gain"].empty:
        return []
    rows = tables["lora_gain"]
    found = []
    for row in records(rows[rows["metric"] == "S"]):
        key = f"lora.{row['a']}_vs_{row['b']}_rank{row['rank']}" + (
            f"_replay{row['replay']:g}" if row["replay"] else ""
        )
        subject = _in_place_of(row)
        found.append(difference_finding(key, row, subject, "S", "results/lora_gain.csv", _replayed(row)))
    return found + _bytes(tables)


def _in_place_of(row: Mapping[str, Any]) -> str:
    """Who is compared, and how much more or less it stores: gains that were bought with parameters must say so."""
    ratio = float(row["stored_ratio"])
    size = f"{ratio:.2g} times" if ratio > 1 else f"{percent(ratio)} of"
    stores = f" (storing {size} its numbers)" if abs(ratio - 1) > 0.02 else ""
    return f"{label(row['a'])} at rank {row['rank']}, in place of {label(row['b'])}{stores},"


def _replayed(row: Mapping[str, Any]) -> str:
    return f" with replay {row['replay']:g}" if row["replay"] else ""


def _bytes(tables: Tables) -> list[Finding]:
    """How much smaller the stored edit is."""
    table = tables.get("lora", pd.DataFrame())
    if table.empty or not (table["rank"] == 0).any():
        return []
    raw = float(table.loc[table["rank"] == 0, "bytes"].mean())
    found = []
    for rank in sorted(table.loc[table["rank"] > 0, "rank"].unique()):
        part = table[(table["rank"] == rank) & (table["bytes"] < raw)]  # a posthoc edit stores the raw one too
        if part.empty:
            continue
        share = float(part["bytes"].mean()) / raw
        sentence = f"At rank {rank} a LoRA edit stores {percent(share)} of the bytes of the raw edit."
        found.append(
            Finding(
                f"lora.bytes_rank{rank}",
                sentence,
                share,
                share,
                share,
                len(part),
                share < 1,
                "results/lora_ablation.csv",
            )
        )
    return found


CHANGED = {  # a relative change by trust: what changes, sign of the number's effect on it
    "retention_gain": ("the share of edits that hold", 1.0),
    "ppl_rise_cut": ("the rise of held-out perplexity", -1.0),
}
SHARES = {"overhead": "takes {} of the editing time", "accuracy": "decides rightly on {} of the batches"}
WORTH = (*CHANGED, *SHARES)


def trust_findings(tables: Tables) -> list[Finding]:
    """How well trust tells harm, and what its decisions were worth, by method and kind of stream."""
    found: list[Finding] = []
    if "trust_decisions" in tables and len(tables["trust_decisions"]):
        for method, part in stressed(tables["trust_decisions"]).groupby("method", sort=False):
            if both_classes(part):
                value, low, high = area_with_interval(part, area_under_roc)
                sure = low > 0.5 or high < 0.5
                verdict = "above chance" if low > 0.5 else "below chance" if high < 0.5 else "not told from chance"
                sentence = (
                    f"Low trust of {label(str(method))} marks harmful batches with an area under the ROC curve of "
                    f"{level_with(value, low, high)}, {verdict}."
                )
                key = f"trust.auc_{method}"
                found.append(Finding(key, sentence, value, low, high, len(part), sure, "results/trust_decisions.csv"))
    runs = guarded_runs(tables.get("trust", pd.DataFrame()))
    if runs.empty or "trust_forgetting" not in tables:
        return found
    for place in records(runs[["experiment", "method"]].drop_duplicates()):
        part = runs[(runs["experiment"] == place["experiment"]) & (runs["method"] == place["method"])]
        numbers = worth(part, tables["trust_forgetting"])
        idle = 1 - float((part["harmful"] * part["n"]).sum() / part["n"].sum())
        found += [
            _worth(place, len(part), name, numbers[name], idle)
            for name in WORTH
            if numbers[name][0] == numbers[name][0]
        ]
    return found


def _worth(
    place: Mapping[str, Any], seeds: int, name: str, numbers: tuple[float, float, float], idle: float
) -> Finding:
    """One number of trust over the seeds of a kind of stream; ``idle``: the accuracy of never acting."""
    value, low, high = numbers
    known = low == low
    if name in SHARES:
        number = percent(value) + (f" ({percent(low)} to {percent(high)})" if known else "")
        claim, sure = SHARES[name].format(number), known
    else:
        claim, sure = _changed(name, value, low, high)
    if name == "accuracy":  # with few harmful batches a guard that never acts is right most of the time
        sure = bool(low > idle)
        claim += f", where never acting would be right on {percent(idle)}"
        claim += "" if sure else ": not measurably better"
    stream = "with harmful batches" if place["experiment"] == "trust_eval" else "without harmful batches"
    sentence = f"On streams {stream}, trust ({label(place['method'])}) {claim} ({counted(seeds, 'seed')})."
    key = f"trust.{name}_{place['method']}_{place['experiment']}"
    return Finding(key, sentence, value, low, high, seeds, sure, "results/trust_eval.csv")


def _changed(name: str, value: float, low: float, high: float) -> tuple[str, bool]:
    """What trust does to a quantity, relative to the same method without it, as far as the interval says."""
    what, sign = CHANGED[name]
    ends = sorted((sign * low, sign * high)) if low == low else [float("nan")] * 2
    verb = direction(ends[0], ends[1])
    if verb is None:
        spread = f" ({signed(100 * ends[0], 0)} to {signed(100 * ends[1], 0)} %)" if low == low else ""
        return f"makes no measurable difference to {what}: {signed(100 * sign * value, 0)} %{spread}", False
    return f"{verb} {what} by {size_percent(value, low, high)}, relative to no trust", True


def greedy_findings(tables: Tables) -> list[Finding]:
    """Greedy steps against one step on the same cases; acceptance; whether trust knows what a step is worth."""
    found: list[Finding] = []
    if "greedy_gain" in tables and len(tables["greedy_gain"]):
        seen: set[tuple[Any, ...]] = set()
        for row in records(tables["greedy_gain"]):
            pair = (row["b"], row["a"], row["rank"], row["replay"])
            if row["metric"] == "S" and pair not in seen:
                seen.add((row["a"], row["b"], row["rank"], row["replay"]))
                key = f"greedy.{row['a']}_vs_{row['b']}_rank{row['rank']}" + (
                    f"_replay{row['replay']:g}" if row["replay"] else ""
                )
                found.append(
                    difference_finding(key, row, _in_place_of(row), "S", "results/greedy_gain.csv", _replayed(row))
                )
    steps = tables.get("greedy_steps", pd.DataFrame())
    for method, part in steps.groupby("method", sort=True) if len(steps) else ():
        value, low, high = rank_correlation(part["trust"], part["gain"])
        if value == value:
            told = direction(low, high, "rises with", "falls with") or "does not measurably go with"
            number = signed_with(value, low, high, 2)
            sentence = f"The gain of a step of {label(str(method))} {told} its trust: rank correlation {number}."
            sure = direction(low, high) is not None
            source = "results/greedy_step_events.csv"
            found.append(Finding(f"greedy.trust_gain_{method}", sentence, value, low, high, len(part), sure, source))
    return found


def retraining_findings(tables: Tables) -> list[Finding]:
    """How much of what an edit took away comes back when other facts are retrained."""
    table = tables.get("retraining", pd.DataFrame())
    if table.empty:
        return []
    found = []
    for row in records(restored_shares(table)):
        value, low, high = (float(row[name]) for name in ("restored", "restored_low", "restored_high"))
        number = percent(value) + (f" ({percent(low)} to {percent(high)})" if low == low else "")
        known = value == value
        sentence = (
            f"Retraining on other edited facts brings back {number} of the exact answers that "
            f"{label(row['method'])} had replaced ({counted(row['seeds'], 'seed')})."
        )
        if known:
            sure = bool(low == low and low > 0)
            found.append(
                Finding(
                    f"retraining.{row['method']}",
                    sentence,
                    value,
                    low,
                    high,
                    row["seeds"],
                    sure,
                    "results/rtt_edits.csv",
                )
            )
    return found
