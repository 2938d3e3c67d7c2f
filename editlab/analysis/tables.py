"""Tables over cells: every file is compared with its checksum before it is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.errors import ArtifactError, DamagedError
from editlab.files.artifacts import read_provenance, read_verified, rebuild_command, record_of

METRICS = ("ES", "PS", "NS", "S")
STAGES = ("load", "targets", "keys", "solve", "commit", "trust", "label", "evaluate", "generate", "write")
EDITING = ("targets", "keys", "solve", "commit", "trust")  # what a method costs beside its evaluation


def collect_cells(
    directories: Sequence[str],
    coordinates: Sequence[Mapping[str, str]],
    fixed: Mapping[str, str],
    *,
    with_costs: bool = False,
    allow_missing: bool = False,
) -> pd.DataFrame:
    """One row a cell and metric set (when x protocol): ES, PS, NS, S with intervals, and what the stream cost the model.

    Args:
        directories: one a cell, in the order of ``coordinates``.
        fixed: columns that are the same in every row.
        with_costs: add measured seconds and memory (not reproducible, hence off by default).
        allow_missing: leave absent cells out and name them on stderr.

    Raises:
        ArtifactError: a cell is missing, truncated or altered.
    """
    rows: list[dict[str, Any]] = []
    missing = []
    for directory, cell in zip(directories, coordinates, strict=True):
        if allow_missing and not record_of(directory).is_file():
            missing.append(directory)
            continue
        costs = cell_costs(directory) if with_costs else {}
        edits = cell_facts(directory)["edits"]
        rows += [{**fixed, **cell, "edits": edits, **row, **costs} for row in cell_rows(directory)]
    if missing:
        import sys

        print(f"missing cells left out: {len(missing)}", *missing, sep="\n  ", file=sys.stderr)
    if not rows:
        raise ArtifactError("no finished cell to collect")
    return pd.DataFrame(rows)


def cell_rows(directory: str | Path) -> list[dict[str, Any]]:
    """The metric sets of one cell, wide: one row a (when, protocol)."""
    metrics = pd.read_csv(read_verified(Path(directory) / "metrics.csv"))
    curve = pd.read_csv(read_verified(Path(directory) / "curve.csv"))
    last = curve[curve["edits_seen"] == curve["edits_seen"].max()].set_index("metric")["value"]
    rows = []
    for when in ("immediate", "final"):
        for protocol in ("success", "accuracy", "magnitude"):
            part = metrics[(metrics["when"] == when) & (metrics["protocol"] == protocol)].set_index("metric")
            if part.empty:
                continue
            row: dict[str, Any] = {"when": when, "protocol": protocol, "n": int(part["n"].max())}
            for name in METRICS:
                if name in part.index:
                    row[name] = part.loc[name, "value"]
                    row[f"{name}_low"], row[f"{name}_high"] = part.loc[name, "ci_low"], part.loc[name, "ci_high"]
            rows.append(row | _at_the_end(metrics, last))
    return rows


def _at_the_end(metrics: pd.DataFrame, curve: pd.Series) -> dict[str, float]:
    """Side effects of the whole stream: the same in every row of a cell."""
    generation = metrics[metrics["protocol"] == "generation"].set_index("metric")["value"]
    found = {name: float(generation[name]) for name in ("GE", "perplexity") if name in generation.index}
    norms = [float(v) for k, v in curve.items() if str(k).startswith("delta_norm")]
    return found | {"delta_norm": sum(v * v for v in norms) ** 0.5}


def cell_facts(directory: str | Path) -> dict[str, Any]:
    """Number of edits, seconds by stage and peak memory of one cell, from its provenance.

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
    seconds = provenance["seconds"]
    wall = sum(stage["wall"] for stage in seconds.values())
    editing = sum(seconds[s]["wall"] for s in EDITING if s in seconds)
    found = {"seconds": wall, "edit_seconds": editing, "seconds_per_edit": editing / max(1, provenance["edits"])}
    return found | {"peak_memory_mb": provenance["peak_memory_mb"]}


def collect_costs(directories: Sequence[str], coordinates: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """One row a cell: costs and CPU seconds by stage."""
    rows = []
    for directory, cell in zip(directories, coordinates, strict=True):
        seconds = cell_facts(directory)["seconds"]
        stages = {f"cpu_{stage}": seconds.get(stage, {}).get("cpu", 0.0) for stage in STAGES}
        rows.append({**cell, **cell_costs(directory), **stages})
    return pd.DataFrame(rows)
