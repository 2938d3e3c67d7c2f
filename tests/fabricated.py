"""A finished results folder of a study without running it: cells with provenance, made-up scores, hostile facts.

Only for tests of the report: the numbers follow from a seed and mean nothing. Everything that a finished run has and the
report reads is there, so that Snakemake has nothing left to do but the report.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report_tables import PROBES, SKILL, probe_rows
from safetensors.numpy import save_file

from editlab.config.edit import EditStudy
from editlab.config.solvers import SOLVERS
from editlab.evaluation.summary import summarize
from editlab.files.artifacts import write_csv, write_json, write_jsonl, write_provenance, write_text
from editlab.files.provenance import origins, record_outputs

CODE = "0123456789abcdef"
HOSTILE = [
    (r"\input{/etc/passwd}\write18{id} & 100 % $x_1$ #~^ {", r"\end{document}", '=HYPERLINK("http://x")'),
    ("<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", "</script><b>bold</b>"),
    ("@SUM(A1:A9)\n\n.. include:: /etc/passwd", "`a`_ |b| **c**", "{{ config }}{% raw %}"),
    ("../../etc/passwd\x07", "-1+1", "中文 Łódź \u202eevil"),
]


def fabricate(root: Path, study: EditStudy, facts: int = 60) -> None:
    """Write ``root/results`` as a finished run of the study leaves it, oldest files first."""
    with contextlib.chdir(root):
        _fabricate(study, facts)


def _fabricate(study: EditStudy, facts: int) -> None:
    results = Path("results")
    requests = records(facts)
    write_json(results / "data" / study.dataset / "requests.json", requests)
    write_json(results / "contexts" / f"{study.model}.json", [["{}"]])
    model = results / "models" / study.model
    write_json(model / "config.json", {"model_type": "gpt2"})
    write_csv(results / "training" / f"{study.model}.csv", pd.DataFrame({"step": [10, 20], "recall": [0.5, 1.0]}))
    write_text(results / "benchmarks" / "rules" / "train_substrate" / f"{study.model}.jsonl", '{"s": 61.2}\n')
    known = pd.DataFrame({"case_id": [r["case_id"] for r in requests], "known": 1, "log_prob_true": -0.1})
    write_csv(results / "known" / study.model / f"{study.dataset}.csv", known)
    layers = results / "layers" / study.model / study.dataset
    write_csv(layers / "trace.csv", pd.DataFrame({"case_id": ["f00001"]}))
    write_csv(layers / "indirect_effects.csv", effects())
    made_of = [model, results / "data" / study.dataset / "requests.json", results / "contexts" / f"{study.model}.json"]
    made_of.append(results / "known" / study.model / f"{study.dataset}.csv")
    record_outputs([*made_of, results / "training" / f"{study.model}.csv", *layers.iterdir()], {"code": CODE})
    for experiment in study.experiments:
        for cell in study.cells(experiment):
            place = "/".join(f"{k}~{v}" for k, v in cell.items())
            directory = results / "edit" / experiment / study.model / study.dataset / place
            write_cell(directory, study, experiment, cell, [str(c) for c in known["case_id"]], origins(made_of))
            if experiment == "retraining":
                write_retrained(Path(str(directory).replace("/edit/retraining/", "/retrained/") + ".csv"))
    if study.train_control:
        control = results / "trained_control" / study.model / f"{study.dataset}.csv"
        cases = [str(c) for c in known["case_id"]]
        parts = [control_rows(np.random.default_rng(s), cases).assign(seed=s) for s in study.experiments["edit"].seeds]
        write_csv(control, pd.concat(parts))
        record_outputs([control], {"code": CODE})
    _age(results)


def control_rows(rng: np.random.Generator, cases: Sequence[str]) -> pd.DataFrame:
    """What the model that was trained on the new facts scores: all but perfect."""
    scores = summarize(_scores(rng, (0.98, 0.95, 0.97, 0.9), cases).assign(index=0), resamples=60)
    perplexity = pd.DataFrame([{"metric": "perplexity", "protocol": "generation", "value": 5.0, "n": 10}])
    return pd.concat([scores, perplexity, probe_rows(rng, 1.0)])


def _age(results: Path) -> None:
    """Inputs are older than what is made from them."""
    first = ("data", "models", "contexts", "known", "training", "layers")
    for rank, folder in enumerate([*first, *sorted(p.name for p in results.iterdir() if p.name not in first)]):
        for path in [results / folder, *(results / folder).rglob("*")]:
            os.utime(path, (1_700_000_000 + 60 * min(rank, len(first)),) * 2)
    for path in (results / ".provenance" / "edit").rglob("*"):
        os.utime(path, (1_700_000_000 + 60 * len(first),) * 2)


def effects() -> pd.DataFrame:
    """What causal tracing found."""
    rows = [
        {"site": site, "position": position, "layer": layer, "effect": 0.1 * layer + 0.05 * len(site), "ci_low": 0.0}
        for site in ("block", "mlp")
        for position in ("subject_last", "last")
        for layer in range(4)
    ]
    return pd.DataFrame(rows).assign(ci_high=0.6, n=20)


def records(count: int) -> list[dict[str, Any]]:
    """CounterFact records; the first ones hold hostile text."""
    found = []
    for k in range(count):
        hostile = HOSTILE[k] if k < len(HOSTILE) else (f"Person {k}", f"Old {k % 7}", f"New {k % 5}")
        subject, true, new = hostile
        rewrite = {"prompt": "{} was born in", "relation_id": "R-birthplace", "subject": subject}
        found.append(
            {
                "case_id": f"f{k:05d}",
                "requested_rewrite": rewrite
                | {"target_true": {"str": true, "id": None}, "target_new": {"str": new, "id": None}},
                "paraphrase_prompts": [f"The home of {subject} is"],
                "neighborhood_prompts": [f"Other {k} was born in"],
                "attribute_prompts": [],
                "generation_prompts": [],
            }
        )
    return found


def write_cell(
    directory: Path,
    study: EditStudy,
    experiment: str,
    cell: Mapping[str, str],
    cases: Sequence[str],
    made_of: Mapping[str, Any],
) -> None:
    """All files of one cell."""
    plan, recipe = study.experiments[experiment], study.methods[cell["method"]]
    rng = np.random.default_rng(
        [hash_of(cell["method"]), int(cell["batch"]), int(cell["seed"]), int(10 * float(cell["replay"]))]
    )
    skill = _skill(cell, recipe.solver)
    scores = _scores(rng, skill, cases)
    metrics = [summarize(scores.assign(index=0), resamples=60).assign(when=when) for when in ("immediate", "final")]
    extra = pd.DataFrame({"metric": ["GE", "perplexity"], "value": [3 + rng.random(), 5 + rng.random()], "n": 10})
    extra = pd.concat([extra.assign(protocol="generation"), probe_rows(rng, skill[0])])
    write_csv(directory / "metrics.csv", pd.concat([*metrics, extra.assign(when="final")]))
    write_csv(directory / "cases.csv", pd.concat([scores.assign(when=w) for w in ("immediate", "final")]))
    write_csv(
        directory / "curve.csv",
        _curve(rng, skill, plan.num_edits, plan.snapshot_every or study.evaluation.snapshot_every),
    )
    batches = -(-plan.num_edits // int(cell["batch"]))
    write_jsonl(directory / "events.jsonl", [_event(rng, k, recipe, plan.label_cases) for k in range(min(batches, 24))])
    rank = int(cell["rank"]) or 8
    factors = {"0.left": np.zeros((128, rank), np.float32), "0.right": np.zeros((rank, 512), np.float32)}
    save_file(factors, str(directory / "edit.safetensors"))
    seconds = {
        s: {"cpu": t + rng.random(), "wall": t + 1}
        for s, t in (("load", 2), ("targets", 6), ("solve", 1), ("evaluate", 4))
    }
    seconds |= {"trust": {"cpu": 0.7, "wall": 0.8}} if recipe.trust else {}
    facts = {
        **made_of,
        "plan": {"recipe": recipe.model_dump(mode="json")},
        "code": CODE,
        "seconds": seconds,
        "peak_memory_mb": 500.0,
        "edits": plan.num_edits,
        "parameters": rank * (128 + 512),
    }
    write_provenance(directory, facts, ["metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors"])


def hash_of(name: str) -> int:
    """A number of a name that does not change from run to run."""
    return sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31


def _skill(cell: Mapping[str, str], solver: str) -> tuple[float, ...]:
    base = SKILL.get(solver, SKILL["memit"]) if SOLVERS[solver].edits else SKILL["none"]
    gain = 0.01 * (float(cell["replay"]) > 0) - 0.01 * (cell["rank"] == "4")
    return tuple(min(1.0, b + gain) if 0 < b < 1 else b for b in base)


def _scores(rng: np.random.Generator, skill: Sequence[float], cases: Sequence[str]) -> pd.DataFrame:
    rows = []
    for k, case in enumerate(cases):
        for probe, chance in zip(PROBES, skill, strict=True):
            tries = 1 if probe == "rewrite" else 5
            easy = chance * (0.3 if k < len(HOSTILE) and probe != "neighborhood" else 1.0)
            value = rng.binomial(tries, easy) / tries
            rows.append((case, probe, value, 0.9 * value, 0.5 * value))
    return pd.DataFrame(rows, columns=["case_id", "probe", "success", "accuracy", "magnitude"])


def _curve(rng: np.random.Generator, skill: Sequence[float], edits: int, every: int) -> pd.DataFrame:
    rows: list[tuple[int, str, float, int]] = []
    for seen in range(every, edits + 1, every):
        left = skill[0] * (1 - 0.4 * seen / (edits + 400)) + 0.01 * rng.random()
        shares = {"retention_success": left, "retention_accuracy": 0.95 * left, "neighborhood_success": skill[2] * left}
        shares |= {"composite_success": 0.9 * left, "neighborhood_accuracy": 0.7 * skill[2] * left}
        shares |= {f"retention_success_age{a}": left - 0.02 * a for a in range(1, 5)}
        rows += [(seen, name, float(np.clip(value, 0, 1)), min(seen, 200)) for name, value in shares.items()]
        rows += [(seen, "perplexity", 5 + seen / 500, 200), (seen, "delta_norm_layer0", seen / 50 * (skill[0] > 0), 1)]
        rows += [(seen, "weight_norm_layer0", 15 + seen / 100, 1), (seen, "target_norm", 10 + seen / 90, 1)]
    return pd.DataFrame(rows, columns=["edits_seen", "metric", "value", "n"])


def _event(rng: np.random.Generator, batch: int, recipe: Any, labels: int) -> dict[str, Any]:
    layer: dict[str, Any] = {"rank": 8, "residual": 0.1 * rng.random(), "ridge_raised": []}
    if recipe.backend == "lora":
        layer |= {
            "energy": 0.9 + 0.1 * rng.random(),
            "edit_residual": 0.2 * rng.random(),
            "guard": "none",
            "lora_rank": 8,
        }
    if recipe.greedy is not None:
        layer["greedy"] = [_greedy_step(rng, t) for t in range(1, recipe.greedy.steps + 1)]
    event: dict[str, Any] = {"batch": batch, "decision": "accepted", "layers": {"0": layer}, "replayed": 0}
    harmful = batch % 5 == 4
    if labels:
        without = {"new": 0.1, "earlier": 0.8, "composite": 0.6}
        event |= {"with": without | {"composite": 0.6 + (-0.2 if harmful else 0.2)}, "without": without}
        event |= {"stress": ("contradiction", "clamp", "corruption")[batch % 3]} if harmful else {}
    if recipe.trust is not None:
        trust = float(np.clip(0.35 * harmful + 0.75 * (not harmful) + 0.15 * rng.standard_normal(), 0, 1))
        decision = "accepted" if trust >= 0.5 else "scaled" if trust > 0.4 else "rolled_back"
        scale = {"accepted": 1.0, "scaled": 0.5, "rolled_back": 0.0}[decision]
        event |= {"decision": decision, "scale": scale, "rollback": scale == 0, "trust": trust, "threshold": 0.5}
        event |= {"reason": "trust", "terms": {"edit_success_gain": 2.0, "preservation_distance": 0.1}}
    return event


def _greedy_step(rng: np.random.Generator, step: int) -> dict[str, Any]:
    gain = float(0.5 / step + 0.05 * rng.standard_normal())
    accepted = gain > 0.12
    reason = "improved" if accepted else "no_improvement"
    found = {"greedy_step": step, "greedy_scale": 1.0, "greedy_accept": accepted, "greedy_reason": reason}
    return found | {"gain": gain, "trust": float(0.6 + 0.1 * rng.random()), "energy": 0.95, "guard": "none"}


def write_retrained(path: Path) -> None:
    """Scores before and after retraining on the truth."""
    rows = []
    for model in ("edited", "unedited"):
        for facts in ("retrained", "held_out", "never_edited"):
            for when in ("before", "after"):
                known = 0.95 if model == "unedited" or facts == "never_edited" else 0.05 if when == "before" else 0.6
                for probe in PROBES:
                    rows.append((model, when, facts, probe, known, 1 - known, 0.2, 40))
    columns = ["model", "when", "facts", "probe", "accuracy", "success", "magnitude", "n"]
    write_csv(path, pd.DataFrame(rows, columns=columns))
    record_outputs([path], {"code": CODE})
