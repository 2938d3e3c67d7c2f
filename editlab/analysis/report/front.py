"""The front page of Snakemake's report (reStructuredText) and the card of a run (Markdown), from templates in ``report/``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.analysis.paper.tabular import Printed, list_of
from editlab.analysis.report import texts
from editlab.analysis.report.making import read_tables, report_of
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Description, Report
from editlab.analysis.text.wording import counted, label, listed, rst

TEMPLATES = Path("report/templates")
MISSING_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Told:
    """What is told of one study of a run.

    Attributes:
        findings: of ``findings.json``, this study's alone.
        headline: the printed table of the front page, if the run has it.
    """

    report: Report
    run: Run
    description: Description
    findings: Sequence[Mapping[str, Any]]
    headline: Printed | None = None


def told_of(
    runs: Mapping[str, Mapping[str, Any]], tables: Mapping[str, Mapping[str, str]], findings: Sequence[str]
) -> list[Told]:
    """What is told of every study of a run: by study, the fields of its :class:`Run`, and the collected tables that its
    description and its headline stand on; ``findings``: the file of findings, if there is one.
    """
    found = [f for path in findings for f in json.loads(Path(path).read_text(encoding="utf-8"))]
    studies = []
    for study, fields in runs.items():
        report, run, frames = report_of(study), Run(**fields), read_tables(tables[study])
        sheet = report.sheets[report.headline][1] if report.headline else None
        headline = sheet.make(frames) if sheet and set(sheet.tables) <= set(frames) else None
        own = [f for f in found if f["study"] == study]
        studies.append(Told(report, run, report.describe(run, frames), own, headline))
    return studies


def front_page(studies: Sequence[Told], templates: Path = TEMPLATES) -> str:
    """Text that ``report/workflow.rst`` includes: questions, headline tables, findings, set-up, what is missing."""
    return _rendered("front_page.rst.j2", [_front(told) for told in studies], studies, templates)


def _front(told: Told) -> dict[str, Any]:
    reading = "Values with 95 % intervals; bold where the paired test separates the best from every other one."
    missing = [*texts.missing_sentences(told.report, told.run), *told.description.limits]
    return {
        "title": rst(f"{told.report.title}: {told.description.subject}"),
        "question": rst(told.report.question),
        "headline": _grid(*list_of(told.headline, rst), "grid") if told.headline else "",
        "reading": rst(told.headline.legend if told.headline else reading),
        "findings": [rst(f["sentence"]) for f in texts.leading(told.findings, told.report.names, 8)],
        "setting": [rst(sentence) for sentence in told.description.setting],
        "missing": rst(" ".join(missing)),
    }


def card(studies: Sequence[Told], templates: Path = TEMPLATES) -> str:
    """The card of a run: what ran, on what, how long, what was found, what failed or is missing."""
    return _rendered("summary.md.j2", [_card(told) for told in studies], studies, templates)


def _card(told: Told) -> dict[str, Any]:
    run, missing, subject = told.run, told.run.missing(), told.description.subject
    absent = [s for s in texts.missing_sentences(told.report, run) if "experiment" in s]
    return {
        "title": told.report.title,
        "question": told.report.question,
        "experiments": _experiments(run) if run.cells else f"{subject[:1].upper()}{subject[1:]}.",
        "setting": " ".join(told.description.setting),
        "versions": _versions(run),
        "costs": _costs(run),
        "findings": [f["sentence"] for f in texts.leading(told.findings, told.report.names, 9)],
        "missing": [(_flat(directory), _flat(why)) for directory, why in missing[:MISSING_SHOWN]],
        "cells_missing": counted(len(missing), "declared cell"),
        "more": max(0, len(missing) - MISSING_SHOWN),
        "outcome": " ".join([texts.batch_sentence(run), *absent]).strip(),
    }


def _experiments(run: Run) -> str:
    table = run.experiments().fillna("")
    if "method" in table:
        table["method"] = [", ".join(label(m) for m in row.split(", ")) for row in table["method"]]
    return _grid([*map(str, table)], table.values.tolist(), "pipe")


def _grid(heads: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> str:
    from tabulate import tabulate

    return str(tabulate(rows, heads, tablefmt=form, disable_numparse=True))


def _versions(run: Run) -> str:
    versions = run.versions()
    shown = ("editlab", "python", "torch", "transformers", "peft", "snakemake")
    named = [f"{name} {versions[name]}" for name in shown if name in versions]
    checksums = [f"{kind} `{'`, `'.join(values)}`" for kind, values in run.digests().items() if values]
    return f"Made with {listed(named)}. Checksums: {listed(checksums)}." if named else ""


def _costs(run: Run) -> str:
    if not run.cells:
        return "The study has no cells; the seconds of a job are in the record of what it made (`.provenance/`)."
    seconds = run.seconds()
    if seconds.empty:
        return "No cell has finished."
    cells = sum(len(run.finished(e)) for e in run.cells)
    wall, cpu = float(seconds["wall"].sum()), float(seconds["cpu"].sum())
    stages = [f"{stage} {100 * spent / cpu:.0f} %" for stage, spent in seconds["cpu"].items() if spent / cpu >= 0.01]
    return (
        f"{counted(cells, 'finished cell')} took {_clock(wall)} of wall time one after another ({_clock(cpu)} CPU, "
        f"{cpu / cells:.1f} s a cell): {', '.join(stages)}. A cell needed at most {run.peak_memory_mb():,.0f} MB."
    )


def _clock(seconds: float) -> str:
    if math.isnan(seconds) or seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _flat(text: str) -> str:
    """One line that Markdown shows as it is."""
    return " ".join(text.split()).replace("`", "'").replace("<", "&lt;").replace("|", "\\|")[:160]


def _rendered(template: str, contents: list[dict[str, Any]], studies: Sequence[Told], templates: Path) -> str:
    import jinja2

    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    loader = jinja2.FileSystemLoader(templates)
    environment = jinja2.Environment(loader=loader, autoescape=False, **options)  # values come escaped for their format
    title = f"Run {studies[0].run.name}"
    shown = rst(title) if template.endswith(".rst.j2") else title
    return environment.get_template(template).render(title=shown, studies=contents).strip() + "\n"
