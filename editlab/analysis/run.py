"""A run of a study as its files tell it: which cells are finished, what they cost, what went wrong.

Reads provenance, events and logs of finished cells; nothing here looks at the clock or at the machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.config.solvers import SOLVERS
from editlab.files.artifacts import read_provenance, read_verified, record_of

Cells = Mapping[str, Sequence[tuple[str, Mapping[str, str]]]]
AXES = ("batch", "replay", "capacity", "strategy", "rank", "seed")


@dataclasses.dataclass(frozen=True)
class Run:
    """A study and its cells.

    Attributes:
        study: the resolved configuration.
        cells: by experiment, (directory, coordinates) of every declared cell.
        root: folder of ``results`` and ``logs``.
    """

    study: Mapping[str, Any]
    cells: Cells
    root: Path = Path()

    def finished(self, experiment: str) -> list[tuple[str, Mapping[str, str]]]:
        """The cells of an experiment that have their provenance."""
        return [(d, c) for d, c in self.cells[experiment] if record_of(self.root / d).is_file()]

    def provenances(self, experiment: str) -> list[dict[str, Any]]:
        """Provenance of every finished cell of an experiment.

        Raises:
            ArtifactError: one is damaged.
        """
        return [read_provenance(self.root / d) for d, _ in self.finished(experiment)]

    def missing(self) -> list[tuple[str, str]]:
        """(directory, why) of every declared cell that is not finished: the last line of its log, where it has one."""
        return [
            (directory, self._why(experiment, cell))
            for experiment, cells in self.cells.items()
            for directory, cell in cells
            if not record_of(self.root / directory).is_file()
        ]

    def _why(self, experiment: str, cell: Mapping[str, str]) -> str:
        rule = "replay_cell" if "capacity" in cell else "edit_cell"
        name = "-".join([experiment, self.study["model"], self.study["dataset"], *cell.values()])
        log = self.root / "logs" / rule / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        errors = [line.strip() for line in lines if line.startswith("error:")] or [
            x.strip() for x in lines if x.strip()
        ]
        return errors[-1] if errors else "was not run"

    def experiments(self) -> pd.DataFrame:
        """One row an experiment: its axes as text, edits a stream, cells declared and finished."""
        rows = []
        for name, cells in self.cells.items():
            plan = self.study["experiments"][name]
            values = {a: _listed(list(dict.fromkeys(c[a] for _, c in cells if a in c))) for a in AXES}
            counts = {"edits": plan["num_edits"], "cells": len(cells), "finished": len(self.finished(name))}
            rows.append({"experiment": name, "methods": _listed(plan["methods"]), **values, **counts})
        return pd.DataFrame(rows, columns=["experiment", "methods", *AXES, "edits", "cells", "finished"])

    def seconds(self) -> pd.DataFrame:
        """Index stage; wall and cpu seconds of all finished cells."""
        total: dict[str, Counter[str]] = {}
        for experiment in self.cells:
            for provenance in self.provenances(experiment):
                for stage, spent in provenance["seconds"].items():
                    total.setdefault(stage, Counter()).update(spent)
        frame = pd.DataFrame(total, dtype=float).T.reindex(columns=["wall", "cpu"])
        return frame.sort_values("cpu", ascending=False)

    def peak_memory_mb(self) -> float:
        """The most that any cell needed."""
        return max((p["peak_memory_mb"] for e in self.cells for p in self.provenances(e)), default=float("nan"))

    def versions(self) -> dict[str, str]:
        """Library versions that the cells recorded; several are joined."""
        found: dict[str, list[str]] = {}
        for experiment in self.cells:
            for provenance in self.provenances(experiment):
                for name, version in provenance["versions"].items():
                    found.setdefault(name, []).append(version)
        return {name: _listed(sorted(set(values))) for name, values in found.items()}

    def digests(self, experiment: str) -> dict[str, list[str]]:
        """What the finished cells of an experiment were made from: code, model and requests, short checksums."""
        found: dict[str, set[str]] = {"code": set(), "model": set(), "requests": set()}
        kinds = {"results/models/": "model", "results/data/": "requests"}
        for provenance in self.provenances(experiment):
            found["code"].add(provenance["code"].rpartition(":")[2][:12])
            for path, checksum in provenance["inputs"].items():
                for start, name in kinds.items():
                    if path.startswith(start):
                        found[name].add(checksum[:12])
        return {name: sorted(values) for name, values in found.items()}

    def decisions(self) -> Counter[str]:
        """How many batches of finished cells were accepted, scaled, rolled back or rejected, and of how many the ridge
        was raised (``ridge``) or trust failed (``trust_error``)."""
        counted: Counter[str] = Counter()
        for experiment in self.cells:
            for directory, _ in self.finished(experiment):
                for event in _events(self.root / directory / "events.jsonl"):
                    counted[str(event.get("decision"))] += 1
                    counted["ridge"] += any(x.get("ridge_raised") for x in event.get("layers", {}).values())
                    counted["trust_error"] += "trust_error" in event
        return counted

    def training(self) -> dict[str, float]:
        """What training the substrate took and reached: seconds and recall, as far as the files are there."""
        model = self.study["model"]
        found: dict[str, float] = {}
        table = self.root / "results" / "training" / f"{model}.csv"
        if table.is_file():
            found["recall"] = float(pd.read_csv(read_verified(table))["recall"].iloc[-1])
        measured = self.root / "results" / "benchmarks" / "rules" / "train_substrate" / f"{model}.jsonl"
        if measured.is_file() and (lines := measured.read_text(encoding="utf-8").splitlines()):
            found["seconds"] = float(json.loads(lines[-1])["s"])
        return found

    def known_share(self) -> tuple[float, int]:
        """(share, facts): how many facts of the data set the model completes before any edit; NaN where unknown."""
        path = self.root / "results" / "known" / self.study["model"] / f"{self.study['dataset']}.csv"
        if not path.is_file():
            return float("nan"), 0
        known = pd.read_csv(read_verified(path))["known"]
        return float(known.mean()), len(known)

    def controls(self) -> list[str]:
        """Methods of the study that are no contestants."""
        methods = self.study["methods"]
        return [
            m for m, recipe in methods.items() if recipe["solver"] == "random" or not SOLVERS[recipe["solver"]].edits
        ]


def _events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_verified(path).read_text(encoding="utf-8").splitlines()]


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(v) for v in values)
