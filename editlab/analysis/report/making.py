"""What the generic rules run: collect a table, draw a figure, print a table, make findings, each by its name.

Everything is found through the ``REPORT`` of the study (:mod:`editlab.analysis.report.topic`).
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.draw.style import save_figure
from editlab.analysis.paper.tabular import tabular
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Figure, Report, Sheet, Tables, Topic
from editlab.analysis.statistics.streams import ENOUGH
from editlab.analysis.text.findings import Finding, cited
from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import rst
from editlab.errors import ArtifactError
from editlab.files.artifacts import defused, write_csv, write_text


def report_of(study: str) -> Report:
    """The ``REPORT`` of a study's package."""
    found: Report = importlib.import_module(f"editlab.analysis.{study}").REPORT
    return found


def read_table(path: str | Path) -> pd.DataFrame:
    """A collected table. Text such as ``NA`` is text; an empty field is unknown."""
    return pd.read_csv(path, dtype={"case_id": str}, keep_default_na=False, na_values=[""])


def read_tables(paths: Mapping[str, str | Path]) -> Tables:
    """Collected tables by name."""
    return Tables((name, read_table(path)) for name, path in paths.items())


def collect(study: str, topic: str, table: str, run: Run, *, allow_missing: bool = False) -> pd.DataFrame:
    """A collected table.

    Args:
        run: with the cells that the table reads; with ``allow_missing`` absent ones are left out and named on stderr.

    Raises:
        ArtifactError: a cell is missing, truncated or altered, or none has finished.
    """
    wanted = _declared(report_of(study).topic(topic).tables, table)
    if allow_missing:
        missing = [directory for directory, _ in run.missing()]
        if missing:
            print(f"missing cells left out: {len(missing)}", *missing, sep="\n  ", file=sys.stderr)
        run = dataclasses.replace(run, cells={e: run.finished(e) for e in run.cells})
    if wanted.experiments and not any(map(len, run.cells.values())):
        raise ArtifactError(f"{table}: no finished cell to collect")
    return wanted.collect(run)


def _declared(declarations: Sequence[Any], name: str) -> Any:
    return next(d for d in declarations if d.name == name)


def findings_of(topic: Topic, tables: Tables) -> list[Finding]:
    """The findings of a topic, of its tables that are there; those of fewer than :data:`ENOUGH` seeds say so."""
    there = Tables((name, tables[name]) for name in topic.reads if name in tables)
    return [_of_these_streams(finding, there[finding.source]) for finding in (topic.findings(there) if there else ())]


def _of_these_streams(finding: Finding, table: pd.DataFrame) -> Finding:
    """With one or two seeds an interval is about the cases of these streams, and says nothing about others."""
    seeds = 0
    if len(table):
        seeds = int(table["seeds"].max()) if "seeds" in table else table["seed"].nunique() if "seed" in table else 0
    if not 0 < seeds < ENOUGH:
        return finding
    only = "this one seed alone" if seeds == 1 else "these two seeds alone"
    return dataclasses.replace(finding, sentence=f"{finding.sentence} This describes {only}.")


def all_findings(study: str, tables: Tables) -> list[dict[str, Any]]:
    """The findings of all topics of a study, as JSON."""
    return [f.as_json(study) for topic in report_of(study).topics for f in findings_of(topic, tables)]


def caption_of(topic: Topic, figure: Figure, tables: Tables) -> str:
    """What the findings say that the figure cites, then its legend."""
    sentences = [f.sentence for f in cited(findings_of(topic, tables), figure.cites)]
    return " ".join([*sentences, figure.told(tables[figure.table])])


def draw(study: str, topic: str, figure: str, tables: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Draw a figure from files by name: its own table, and those of its topic's findings that are there.

    ``outputs``: pdf, png and the captions rst and tex.
    """
    frames, found = read_tables(tables), report_of(study).topic(topic)
    declared = _declared(found.figures, figure)
    save_figure(declared.drawn(frames[declared.table]), outputs["pdf"], outputs["png"])
    write_caption(caption_of(found, declared, frames), outputs)


def print_table(study: str, topic: str, sheet: str, tables: Tables, outputs: Mapping[str, str]) -> None:
    """Print a table: its numbers as CSV, LaTeX, and the captions rst and caption."""
    declared: Sheet = _declared(report_of(study).topic(topic).sheets, sheet)
    printed = declared.make(tables)
    write_csv(outputs["csv"], defused(printed.frame))
    write_text(outputs["tex"], tabular(printed.frame, printed.columns, f"{declared.tables[0]}.csv"))
    write_caption(printed.legend, {"rst": outputs["rst"], "tex": outputs["caption"]})


def write_caption(text: str, outputs: Mapping[str, str]) -> None:
    """A caption for the HTML report (rst) and for LaTeX (tex)."""
    write_text(outputs["rst"], rst(text) + "\n")
    write_text(outputs["tex"], escape(text) + "\n")


def warm_up(studies: Sequence[str]) -> None:
    """Import what every figure needs (:mod:`editlab.files.worker`)."""
    import seaborn  # noqa: F401

    for study in studies:
        _ = report_of(study).topics
