"""Result tables with the columns that the workflow gives them and numbers made up by a seed: what the report is made of.

Only for tests of figures, tables and sentences; the numbers mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.edit import REPORT, passages
from editlab.analysis.edit.comparisons import adjusted
from editlab.analysis.edit.decisions import decisions
from editlab.analysis.report.run import Run
from editlab.evaluation.summary import summarize
from editlab.files.artifacts import write_csv, write_jsonl, write_provenance

PROBES = ("rewrite", "paraphrase", "neighborhood", "same_subject")
# Chance that a probe of each kind succeeds under a method.
SKILL = {
    "rome": (0.97, 0.95, 0.75, 0.7),
    "memit": (0.97, 0.95, 0.87, 0.8),
    "emmet": (0.99, 0.97, 0.86, 0.75),
    "alphaedit": (0.95, 0.92, 0.94, 0.85),
    "ft": (0.8, 0.65, 0.5, 0.3),
    "random": (0.25, 0.22, 0.75, 0.6),
    "none": (0.0, 0.0, 1.0, 1.0),
}
Cells = list[tuple[str, dict[str, str]]]


def write_cells(
    root: Path, methods: Sequence[str] = tuple(SKILL), seeds: Sequence[int] = (1, 2), cases: int = 48
) -> Cells:
    """Finished cells of a small matrix (batch 1 and 32, replay 0 and 0.3) with their provenance."""
    found: Cells = []
    for method in methods:
        for batch in (1,) if method in ("rome", "none") else (1, 32):
            for replay in ("0",) if method in ("rome", "none", "random") else ("0", "0.3"):
                for seed in seeds:
                    axes = (method, str(batch), replay, "0", str(seed))
                    cell = dict(zip(("method", "batch", "replay", "rank", "seed"), axes, strict=True))
                    directory = root.joinpath(*(f"{k}~{v}" for k, v in cell.items()))
                    write_cell(directory, cell, cases)
                    found.append((str(directory), cell))
    return found


def write_cell(directory: Path, cell: Mapping[str, str], cases: int) -> None:
    """metrics, cases, curve, events and provenance of one cell."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([len(cell["method"]), ord(cell["method"][0]), int(cell["batch"]), int(cell["seed"])])
    gain = 0.02 if cell["replay"] != "0" else 0.0
    rows = []
    for case in range(cases):
        for probe, chance in zip(PROBES, SKILL[cell["method"]], strict=True):
            share = rng.binomial(1 if probe == "rewrite" else 5, min(1.0, chance + gain * (0 < chance < 1)))
            value = share / (1 if probe == "rewrite" else 5)
            rows.append((f"f{1000 * int(cell['seed']) + case:05d}", probe, value, 0.9 * value, 0.5 * value, "final"))
    table = pd.DataFrame(rows, columns=["case_id", "probe", "success", "accuracy", "magnitude", "when"])
    metrics = summarize(table.assign(index=0), resamples=100).assign(when="final")
    generation = pd.DataFrame(
        {"metric": ["GE", "perplexity"], "value": [3.0 + rng.random(), 5 + rng.random()], "n": 10}
    )
    metrics = pd.concat([metrics, generation.assign(when="final", protocol="generation")], ignore_index=True)
    write_csv(directory / "metrics.csv", metrics)
    write_csv(directory / "cases.csv", table)
    write_csv(directory / "curve.csv", curve(table, cases, 0.0 if cell["method"] == "none" else 4.0 + rng.random()))
    write_jsonl(directory / "events.jsonl", [])
    stages = {"load": 1.0, "targets": 5 + rng.random(), "solve": 0.5, "evaluate": 4.0}
    seconds = {k: {"cpu": v, "wall": 1.1 * v} for k, v in stages.items()}
    facts = {"edits": cases, "seconds": seconds, "peak_memory_mb": 500.0, "plan": {"recipe": {"solver": "memit"}}}
    facts["parameters"] = 96 if SKILL[cell["method"]][0] else 0
    write_provenance(directory, facts, ["metrics.csv", "cases.csv", "curve.csv", "events.jsonl"])


def curve(table: pd.DataFrame, cases: int, norm: float) -> pd.DataFrame:
    """Three snapshots of retention, neighbours and ages."""
    rewrite, near = (table[table["probe"] == p]["success"].to_numpy() for p in ("rewrite", "neighborhood"))
    rows: list[tuple[int, str, float, int]] = []
    for seen in (cases // 3, 2 * cases // 3, cases):
        rows += [(seen, "retention_success", rewrite[:seen].mean(), seen), (seen, "delta_norm_layer0", norm, 1)]
        rows += [(seen, "neighborhood_success", near[:seen].mean(), seen)]
        rows += [(seen, f"composite_{p}", 0.9 * rewrite[:seen].mean(), seen) for p in ("success", "accuracy")]
        rows += [
            (seen, f"{name}_accuracy", 0.8 * near[:seen].mean(), seen) for name in ("neighborhood", "same_subject")
        ]
        for age, part in enumerate(np.array_split(rewrite[:seen][::-1], 4), 1):
            rows.append((seen, f"retention_success_age{age}", part.mean(), len(part)))
    return pd.DataFrame(rows, columns=["edits_seen", "metric", "value", "n"])


def coordinates(method: str, seed: int, replay: float = 0, rank: int = 0) -> dict[str, Any]:
    return {"method": method, "batch": 32, "replay": replay, "rank": rank, "seed": seed}


def scores(rng: np.random.Generator, level: float) -> dict[str, Any]:
    """ES, PS, NS and S near a level, with intervals, retention and perplexity."""
    found: dict[str, Any] = {"n": 128}
    for metric in ("ES", "PS", "NS", "S"):
        value = float(np.clip(level + 0.02 * rng.standard_normal(), 0.03, 0.97))
        found |= {metric: value, f"{metric}_low": value - 0.03, f"{metric}_high": value + 0.03}
    return found | {"GE": 3.1, "perplexity": 5.2 + rng.random(), "delta_norm": 20.0, "retention": found["ES"]}


def lora_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows = []
    for seed in (1, 2, 3):
        rows.append({**coordinates("emmet", seed), **scores(rng, 0.93), "parameters": 65536, "bytes": 262144})
        for rank in (4, 8, 16):
            level = 0.93 - 1.4 / rank
            for method, minus in (("emmet_lora", 0.0), ("emmet_lora_frobenius", 0.05), ("emmet_posthoc", 0.02)):
                size = {"parameters": rank * 640, "bytes": 4 * rank * 640}
                rows.append({**coordinates(method, seed, rank=rank), **scores(rng, level - minus), **size})
    table = pd.DataFrame(rows).assign(energy=0.8, edit_residual=0.3, guarded=0.0, seconds=6.0)
    return {
        "lora_ablation": table,
        "lora_gain": pairs(rng, [("emmet_lora", "emmet_lora_frobenius"), ("emmet_lora", "emmet")]),
    }


def pairs(rng: np.random.Generator, wanted: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """A table of paired differences by rank."""
    rows = []
    for a, b in wanted:
        for rank in (4, 8, 16):
            for metric in ("ES", "PS", "NS", "S"):
                value = 0.02 * float(rng.standard_normal())
                row = {"a": a, "b": b, "rank": rank, "replay": 0, "seeds": 3, "stored_ratio": 0.5, "metric": metric}
                rows.append(
                    row | {"value": value, "ci_low": value - 0.02, "ci_high": value + 0.02, "p_value": 0.2, "n": 384}
                )
    return adjusted(pd.DataFrame(rows), ["metric"])


def trust_events(rng: np.random.Generator, stress: bool) -> list[dict[str, Any]]:
    """Sixteen judged and labelled batches."""
    events = []
    for number in range(16):
        harmful = stress and number % 2 == 1
        trust = float(np.clip((0.35 if harmful else 0.65) + 0.12 * rng.standard_normal(), 0, 1))
        change = (-0.1 if harmful else 0.05) + 0.03 * rng.standard_normal()
        scale = 1.0 if trust >= 0.5 else 0.0
        event = {
            "batch": number,
            "trust": trust,
            "threshold": 0.5,
            "scale": scale,
            "stress": "clamp" if harmful else "",
        }
        events.append(event | {"with": {"composite": 0.8 + change}, "without": {"composite": 0.8}})
    return events


def trust_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    judged, curves, worth = [], [], []
    for experiment in ("trust_eval", "trust_clean"):
        for seed in (1, 2, 3):
            for method in ("none", "emmet", "emmet_trust", "emmet_trust_distance"):
                place = {**coordinates(method, seed), "experiment": experiment}
                guarded = method.startswith("emmet_trust")
                if guarded:
                    frame = decisions(trust_events(rng, experiment == "trust_eval")).rename(columns={"batch": "number"})
                    judged.append(frame.assign(**place))
                    rates = {"n": 16, "harmful": 0.2, "rollback_rate": 0.2, "false_positive_rate": 0.05}
                    rates |= {"false_negative_rate": 0.1 + 0.05 * rng.random(), "accuracy": 0.9, "auc": 0.9}
                    value = {"retention": 0.8, "retention_unguarded": 0.6, "retention_gain": 0.3 + 0.1 * rng.random()}
                    value |= {"ppl_rise_cut": 0.5 + 0.1 * rng.random(), "overhead": 0.1, "average_precision": 0.8}
                    worth.append({**place, "rule": "as run", **rates, **value})
                for seen in range(64, 513, 64):
                    fall = {"none": 1.0, "emmet": 0.0009}.get(method, 0.0004) if experiment == "trust_eval" else 0.0003
                    share = (
                        0.0
                        if method == "none"
                        else float(np.clip(1 - fall * seen + 0.02 * rng.standard_normal(), 0, 1))
                    )
                    curves.append(
                        {**place, "edits_seen": seen, "metric": "retention_success", "value": share, "n": seen}
                    )
    frames = {"trust_decisions": pd.concat(judged, ignore_index=True), "trust_forgetting": pd.DataFrame(curves)}
    return frames | {"trust_eval": pd.DataFrame(worth)}


def greedy_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    steps, cells = [], []
    for method, most in (("greedy3", 3), ("greedy5", 5), ("greedy3_scaled", 3)):
        for seed in (1, 2, 3):
            cells.append({**coordinates(method, seed, rank=8), **scores(rng, 0.88), "steps": 12, "acceptance": 0.7})
            for _ in range(4):
                for layer in (0, 1):
                    for step in range(1, most + 1):
                        gain = 0.5 / step**1.5 + 0.05 * rng.standard_normal() - 0.05
                        accepted = bool(gain > 0)
                        event = {"layer": layer, "step": step, "scale": 1.0, "accepted": accepted, "gain": gain}
                        event["reason"] = "improved" if accepted else "no_improvement"
                        event["trust"] = float(np.clip(0.5 + 0.4 * gain + 0.1 * rng.standard_normal(), 0, 1))
                        steps.append({**event, **coordinates(method, seed, rank=8)})
    for seed in (1, 2, 3):
        cells.append({**coordinates("emmet_lora", seed, rank=8), **scores(rng, 0.86)})
        cells.append({**coordinates("emmet", seed), **scores(rng, 0.93)})
    gain = pairs(rng, [(m, "emmet_lora") for m in ("greedy3", "greedy5", "greedy3_scaled")])
    return {"greedy_step_events": pd.DataFrame(steps), "greedy_eval": pd.DataFrame(cells), "greedy_gain": gain}


def stream_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows, points = [], []
    speed = {"emmet": 5e-4, "emmet_anchored": 2e-4, "memit": 3e-4, "memit_anchored": 1.5e-4, "alphaedit": 4e-4}
    for method, fall in speed.items():
        for replay in (0, 0.3):
            for seed in (1, 2, 3):
                for seen in range(100, 2001, 100):
                    lost = fall * (1 - replay) * seen + (0.0008 * max(0, seen - 1000) if method == "emmet" else 0)
                    for metric, factor in (("retention_success", 1.0), ("neighborhood_success", 0.6)):
                        value = float(np.clip(1 - factor * lost + 0.02 * rng.standard_normal(), 0.05, 1))
                        place = {**coordinates(method, seed, replay), "edits_seen": seen, "metric": metric}
                        rows.append(place | {"value": value, "n": min(200, seen)})
            kind = "collapse" if method == "emmet" else "none"
            point = {
                "method": method,
                "batch": 32,
                "replay": replay,
                "rank": 0,
                "metric": "retention_success",
                "kind": kind,
            }
            slopes = {"slope_before": -0.5, "slope_after": -1.3, "p_value": 0.8, "seeds": 3}
            points.append(point | {"edits": 1000.0, "ci_low": 800.0, "ci_high": 1300.0} | slopes)
    return {"large_scale_forgetting": pd.DataFrame(rows), "turning_points": pd.DataFrame(points)}


def capacity_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Streams whose retention is one curve over edits / dimension."""
    rows = []
    for inner in (256, 512, 1024):
        for facts in (1, 5):
            for method, fall in (("memit", 0.3), ("alphaedit", 0.2)):
                for seed in (1, 2, 3):
                    for seen in range(96, 769, 96):
                        value = float(np.clip(1 - fall * seen / inner + 0.01 * rng.standard_normal(), 0, 1))
                        place = {
                            **coordinates(method, seed),
                            "inner": inner,
                            "facts_a_subject": facts,
                            "edits_seen": seen,
                        }
                        rows.append(place | {"metric": "retention_accuracy", "value": value, "n": min(200, seen)})
    return {"capacity": pd.DataFrame(rows)}


def replay_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows = []
    for rate in (0.1, 0.3, 0.5):
        for capacity in (50, 100, 200):
            for strategy in ("random", "priority"):
                for metric in ("ES", "PS", "NS", "S"):
                    value = 0.1 * rate + 0.0002 * capacity + 0.01 * float(rng.standard_normal())
                    row = {"method": "emmet", "batch": 32, "replay": rate, "capacity": capacity, "strategy": strategy}
                    row |= {
                        "seeds": 3,
                        "metric": metric,
                        "value": value,
                        "ci_low": value - 0.03,
                        "ci_high": value + 0.03,
                    }
                    rows.append(row | {"p_value": 0.001, "n": 1500})
    return {"replay_gain": adjusted(pd.DataFrame(rows), ["metric"])}


def retraining_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows = []
    for i, method in enumerate(("memit", "emmet", "alphaedit", "ft")):
        for seed in (1, 2, 3):
            restored = 0.2 + 0.15 * i + 0.03 * float(rng.standard_normal())
            for model in ("unedited", "edited"):
                for facts in ("retrained", "held_out", "never_edited"):
                    for when in ("before", "after"):
                        row = {"model": model, "facts": facts, "when": when, "probe": "rewrite", "success": 0.5}
                        rows.append(
                            {**row, "accuracy": 0.5, "n": 64, **coordinates(method, seed), "restored": restored}
                        )
    return {"rtt_edits": pd.DataFrame(rows)}


def probe_rows(rng: np.random.Generator, skill: float) -> pd.DataFrame:
    """What a cell's probes leave in its table of metrics."""
    rows = []
    for metric, share in (
        ("Subject_Aliasing", 0.8),
        ("Question_Form", 0.5),
        ("Logical_Generalization", 0.0),
        ("multi_hop", 0.1),
        ("Relation_Specificity", 0.4),
        ("generation", 1.0),
    ):
        for measure in ("accuracy", "exact", "contained"):
            value = round(24 * min(1.0, share * skill + 0.1 * share * float(rng.random()))) / 24
            rows.append((metric, measure, value, 24, max(0.0, value - 0.1), min(1.0, value + 0.1)))
        rows.append((f"{metric}_executed", "exact", 0.9, 24, np.nan, np.nan))
    rows.append(("generation", "gap", 0.04, 24, 0.0, 0.1))
    return pd.DataFrame(rows, columns=["metric", "protocol", "value", "n", "ci_low", "ci_high"])


def portability_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    parts = []
    for method, skill in (("memit", 0.9), ("emmet", 0.95), ("ft", 0.6), ("none", 0.0), ("trained", 1.0)):
        for seed in (1, 2, 3):
            parts.append(probe_rows(rng, skill).assign(**coordinates(method, seed)))
    guesses = [p.assign(metric=p["metric"] + "_guess", value=0.05) for p in parts if (p["method"] == "trained").all()]
    return {"portability": pd.concat([*parts, *guesses], ignore_index=True)}


def baseline_table(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows = []
    for method, batch in (("rome", 1), ("memit", 32), ("emmet", 32)):
        fixed = {"study": "default", "model": "substrate", "dataset": "facts", **coordinates(method, 1), "edits": 200}
        costs = {"seconds": 20.0, "edit_seconds": 9.0, "seconds_per_edit": 0.045, "peak_memory_mb": 520.0}
        rows.append({**fixed, "batch": batch, "when": "final", "protocol": "success", **scores(rng, 0.92), **costs})
    return {"baseline_comparison": pd.DataFrame(rows)}


def layer_table(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows = []
    for layer in range(4):
        for site in ("mlp", "attention", "block"):
            for position in ("last subject token", "last token"):
                effect = 0.4 / (layer + 1) * float(rng.random())
                row = {"layer": layer, "site": site, "position": position, "effect": effect, "ci_low": effect - 0.02}
                rows.append(row | {"ci_high": effect + 0.02, "p_clean": 0.95, "p_corrupt": 0.1, "n": 50})
    return {"indirect_effects": pd.DataFrame(rows)}


def missed_table(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    fact = {"relation": "R-birthplace", "prompt": "Ann was born in", "target_true": "Ulm", "target_new": "Bern"}
    rows = [
        {
            "case_id": f"f{k}",
            **fact,
            "streams": 4,
            "ES": 0.1 * k,
            "PS": 0.5,
            "NS": float(rng.random()),
            "missed_by": "MEMIT",
        }
        for k in range(9)
    ]
    return {"missed_facts": pd.DataFrame(rows)}


def passage_table(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    rows = [
        (method, 32, 0.0, 0, seed, place, share, 0.8 * share, 40)
        for method in ("memit", "emmet", "alphaedit")
        for seed in (1, 2, 3)
        for place, share in (("alone", 0.8 + 0.1 * float(rng.random())), ("behind", 0.5 + 0.1 * float(rng.random())))
    ]
    return {"passages": pd.DataFrame(rows, columns=passages.COLUMNS)}


def collected_tables(cells: Cells, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Tables that the edit study collects from the cells of its matrix."""
    settings = {"model": "substrate", "dataset": "facts"}
    run = Run("default", settings, {"edit": cells})
    tables = REPORT.tables
    return {name: tables[name][1].collect(run) for name in names}


def made_up_tables(seed: int = 0) -> dict[str, pd.DataFrame]:
    """Every table that is not made from the matrix's cells, by name."""
    rng = np.random.default_rng(seed)
    makers = (
        missed_table,
        passage_table,
        portability_tables,
        lora_tables,
        trust_tables,
        greedy_tables,
        stream_tables,
        capacity_tables,
        replay_tables,
        retraining_tables,
    )
    found: dict[str, pd.DataFrame] = {}
    for maker in (*makers, baseline_table, layer_table):
        found |= maker(rng)
    return found


def write_benchmarks(folder: Path) -> None:
    """The files that ``make bench`` leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"processor": "a processor", "cores": 2, "versions": {"python": "3.11", "torch": "2.13"}}
    clock = {"cpu_min": 1.38, "cpu_median": 1.4, "wall_min": 1.4, "wall_median": 1.5}
    targets = {
        "benchmark": "targets",
        "facts": 64,
        "cpu_ms_per_fact": {"batched": 21.6, "one_by_one": 140.9},
        "batched_by_n": [{"facts": n, "cpu_ms_per_fact": v} for n, v in ((1, 49.5), (8, 27.6), (64, 20.9))],
        "seconds": {"batched": clock, "one_by_one": {k: 6.5 * v for k, v in clock.items()}},
        "speedup": {"cpu_min": 6.4, "cpu_median": 6.5, "wall_min": 6.4, "wall_median": 6.5},
        "repetitions": 3,
        "quick": False,
        "machine": machine,
    }
    (folder / "targets.json").write_text(json.dumps(targets), encoding="utf-8")
