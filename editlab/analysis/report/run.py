"""A run of a study as its files tell it: which cells are finished, what they cost, what went wrong.

Reads provenance, events and logs of finished cells; nothing here looks at the clock or at the machine.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.files.artifacts import read_provenance, read_verified, record_of

EVENTS = "events.jsonl"
Cells = Sequence[tuple[str, Mapping[str, str]]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One study of a run.

    Attributes:
        name: of the run.
        settings: the study's block of the configuration, resolved.
        cells: by experiment, (folder, coordinates) of every declared cell.
        inputs: by name, further files that the study's rules offer.
        paths: by name, files that are looked at where they are there.
        logs: folder of the jobs' logs.
        root: folder that all paths are relative to.
    """

    name: str
    settings: Mapping[str, Any]
    cells: Mapping[str, Cells]
    inputs: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    logs: str = "logs"
    root: Path = Path()

    def found(self, name: str) -> Path | None:
        """One of ``paths``, if it is there."""
        path = self.root / self.paths[name] if name in self.paths else None
        return path if path is not None and path.is_file() else None

    def finished(self, experiment: str) -> list[tuple[str, Mapping[str, str]]]:
        """The cells of an experiment that have their provenance."""
        return [(d, c) for d, c in self.cells[experiment] if record_of(self.root / d).is_file()]

    def provenances(self) -> list[dict[str, Any]]:
        """Provenance of every finished cell.

        Raises:
            ArtifactError: one is damaged.
        """
        return [read_provenance(self.root / d) for experiment in self.cells for d, _ in self.finished(experiment)]

    def missing(self) -> list[tuple[str, str]]:
        """(folder, why) of every declared cell that is not finished: the last line of its log, where it has one."""
        return [
            (directory, self._why(experiment, cell))
            for experiment, cells in self.cells.items()
            for directory, cell in cells
            if not record_of(self.root / directory).is_file()
        ]

    def _why(self, experiment: str, cell: Mapping[str, str]) -> str:
        ending = f"-{'-'.join(cell.values())}.log"
        logs = [f for f in (self.root / self.logs).glob(f"*/{experiment}-*") if f.name.endswith(ending)]
        lines = [x.strip() for f in logs for x in f.read_text(encoding="utf-8", errors="replace").split("\n")]
        told = [line for line in lines if line.startswith("error:")] or [line for line in lines if line]
        return told[-1] if told else "was not run"

    def experiments(self) -> pd.DataFrame:
        """One row an experiment: its methods and the values of each axis as text, edits, cells declared and finished."""
        rows = []
        for name, cells in self.cells.items():
            axes = dict.fromkeys(axis for _, cell in cells for axis in cell)
            values = {axis: _listed(dict.fromkeys(c[axis] for _, c in cells if axis in c)) for axis in axes}
            plan = self.settings["experiments"][name]
            counts = {"edits": plan.get("num_edits"), "cells": len(cells), "finished": len(self.finished(name))}
            rows.append({"experiment": name, **values, **counts})
        return pd.DataFrame(rows)

    def seconds(self) -> pd.DataFrame:
        """Index stage; wall and cpu seconds of all finished cells."""
        total: dict[str, Counter[str]] = {}
        for provenance in self.provenances():
            for stage, spent in provenance["seconds"].items():
                total.setdefault(stage, Counter()).update(spent)
        frame = pd.DataFrame(total, dtype=float).T.reindex(columns=["wall", "cpu"])
        return frame.sort_values("cpu", ascending=False)

    def peak_memory_mb(self) -> float:
        """The most that any cell needed."""
        return max((p["peak_memory_mb"] for p in self.provenances()), default=float("nan"))

    def versions(self) -> dict[str, str]:
        """Library versions that the cells recorded; several are joined."""
        found = [p["versions"] for p in self.provenances()]
        names = dict.fromkeys(itertools.chain.from_iterable(found))
        return {name: _listed(sorted({versions[name] for versions in found if name in versions})) for name in names}

    def digests(self) -> dict[str, list[str]]:
        """What the finished cells were made from: model, requests and code, short checksums."""
        found: dict[str, set[str]] = {"model": set(), "requests": set(), "code": set()}
        for provenance in self.provenances():
            found["code"].add(provenance["code"].rpartition(":")[2][:12])
            for path, checksum in provenance["inputs"].items():
                for folder, kind in (("models", "model"), ("data", "requests")):
                    if folder in Path(path).parts:
                        found[kind].add(checksum[:12])
        return {name: sorted(values) for name, values in found.items()}

    def decisions(self) -> Counter[str]:
        """How many batches of finished cells were accepted, scaled, rolled back or rejected, and of how many the ridge
        was raised (``ridge``) or trust failed (``trust_error``)."""
        counted: Counter[str] = Counter()
        cells = [self.root / d for experiment in self.cells for d, _ in self.finished(experiment)]
        for event in itertools.chain.from_iterable(read_events(cell) for cell in cells if (cell / EVENTS).exists()):
            counted[str(event.get("decision"))] += 1
            counted["ridge"] += any(x.get("ridge_raised") for x in event.get("layers", {}).values())
            counted["trust_error"] += "trust_error" in event
        return counted


def of_cells(collect: Callable[[Cells], pd.DataFrame]) -> Callable[[Run], pd.DataFrame]:
    """A table of all cells that a run hands on, whatever their experiment."""
    return lambda run: collect(list(itertools.chain.from_iterable(run.cells.values())))


def read_events(directory: str | Path) -> list[dict[str, Any]]:
    """The events of a cell."""
    text = read_verified(Path(directory) / EVENTS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _listed(values: Any) -> str:
    return ", ".join(str(v) for v in values)
