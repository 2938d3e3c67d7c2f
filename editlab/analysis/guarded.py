"""Tables of the studies on LoRA, trust, greedy steps and long streams: views of their cells, verified on reading.

Every function takes the directories of an experiment's cells with their coordinates and returns a tidy table; nothing
is computed anew but sums, shares and fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.decisions import area_under_roc, average_precision, decisions, precision_recall, rates, roc
from editlab.analysis.forgetting import MINIMUM, turning_point_interval
from editlab.analysis.paired import paired_differences
from editlab.analysis.tables import EDITING, cell_costs, cell_rows
from editlab.editing.events import read_events as parsed
from editlab.errors import DataError
from editlab.files.artifacts import read_provenance, read_verified

Cells = Sequence[tuple[str, Mapping[str, str]]]


def read_events(directory: str | Path) -> list[dict[str, Any]]:
    """The events of a cell."""
    path = read_verified(Path(directory) / "events.jsonl")
    return [event.record() for event in parsed(path.read_text(encoding="utf-8").splitlines(), str(path))]


def read_curve(directory: str | Path) -> pd.DataFrame:
    """The curve of a cell, one row a snapshot, one column a metric."""
    curve = pd.read_csv(read_verified(Path(directory) / "curve.csv"))
    return curve.pivot(index="edits_seen", columns="metric", values="value")


def read_cases(directory: str | Path, when: str = "final") -> pd.DataFrame:
    """Scores by case of one cell."""
    cases = pd.read_csv(read_verified(Path(directory) / "cases.csv"), dtype={"case_id": str})
    return cases[cases["when"] == when]


def final_scores(directory: str | Path) -> dict[str, float]:
    """ES, PS, NS, S (success, final) with intervals, and retention, neighbours and perplexity at the end."""
    row = next(r for r in cell_rows(directory) if r["when"] == "final" and r["protocol"] == "success")
    last = read_curve(directory).iloc[-1]
    kept = {k: v for k, v in row.items() if k not in ("when", "protocol")}
    return kept | {"retention": float(last["retention_success"]), "perplexity": float(last.get("perplexity", np.nan))}


def stored(directory: str | Path) -> dict[str, int]:
    """Numbers that an edit stores: the thinner of factors and dense matrix, by layer; bytes in float32."""
    from safetensors import safe_open

    with safe_open(str(read_verified(Path(directory) / "edit.safetensors")), framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    count = 0
    for layer in {name.split(".")[0] for name in shapes}:
        (d_out, rank), (_, d_in) = shapes[f"{layer}.left"], shapes[f"{layer}.right"]
        count += min(rank * (d_out + d_in), d_out * d_in)
    return {"parameters": count, "bytes": 4 * count}


def lora_table(cells: Cells) -> pd.DataFrame:
    """Scores, retention, size, seconds and what the cuts kept, one row a cell."""
    rows = []
    for directory, cell in cells:
        layers = [layer for e in read_events(directory) for layer in e.get("layers", {}).values()]
        cut = {
            "energy": [x["energy"] for x in layers if "energy" in x],
            "edit_residual": [x.get("edit_residual", x.get("residual", np.nan)) for x in layers],
            "guarded": [x["guard"] != "none" for x in layers if "guard" in x],
        }
        means = {k: float(np.mean(v)) if v else np.nan for k, v in cut.items()}
        seconds = cell_costs(directory)["edit_seconds"]
        rows.append({**cell, **final_scores(directory), **means, **stored(directory), "seconds": seconds})
    return pd.DataFrame(rows)


def compare(cells: Cells, pairs: Sequence[tuple[str, str]], along: Sequence[str] = ("rank", "replay")) -> pd.DataFrame:
    """Paired differences method A - method B over all seeds, at every value of the axes ``along``.

    An axis on which a method collapses (rank of raw recipes) matches any value. ``stored_ratio`` is how many times the
    numbers of B's edit A's edit stores.
    """
    found = {tuple(sorted(cell.items())): directory for directory, cell in cells}
    rows = []
    for a, b in pairs:
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for directory, cell in cells:
            if cell["method"] != a:
                continue
            other = _partner(found, dict(cell) | {"method": b})
            if other is not None:
                groups.setdefault(tuple(cell[k] for k in along), []).append((directory, other))
        for key, matched in groups.items():
            tables = [(read_cases(one), read_cases(two)) for one, two in matched]
            where = dict(zip(along, key, strict=True)) | {"seeds": len(matched), "stored_ratio": _stored_ratio(matched)}
            for difference in paired_differences(tables):
                rows.append({"a": a, "b": b, **where, **dataclasses.asdict(difference)})
    return pd.DataFrame(rows)


def _stored_ratio(matched: Sequence[tuple[str, str]]) -> float:
    """Numbers that the first edits of the pairs store, over those of the second."""
    first, second = (sum(stored(directory)["parameters"] for directory in side) for side in zip(*matched, strict=True))
    return first / second if second else float("nan")


def _partner(found: Mapping[tuple[tuple[str, str], ...], str], wanted: dict[str, str]) -> str | None:
    """The cell with these coordinates, or with rank 0."""
    for cell in (wanted, wanted | {"rank": "0"}):
        if (directory := found.get(tuple(sorted(cell.items())))) is not None:
            return directory
    return None


def trust_table(cells: Cells, unguarded: str, unedited: str, thresholds: Sequence[float] = ()) -> pd.DataFrame:
    """One row a guarded cell: how good its decisions were and what they were worth against the unguarded method.

    Args:
        unguarded: method without trust on the same stream.
        unedited: method that edits nothing; its perplexity is the base of the rise.
        thresholds: further rows of ``rates`` alone, for decisions at these thresholds on the recorded scores.

    ``retention_gain`` is relative; ``ppl_rise_cut`` is the share of the unguarded rise of perplexity that was avoided;
    ``overhead`` is the share of trust in the editing time (its own included).
    """
    by_place = {(cell["method"], _place(cell)): directory for directory, cell in cells}
    rows: list[dict[str, Any]] = []
    for directory, cell in cells:
        frame = decisions(read_events(directory))
        if frame.empty:
            continue
        unguarded_cell = by_place.get((unguarded, _place(cell)))
        unedited_cell = by_place.get((unedited, _unedited_place(cell)))
        worth = _worth(directory, unguarded_cell, unedited_cell)
        rows.append({**cell, "rule": "as run", **rates(frame), **_areas(frame), **worth})
        rows += [{**cell, "rule": f"trust < {t:g}", **rates(frame, t)} for t in thresholds]
    return pd.DataFrame(rows)


def _worth(directory: str, unguarded: str | None, unedited: str | None) -> dict[str, float]:
    """What the decisions of a cell were worth against the unguarded one; NaN where a cell to compare with is missing."""
    scores = final_scores(directory)
    base = final_scores(unguarded) if unguarded else {}
    start = final_scores(unedited)["perplexity"] if unedited else np.nan
    kept, perplexity = base.get("retention", np.nan), base.get("perplexity", np.nan)
    rise = perplexity - start
    return {
        "retention": scores["retention"],
        "retention_unguarded": kept,
        "retention_gain": scores["retention"] / kept - 1 if kept else np.nan,
        "NS": scores["NS"],
        "NS_unguarded": base.get("NS", np.nan),
        "perplexity": scores["perplexity"],
        "perplexity_unguarded": perplexity,
        "ppl_rise_cut": 1 - (scores["perplexity"] - start) / rise if rise > 0 else np.nan,
        "overhead": _overhead(directory),
    }


def _place(cell: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(v for k, v in cell.items() if k not in ("method", "rank"))


def _unedited_place(cell: Mapping[str, str]) -> tuple[str, ...]:
    return _place({**cell, "batch": "1", "replay": "0"})


def _areas(frame: pd.DataFrame) -> dict[str, float]:
    try:
        return {"auc": area_under_roc(frame), "average_precision": average_precision(frame)}
    except DataError:
        return {"auc": np.nan, "average_precision": np.nan}


def _overhead(directory: str) -> float:
    seconds = read_provenance(directory)["seconds"]
    trust = seconds.get("trust", {}).get("cpu", 0.0)
    return trust / max(1e-9, sum(seconds[s]["cpu"] for s in EDITING if s in seconds))


def trust_curves(cells: Cells) -> pd.DataFrame:
    """ROC and precision-recall of each guarded method, its seeds pooled: curve, threshold, x, y."""
    pooled: dict[str, list[pd.DataFrame]] = {}
    for directory, cell in cells:
        frame = decisions(read_events(directory))
        if len(frame):
            pooled.setdefault(cell["method"], []).append(frame)
    rows = []
    for method, frames in pooled.items():
        frame = pd.concat(frames, ignore_index=True)
        if frame["harmful"].all() or not frame["harmful"].any():
            continue
        for name, curve in (("roc", roc(frame)), ("precision_recall", precision_recall(frame))):
            values = curve.rename(columns={curve.columns[1]: "x", curve.columns[2]: "y"})
            rows.append(values.assign(method=method, curve=name, n=len(frame)))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["threshold", "x", "y", "method"])


def trust_decisions(cells: Cells) -> pd.DataFrame:
    """Every judged and labelled batch of the guarded cells: their coordinates, its ``number`` in the stream, and the
    other columns of ``decisions``."""
    parts = [
        decisions(read_events(directory)).rename(columns={"batch": "number"}).assign(**cell)
        for directory, cell in cells
    ]
    found = [part for part in parts if len(part)]
    return pd.concat(found, ignore_index=True) if found else parts[0].iloc[:0]


def greedy_step_events(cells: Cells) -> pd.DataFrame:
    """Every judged greedy step of the cells: their coordinates and the columns of ``greedy_steps``."""
    parts = [greedy_steps(read_events(directory)).assign(**cell) for directory, cell in cells]
    found = [part for part in parts if len(part)]
    names = ["layer", "step", "scale", "accepted", "reason", "gain", "trust"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*names, *cells[0][1]])


def greedy_table(cells: Cells) -> pd.DataFrame:
    """Scores of every cell, and for greedy ones: steps and acceptance, mean gain, trust against gain."""
    rows = []
    for directory, cell in cells:
        steps = greedy_steps(read_events(directory))
        found: dict[str, float] = {}
        if len(steps):
            varied = steps["trust"].nunique() > 1 and steps["gain"].nunique() > 1
            found = {
                "steps": len(steps),
                "acceptance": float(steps["accepted"].mean()),
                "gain_by_step": float(steps["gain"].mean()),
                "trust_gain_correlation": float(steps["trust"].corr(steps["gain"])) if varied else np.nan,
            }
        rows.append({**cell, **final_scores(directory), **found})
    return pd.DataFrame(rows)


def greedy_step_table(cells: Cells) -> pd.DataFrame:
    """By method, layer and step: how often it was tried and accepted, and its gain and trust."""
    steps = greedy_step_events(cells)
    if steps.empty:
        return pd.DataFrame(
            columns=["method", "replay", "rank", "layer", "step", "tried", "acceptance", "gain", "trust"]
        )
    grouped = steps.groupby(["method", "replay", "rank", "layer", "step"], sort=True)
    means = grouped.agg(
        tried=("gain", "size"), acceptance=("accepted", "mean"), gain=("gain", "mean"), trust=("trust", "mean")
    )
    return means.reset_index()


def greedy_steps(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a judged step: layer, step, scale, accepted, reason, gain, trust."""
    rows = [
        {
            "layer": int(layer),
            "step": step["greedy_step"],
            "scale": step["greedy_scale"],
            "accepted": step["greedy_accept"],
            "reason": step["greedy_reason"],
            "gain": step["gain"],
            "trust": step["trust"],
        }
        for event in events
        for layer, found in event.get("layers", {}).items()
        for step in found.get("greedy", [])
        if "gain" in step
    ]
    return pd.DataFrame(rows)


def forgetting_table(cells: Cells) -> pd.DataFrame:
    """The curves of all cells, long: coordinates, edits_seen, metric, value, n."""
    parts = []
    for directory, cell in cells:
        parts.append(pd.read_csv(read_verified(Path(directory) / "curve.csv")).assign(**cell))
    table = pd.concat(parts, ignore_index=True)
    axes = list(cells[0][1])
    return table[[*axes, "edits_seen", "metric", "value", "n"]]


def turning_points(table: pd.DataFrame, metric: str = "retention_success") -> pd.DataFrame:
    """The turning point of each method's curve, seeds together: knot with interval, slopes, kind."""
    rows = []
    curves = table[table["metric"] == metric]
    for key, part in curves.groupby(["method", "batch", "replay", "rank"], sort=False):
        if part["edits_seen"].nunique() < MINIMUM:
            continue
        point, low, high = turning_point_interval(part, "value")
        rows.append(
            {
                **dict(zip(("method", "batch", "replay", "rank"), key, strict=True)),
                "metric": metric,
                "kind": point.kind,
                "edits": point.knot,
                "ci_low": low,
                "ci_high": high,
                "slope_before": point.slope_before,
                "slope_after": point.slope_after,
                "explained": point.explained,
                "seeds": part["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def replay_gain(cells: Cells) -> pd.DataFrame:
    """Every (rate, capacity, strategy) of a replay ablation against no replay, all seeds together, with its verdict."""
    plain = {(c["method"], c["batch"], c["seed"]): d for d, c in cells if float(c["replay"]) == 0}
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for directory, cell in cells:
        other = plain.get((cell["method"], cell["batch"], cell["seed"]))
        if float(cell["replay"]) > 0 and other is not None:
            key = tuple(cell[k] for k in ("method", "batch", "replay", "capacity", "strategy"))
            groups.setdefault(key, []).append((directory, other))
    rows = []
    for key, matched in groups.items():
        axes = dict(zip(("method", "batch", "replay", "capacity", "strategy"), key, strict=True))
        for found in paired_differences([(read_cases(one), read_cases(two)) for one, two in matched]):
            rows.append({**axes, "seeds": len(matched), **dataclasses.asdict(found), "verdict": found.verdict()})
    return pd.DataFrame(rows)


def retraining_table(cells: Cells) -> pd.DataFrame:
    """The scores of :func:`editlab.training.retraining.retrain_on_truth`, long, with the restored share repeated in each row."""
    parts = []
    for file, cell in cells:
        table = pd.read_csv(file)
        parts.append(table.assign(**cell, restored=recovery(table)["restored"]))
    return pd.concat(parts, ignore_index=True)


def recovery(table: pd.DataFrame, metric: str = "accuracy", probe: str = "rewrite") -> dict[str, float]:
    """How much of the old knowledge retraining brought back.

    Returns:
        ``edited`` and ``unedited``: rise of the metric on held-out facts; ``never_edited``: its change on facts that
        were never edited, in the edited model; ``restored``: the rise in the edited model as a share of what the edit
        had taken from the held-out facts (1: all came back, 0: none). NaN where a group of facts is empty.
    """
    rows = table[table["probe"] == probe].set_index(["model", "facts", "when"])[metric]

    def rise(model: str, facts: str) -> float:
        return float(rows.get((model, facts, "after"), np.nan) - rows.get((model, facts, "before"), np.nan))

    taken = float(rows["unedited", "held_out", "before"] - rows["edited", "held_out", "before"])
    return {
        "edited": rise("edited", "held_out"),
        "unedited": rise("unedited", "held_out"),
        "never_edited": rise("edited", "never_edited"),
        "restored": rise("edited", "held_out") / taken if taken > 0 else float("nan"),
    }
