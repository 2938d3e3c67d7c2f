"""The tables of the unlearning study, collected from its runs, kept points and attacks.

``unlearn``: every score of every run. ``rtt``: every score of every attack, with its condition. ``summary``: one row a point,
method, rank, seed and attack, with conditions A, B, C and N and what came back.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.unlearning import OTHER_ATTACKS
from editlab.files.artifacts import read_verified
from editlab.unlearning.recovery import attacked, epochs_to, rates
from editlab.unlearning.selection import read_runs

Settings = Mapping[str, Any]
PARENT = "parent"
REACHED = 0.8  # share of C at which "epochs to" is counted
RUN_KEYS = ["method", "rank", "lr", "retain", "seed"]


def coordinates(path: str) -> dict[str, str]:
    """What a path says: ``.../method~gd/rank~0/seed~1.csv`` is method gd, rank 0, seed 1."""
    parts = Path(path).with_suffix("").parts
    return {key: value for key, found, value in (part.partition("~") for part in parts) if found}


def unlearn_table(files: Sequence[str], settings: Settings) -> pd.DataFrame:
    """Scores of all runs with run_id, objective and parametrisation."""
    table = read_runs(map(str, map(read_verified, files)), map(coordinates, files))
    methods = settings["methods"]
    ids = {key: run_id(dict(zip(RUN_KEYS, key, strict=True)), settings) for key in _keys(table)}
    table.insert(0, "run_id", [ids[key] for key in table[RUN_KEYS].itertuples(index=False, name=None)])
    table.insert(1, "objective", [methods[m]["objective"]["name"] for m in table["method"]])
    table.insert(2, "parametrisation", [methods[m]["parametrisation"] for m in table["method"]])
    return table


def _keys(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table[RUN_KEYS].drop_duplicates().itertuples(index=False, name=None))


def run_id(point: Mapping[str, Any], settings: Settings) -> str:
    """A short hash of everything that a run depends on."""
    resolved = {**{k: settings[k] for k in ("data", "model", "learn")}, "method": settings["methods"][point["method"]]}
    text = json.dumps([resolved, {k: str(v) for k, v in point.items()}], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def rtt_table(files: Sequence[str], settings: Settings) -> pd.DataFrame:
    """Scores of all attacks: attack, condition (B, C, N), point, method, rank, seed, v_split and the columns of an attack."""
    columns = ["attack", "condition", "base", "point", "method", "rank", "seed", "v_split", "lr", "epoch"]
    columns += ["set", "half", "metric", "value", "n"]
    parts = []
    for file in files:
        part = pd.read_csv(read_verified(file), keep_default_na=False, na_values=["nan"])
        if len(part):
            parts.append(part.assign(**_target(coordinates(file), settings)))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _target(where: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """What an attack was turned on: a control, or a point of a method."""
    common = {"attack": where["attack"], "seed": int(where["seed"])}
    if "control" in where:
        condition = "N" if where["control"] == PARENT else "C"
        return {**common, "condition": condition, "base": where["control"], "point": "", "method": "", "rank": 0}
    base = settings["methods"][where["method"]]["base"]
    named = {"point": where["point"], "method": where["method"], "rank": int(where["rank"])}
    return {**common, "condition": "B", "base": base, **named}


def summary_table(rtt: pd.DataFrame, chosen: Sequence[str], settings: Settings) -> pd.DataFrame:
    """One row a kept point (also one that is not there: ``found`` 0), seed and attack.

    Columns beside the coordinates: ``metric``; ``forget_base``, ``A``, ``B``, ``C``, ``N`` (best rate and epoch a V),
    ``B_two_fold``, ``C_two_fold``, ``N_two_fold``, ``B_common``; ``recovery``, ``recovery_corrected`` and both two-fold;
    ``epochs_to`` 0.8 C; ``retain_base``, ``retain`` (accuracy on the half that nothing was chosen on); ``perplexity_ratio``,
    ``kl``; ``lr``, ``retain_weight``, ``epoch`` of the point; ``n`` questions of V.
    """
    drop = float(settings["selection"]["min_drop"])
    points = {}
    for file in chosen:
        where = coordinates(file)
        points[where["method"], int(where["rank"]), int(where["seed"])] = _chosen(file)
    rows = []
    for declared in _declared(settings):
        found = points[declared["method"], declared["rank"], declared["seed"]]
        rows.append({**declared, **_summary(rtt, declared, found, settings, drop)})
    return pd.DataFrame(rows)


def _chosen(file: str) -> dict[str, Any]:
    return dict(json.loads(Path(read_verified(file)).read_text(encoding="utf-8")))


def _declared(settings: Settings) -> list[dict[str, Any]]:
    listed = {"selected": list(settings["methods"]), "matched": settings["matched"], "budget": settings["budgeted"]}
    return [
        {"attack": attack, "point": point, "method": name, "rank": rank, "seed": seed}
        for point, names in listed.items()
        for name in names
        for attack in ("full", *OTHER_ATTACKS)
        if attack == "full" or (point == "selected" and name in settings["other_attacks"])
        for rank in settings["methods"][name]["ranks"] or [0]
        for seed in settings["seeds"]
    ]


def _summary(
    rtt: pd.DataFrame, where: Mapping[str, Any], chosen: Mapping[str, Any], settings: Settings, drop: float
) -> dict[str, Any]:
    metric, base, point = chosen["metric"], chosen["base"], chosen[where["point"]]
    common = {"metric": metric, "forget_base": base["forget"], "retain_base": base["report"], "found": int(bool(point))}
    if point is None:
        return common
    here = rtt[(rtt["attack"] == where["attack"]) & (rtt["seed"] == where["seed"])]
    mine = here
    for key in ("point", "method", "rank"):
        mine = mine[mine[key] == where[key]]
    home = settings["methods"][where["method"]]["base"]
    b = attacked(mine, metric)
    control = here[(here["condition"] == "C") & (here["base"] == home)]
    c = attacked(control, metric)
    never = here[here["condition"] == "N"]
    n = attacked(never, metric) if len(never) else {"best": math.nan, "two_fold": math.nan}
    a = point["forget"] if math.isnan(b["before"]) else b["before"]
    best = rates(a, b["best"], c["best"], n["best"], base["forget"], drop)
    fair = rates(a, b["two_fold"], c["two_fold"], n["two_fold"], base["forget"], drop)
    perplexity = (point["perplexity"] or math.nan) / (base["perplexity"] or math.nan)
    return {
        **common,
        "A": a,
        "B": b["best"],
        "C": c["best"],
        "N": n["best"],
        "B_two_fold": b["two_fold"],
        "C_two_fold": c["two_fold"],
        "N_two_fold": n["two_fold"],
        "B_common": b["common"],
        "V_n": b["n"],
        **best,
        **{f"{name}_two_fold": value for name, value in fair.items()},
        "epochs_to": epochs_to(mine, metric, REACHED * c["best"]),
        "retain": point["report"],
        "retain_drop": base["report"] - point["report"],
        "perplexity_ratio": perplexity,
        "kl": point["kl"],
        "lr": point["lr"],
        "retain_weight": point["retain"],
        "epoch": point["epoch"],
    }


def by_category(rtt: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A, B and n of every held-out split of selected points: seeds together, attack by retraining."""
    full = rtt[(rtt["attack"] == "full") & (rtt["point"] == "selected")]
    rows = []
    for key, part in full.groupby(["method", "rank", "v_split"], sort=True):
        found = [attacked(p, metric) for _, p in part.groupby("seed")]
        means = {k: sum(f[k] for f in found) / len(found) for k in ("before", "best", "two_fold")}
        rows.append({**dict(zip(("method", "rank", "v_split"), key, strict=True)), **means, "seeds": len(found)})
    return pd.DataFrame(rows, columns=["method", "rank", "v_split", "before", "best", "two_fold", "seeds"])
