"""Tables of the studies on replay, long streams, LoRA, trust, greedy steps and retraining."""

from __future__ import annotations

from typing import Any

import pandas as pd

from editlab.analysis.intervals import pooled
from editlab.analysis.latex import Column
from editlab.analysis.retraining import INTERVAL, restored_shares
from editlab.analysis.rows import records
from editlab.analysis.scores import SCORES, SETTING, count, pooled_curves
from editlab.analysis.sheets.base import DIFFERENCE_COLUMNS, SCORE_COLUMNS, Sheet, Tables, differences_wide
from editlab.analysis.sheets.methods import EXCLUDES, INTERVALS, METHOD, RANK, REPLAY
from editlab.analysis.wording import counted, label, stands_on
from editlab.analysis.worth import guarded_runs, worth


def replay_ablation(tables: Tables) -> Sheet:
    """Rate x capacity x strategy against no replay."""
    frame = differences_wide(tables["gain"], ["method", "replay", "capacity", "strategy"])
    caption = (
        "Replay against none, by rate, capacity and strategy: paired differences on the same cases with 95 % intervals "
        f"({stands_on(*count(frame))}); {EXCLUDES}."
    )
    places = [METHOD, REPLAY, Column("capacity", "cap.", "count"), Column("strategy", "strategy", "text")]
    return Sheet(frame, [*places, *DIFFERENCE_COLUMNS], caption, "results/replay_gain.csv")


def forgetting(tables: Tables) -> Sheet:
    """What holds after the long stream, and where gradual forgetting turns."""
    curves = pooled_curves(
        tables["curves"][tables["curves"]["metric"].isin(["retention_success", "neighborhood_success"])]
    )
    last = curves[curves["edits_seen"] == curves["edits_seen"].max()]
    rows: list[dict[str, Any]] = []
    for key, part in last.groupby(list(SETTING), sort=False):
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for record in records(part):
            name = record["metric"].removesuffix("_success")
            row |= {name: record["value"], f"{name}_low": record["low"], f"{name}_high": record["high"]}
        rows.append(row | {"n": int(part["n"].max()), "seeds": int(part["seeds"].max())})
    frame, points = pd.DataFrame(rows), tables["points"]
    if len(points):
        named = points.rename(columns={"edits": "turn", "ci_low": "turn_low", "ci_high": "turn_high"})
        wanted = [*SETTING, "kind", "turn", "turn_low", "turn_high", "explained"]
        frame = frame.merge(named[wanted], on=list(SETTING), how="left")
        frame["kind"] = frame["kind"].map(lambda k: str(k).replace("_", " ") if k != "none" else "even")
        for name in ("turn", "turn_low", "turn_high"):
            frame[name] = frame[name].where(frame["kind"] != "even")
    edits = counted(int(last["edits_seen"].max()), "edit")
    caption = (
        f"After {edits} in sequence: edits that hold and neighbours unharmed with 95 % intervals over cases and seeds "
        f"({stands_on(*count(frame))}), and the turning point of retention (broken line; interval over streams and snapshots "
        "drawn anew; even: one line does)."
    )
    columns = [
        METHOD,
        REPLAY,
        Column("retention", "holds"),
        Column("neighborhood", "NS"),
        Column("kind", "shape", "text"),
        Column("turn", "turns at", "count"),
    ]
    return Sheet(frame, columns, caption, "results/large_scale_forgetting.csv")


def lora(tables: Tables) -> Sheet:
    """Scores, size and time by method and rank; bold difference to the raw edit where it excludes zero."""
    frame = _pooled_cells(tables["table"], ["retention", "bytes", "energy", "seconds"])
    raw = _against(tables["gain"], frame, {"emmet"}) if len(tables["gain"]) else frame
    caption = (
        f"{INTERVALS} ({stands_on(*count(frame))}). KiB: what the edit stores in float32; energy: share that the cut to "
        "the rank kept; ΔS: paired difference to the raw edit on the same cases, bold where it excludes zero."
    )
    columns = [
        METHOD,
        RANK,
        *SCORE_COLUMNS,
        Column("bytes", "KiB", "level", 0, 1 / 1024),
        Column("energy", "energy"),
        Column("dS", "ΔS", "difference", 3),
    ]
    return Sheet(raw, columns, caption, "results/lora_ablation.csv")


def _pooled_cells(table: pd.DataFrame, means: list[str]) -> pd.DataFrame:
    """Scores of cells with seeds together (intervals), and plain means of the other columns."""
    rows: list[dict[str, Any]] = []
    for key, part in table.groupby(list(SETTING), sort=False):
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        for metric in SCORES:
            found = pooled(part[metric], part[f"{metric}_low"], part[f"{metric}_high"])
            row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), found, strict=True))
        row |= {name: float(part[name].mean()) for name in means if name in part}
        rows.append(row | {"n": int(part["n"].sum()), "seeds": len(part)})
    return pd.DataFrame(rows)


def _against(gain: pd.DataFrame, frame: pd.DataFrame, bases: set[str]) -> pd.DataFrame:
    """Add the paired difference of S to a base method: dS, dS_low, dS_high, dS_best."""
    rows = gain[(gain["metric"] == "S") & gain["b"].isin(bases)]
    named = rows.rename(columns={"a": "method", "value": "dS", "ci_low": "dS_low", "ci_high": "dS_high"})
    keys = ["method", "rank", "replay"]
    merged = frame.merge(named[[*keys, "dS", "dS_low", "dS_high"]], on=keys, how="left")
    merged["dS_best"] = (merged["dS_low"] > 0) | (merged["dS_high"] < 0)
    return merged


def trust(tables: Tables) -> Sheet:
    """How good the decisions were and what they were worth, by method and kind of stream."""
    runs = guarded_runs(tables["table"])
    rows: list[dict[str, Any]] = []
    for (experiment, method), part in runs.groupby(["experiment", "method"], sort=False):
        stream = {"trust_eval": "harmful", "trust_clean": "clean"}.get(str(experiment), str(experiment))
        row: dict[str, Any] = {"experiment": experiment, "method": method, "stream": stream, "seeds": len(part)}
        for name, found in worth(part, tables["forgetting"]).items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
        rows.append(row | {"n": int(part["n"].sum())})
    frame = pd.DataFrame(rows)
    batches, seeds = count(frame)
    caption = (
        "Decisions of trust against their labels, and their worth against the same method without trust: share of right "
        "decisions, harmless batches rolled back (FPR), harmful ones kept (FNR), area under the ROC curve, relative gain of "
        "retention, share of the rise of perplexity avoided, share of trust in the editing time, with 95 % intervals over "
        f"batches (shares), cases and seeds (retention) or seeds (n = {counted(batches, 'batch', 'batches')}, "
        f"{counted(seeds, 'seed')})."
    )
    columns = [
        METHOD,
        Column("stream", "stream", "text"),
        Column("accuracy", "right"),
        Column("false_positive_rate", "FPR"),
        Column("false_negative_rate", "FNR"),
        Column("auc", "AUC"),
        Column("retention_gain", "retention %", "difference", 0, 100.0),
        Column("ppl_rise_cut", "PPL %", "difference", 0, 100.0),
        Column("overhead", "time %", "level", 0, 100.0),
    ]
    return Sheet(frame, columns, caption, "results/trust_eval.csv")


def greedy(tables: Tables) -> Sheet:
    """Greedy steps beside the one-step and the raw edit."""
    frame = _pooled_cells(
        tables["table"], ["steps", "acceptance", "gain_by_step", "trust_gain_correlation", "retention"]
    )
    base = next((b for b in ("emmet_lora_append", "emmet_lora") if (tables["gain"]["b"] == b).any()), "")
    if base:
        frame = _against(tables["gain"], frame, {base})
    caption = (
        f"{INTERVALS} ({stands_on(*count(frame))}). Accepted: share of greedy steps that stayed; ΔS: paired difference to "
        f"{label(base) or 'one step'} of the same rank in one step, on the same cases, bold where it excludes zero. Steps that "
        "append add their rank."
    )
    columns = [
        METHOD,
        REPLAY,
        RANK,
        *SCORE_COLUMNS,
        Column("acceptance", "accepted"),
        Column("dS", "ΔS", "difference", 3),
    ]
    return Sheet(frame, columns, caption, "results/greedy_eval.csv")


def retraining(tables: Tables) -> Sheet:
    """Share of the old knowledge that retraining brought back."""
    table = tables["table"]
    frame = restored_shares(table, ["method", "rank"]).rename(columns={"facts": "n"})
    facts = int(frame["n"].max()) if len(frame) else 0
    seeds = int(frame["seeds"].max()) if len(frame) else 0
    caption = (
        "Share of the old objects of held-out edited facts that came back after retraining on other edited facts, by exact "
        "match of the answer (1: all): "
        f"mean over {counted(seeds, 'seed')} with {INTERVAL} (n = {counted(facts, 'held-out fact')} a seed)."
    )
    return Sheet(frame, [METHOD, RANK, Column("restored", "restored")], caption, "results/rtt_edits.csv")
