"""Reading the files of cells: every file is compared with its checksum before it is believed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.report.run import EVENTS, Cells, Run
from editlab.analysis.statistics.intervals import Interval, beside
from editlab.editing import events
from editlab.errors import DamagedError
from editlab.files.artifacts import read_provenance, read_verified, rebuild_command

CELL_FILES = ("metrics.csv", "curve.csv", "record")  # what a table of cells reads of every cell
METRICS = ("ES", "PS", "NS", "S")
BESIDE = ("NS_published", "SS", "ES_single", "ES_repeated")  # further columns of a row, where a cell has them
EXACT = ("ES", "NS", "SS")  # exact answers beside success
MEMORY = ("memory_gate", "memory_collisions", "memory_firing_neutral")  # of a memory, where there is one
EDITING = ("targets", "keys", "solve", "commit", "trust")  # what a method costs beside its evaluation


def cells_table(run: Run, with_costs: bool = False) -> pd.DataFrame:
    """One row a cell and metric set (when x protocol): ES, PS, NS, S with intervals, and what the stream cost the model.

    NS is over neighbours that the stream does not edit itself; ``NS_left_out`` is the share of the others, NS_published
    over all of them. Rows of success have the exact answers of neighbours and of the subjects' other facts beside it.

    Args:
        with_costs: add measured seconds and memory (not reproducible, hence off by default).

    Raises:
        ArtifactError: a cell is truncated or altered.
    """
    rows: list[dict[str, Any]] = []
    for directory, cell in itertools.chain.from_iterable(run.cells.values()):
        facts = Path(directory).parents[len(cell) - 1]  # .../{model}/{dataset}/, then a folder an axis
        fixed = {"study": run.name, "model": facts.parent.name, "dataset": facts.name}
        costs = cell_costs(directory) if with_costs else {}
        edits = cell_facts(directory)["edits"]
        kept = {"parameters": stored(directory)["parameters"]}
        rows += [{**fixed, **cell, "edits": edits, **row, **kept, **costs} for row in cell_rows(directory)]
    return pd.DataFrame(rows)


def cell_rows(directory: str | Path) -> list[dict[str, Any]]:
    """The metric sets of one cell, wide: one row a (when, protocol)."""
    metrics = pd.read_csv(read_verified(Path(directory) / "metrics.csv"))
    last, rows = _last_snapshot(directory), []
    for when in ("immediate", "final"):
        for protocol in ("success", "accuracy", "magnitude"):
            if row := score_row(metrics[metrics["when"] == when], protocol):
                rows.append({"when": when, **row, **_at_the_end(metrics, last)})
    return rows


def score_row(metrics: pd.DataFrame, protocol: str) -> dict[str, Any]:
    """The scores of a table of metrics side by side; of success also the exact answers. Empty, where it has none."""
    part = metrics[metrics["protocol"] == protocol].set_index("metric")
    if not part.index.isin(METRICS).any():
        return {}
    cases = part["n"].where(part.index.isin(METRICS)).max()  # not of probes, of which a case may have several
    row = {"protocol": protocol, "n": int(cases), **_columns(part, METRICS), **_columns(part, BESIDE)}
    if protocol == "success":
        row |= _columns(metrics[metrics["protocol"] == "accuracy"].set_index("metric"), EXACT, "_exact")
    return row


def _last_snapshot(directory: str | Path) -> pd.Series:
    """The end of a cell's curve, by metric."""
    curve = pd.read_csv(read_verified(Path(directory) / "curve.csv"))
    return curve[curve["edits_seen"] == curve["edits_seen"].max()].set_index("metric")["value"]


def _columns(metrics: pd.DataFrame, names: Sequence[str], suffix: str = "") -> dict[str, float]:
    """Value and interval of each metric that is there, side by side."""
    return beside({f"{name}{suffix}": Interval.of(metrics.loc[name]) for name in names if name in metrics.index})


def _at_the_end(metrics: pd.DataFrame, curve: pd.Series) -> dict[str, float]:
    """Side effects of the whole stream: the same in every row of a cell."""
    kinds = (metrics[metrics["protocol"] == kind] for kind in ("generation", "share"))
    generation, share = (rows.set_index("metric")["value"] for rows in kinds)
    wanted = [name for name in ("GE", "perplexity", "targets_unconverged", *MEMORY) if name in generation]
    norms = [float(v) for k, v in curve.items() if str(k).startswith("delta_norm")]
    found = {str(name): float(value) for part in (generation[wanted], share) for name, value in part.items()}
    return found | {"delta_norm": sum(v * v for v in norms) ** 0.5}


def cell_facts(directory: str | Path) -> dict[str, Any]:
    """Number of edits, what the edit keeps, seconds by stage and peak memory of one cell, from its provenance.

    Raises:
        DamagedError: the provenance is missing, damaged or not that of a cell.
    """
    provenance = read_provenance(directory)
    stages, amounts = provenance.get("seconds"), [provenance.get("edits"), provenance.get("peak_memory_mb")]
    if isinstance(stages, dict) and all(isinstance(stage, dict) for stage in stages.values()):
        amounts += [stage.get(clock) for stage in stages.values() for clock in ("wall", "cpu")]
    else:
        amounts.append(None)
    if not all(isinstance(amount, int | float) and 0 <= amount < 1e15 for amount in amounts):
        raise DamagedError(
            f"{directory}: its provenance is not that of a cell; rebuild with: {rebuild_command(directory)}", directory
        )
    return provenance


def cell_costs(directory: str | Path) -> dict[str, float]:
    """Measured cost of one cell: wall seconds in all, CPU seconds by stage, peak memory."""
    provenance = cell_facts(directory)
    seconds = {stage: clocks["wall"] for stage, clocks in provenance["seconds"].items()}
    editing = sum(seconds[stage] for stage in EDITING if stage in seconds)
    return {
        "seconds": sum(seconds.values()),
        "edit_seconds": editing,
        "seconds_per_edit": editing / max(1, provenance["edits"]),
        "peak_memory_mb": provenance["peak_memory_mb"],
        "inference": _inference(provenance),
    }


def _inference(provenance: Mapping[str, Any]) -> float:
    """Time to read the edited model over that of the unedited one; NaN where it was not measured."""
    measured = provenance.get("inference") or {}
    before, after = (measured.get(name) for name in ("unedited", "edited"))
    return after / before if before and after else math.nan


def read_cases(directory: str | Path) -> pd.DataFrame:
    """Scores by case of one cell at the end of its stream."""
    cases = pd.read_csv(read_verified(Path(directory) / "cases.csv"), dtype={"case_id": str})
    return cases[cases["when"] == "final"]


def final_scores(directory: str | Path) -> dict[str, float]:
    """ES, PS, NS, S (success, final) with intervals, and retention, neighbours and perplexity at the end."""
    row = next(r for r in cell_rows(directory) if r["when"] == "final" and r["protocol"] == "success")
    last = _last_snapshot(directory)
    kept = {k: v for k, v in row.items() if k not in ("when", "protocol")}
    return kept | {"retention": float(last["retention_success"]), "perplexity": float(last.get("perplexity", np.nan))}


def stored(directory: str | Path) -> dict[str, int]:
    """Numbers that the edit of a cell keeps, and their bytes in float32.

    Raises:
        DamagedError: its record does not say; it is damaged, or was made before records did.
    """
    count = cell_facts(directory).get("parameters")
    if not isinstance(count, int):
        told = f"rebuild with: {rebuild_command(directory)}"
        raise DamagedError(f"{directory}: its record does not say what the edit keeps; {told}", directory)
    return {"parameters": count, "bytes": 4 * count}


def stored_rank(events: Sequence[Mapping[str, Any]]) -> int:
    """The largest rank that an adapter of the cell came to, whatever was asked for; 0 where the edits are stored raw."""
    layers = [layer for event in events for layer in event.get("layers", {}).values()]
    parts = [part for layer in layers for part in (layer, *layer.get("greedy", []))]
    return max((part.get("lora_rank", 0) for part in parts if part.get("greedy_accept", True)), default=0)


def curves_table(cells: Cells) -> pd.DataFrame:
    """The curves of all cells, long: coordinates, edits_seen, metric, value, n."""
    parts = [pd.read_csv(read_verified(Path(d) / "curve.csv")).assign(**cell) for d, cell in cells]
    return pd.concat(parts, ignore_index=True)[[*cells[0][1], "edits_seen", "metric", "value", "n"]]


def read_events(directory: str | Path) -> list[dict[str, Any]]:
    """What each batch of a cell left behind (:class:`editlab.editing.events.Event`)."""
    path = read_verified(Path(directory) / EVENTS)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [event.record() for event in events.read_events(lines, str(path))]
