"""The generated part of the paper: every value, finding and caption that its sources fetch.

``report/paper/paper.tex`` is a frame, ``report/sections/{study}.tex`` has the words and equations of a study. What depends on
the run comes from here as definitions (``\\defvalue``, ``\\deffindings``, ``\\deffigure``, ``\\deftable``), all text escaped, so
that a missing experiment gives a sentence in place of a section, and data cannot become commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from editlab.analysis.paper.tabular import Column, tabular, wrapped
from editlab.analysis.report import texts
from editlab.analysis.report.front import Told
from editlab.analysis.report.topic import Report
from editlab.analysis.text.latex import escape
from editlab.analysis.text.wording import listed
from editlab.files.artifacts import sha256

Captions = Mapping[str, str]  # by name of a figure or table, in LaTeX
NOTHING = escape("The files of this run do not support a statement yet.")
ROOM = 5  # figures and tables up to this level stand in the table of files; the page lists the others
PROVENANCE = "The files behind the leading figures and tables of the run, with the start of their checksums."


def generated(studies: Sequence[Told], figures: Captions, sheets: Captions) -> str:
    """The text of ``generated.tex``, with the captions of the figures and printed tables that the run has."""
    lines = ["% Made by the workflow from the results of the run; not to be edited.", *_frame(studies)]
    for told in studies:
        lines += [_define("study", told.report.study, escape(told.report.title))]
        lines += [_define("value", f"{told.report.study}.{k}", text) for k, text in told.description.values.items()]
        lines += _findings(told)
    drawn = {name: found for told in studies for name, (_, found) in told.report.figures.items()}
    printed = {name: found for told in studies for name, (_, found) in told.report.sheets.items()}
    lines += [_shown("figure", name, caption, drawn[name].level) for name, caption in figures.items()]
    lines += [_shown("table", name, caption, printed[name].level) for name, caption in sheets.items()]
    for told in studies:
        lines += [_shown("table", name, text, level) for name, (_, text, level) in told.description.tables.items()]
    return "\n".join([*lines, _shown("table", "provenance", escape(PROVENANCE), 1), ""])


def detail(reports: Sequence[Report]) -> int:
    """The highest level of a figure or table."""
    levels = [figure.level for r in reports for _, figure in r.figures.values()]
    return max(levels + [sheet.level for r in reports for _, sheet in r.sheets.values()])


def _frame(studies: Sequence[Told]) -> list[str]:
    """What the frame of the paper fetches."""
    titles = [told.report.title for told in studies]
    alone = studies[0].description.values.get("title", escape(titles[0]))
    found = {
        "run.name": escape(studies[0].run.name),
        "paper.title": alone if len(studies) == 1 else escape(listed(titles)),
        "paper.provenance": escape(" ".join(texts.provenance_sentences([told.run for told in studies]))),
    }
    several = [_define("study", "several", "")] if len(studies) > 1 else []
    return [*(_define("value", k, v) for k, v in found.items()), *several]


def _findings(told: Told) -> list[str]:
    """The sentences of every topic of a study, or the one that says what is missing."""
    report, findings = told.report, texts.by_topic(told.findings)
    found = {}
    for topic in report.topics:
        sentences = texts.told(findings.get(topic.name, []), topic.sentences)
        found[topic.name] = escape(" ".join(sentences) or texts.absent_sentence(report, topic, told.run))
    best = [str(f["sentence"]) for f in texts.leading(told.findings, report.abstract, 3)]
    found["abstract"] = escape(" ".join(best)) or NOTHING
    found["conclusion"] = escape(" ".join(texts.conclusion(report, told.findings))) or NOTHING
    found["missing"] = escape(" ".join(texts.missing_sentences(report, told.run)))
    firsts = texts.leading(told.findings, [t.name for t in report.topics if t.about and t.name != "costs"], 5)
    items = "".join(rf"\item {escape(f['sentence'])} " for f in firsts)
    found["introduction"] = rf"\begin{{itemize}}\tight {items}\end{{itemize}}" if items else NOTHING
    return [_define("findings", f"{report.study}.{key}", text) for key, text in found.items()]


def _define(kind: str, key: str, text: str) -> str:
    return rf"\def{kind}{{{key}}}{{{text}}}"


def _shown(kind: str, name: str, caption: str, level: int) -> str:
    """A figure or table with its caption, if the paper has room for its level."""
    return rf"\atdetail{{{level}}}{{{_define(kind, name, caption)}}}"


def own_tables(
    studies: Sequence[Told], tables: Mapping[str, str], figures: Captions, sheets: Captions
) -> dict[str, str]:
    """The small tables that the paper brings along, by name: those of the studies, and the provenance.

    ``tables``: files of the collected tables by name.
    """
    found = {name: text for told in studies for name, (text, _, _) in told.description.tables.items()}
    return {**found, "provenance": _provenance(studies, tables, figures, sheets)}


def _provenance(studies: Sequence[Told], tables: Mapping[str, str], figures: Captions, sheets: Captions) -> str:
    """Which file every leading table and figure comes from, with the start of its checksum."""
    behind: dict[str, dict[str, list[str]]] = {}
    for told in studies:
        drawn = [("figure", n, (f.table,), f.level) for n, (_, f) in told.report.figures.items() if n in figures]
        printed = [("table", n, s.tables, s.level) for n, (_, s) in told.report.sheets.items() if n in sheets]
        for kind, name, sources, level in [*drawn, *printed]:
            for table in sources if level <= ROOM else ():
                behind.setdefault(table, {}).setdefault(kind, []).append(name)
    rows = [
        (f"{table}.csv", sha256(Path(tables[table]))[:8], "; ".join(f"{k} {', '.join(v)}" for k, v in kinds.items()))
        for table, kinds in behind.items()
        if table in tables
    ]
    frame = pd.DataFrame(rows, columns=["file", "checksum", "shown"])
    heads = {"file": "file", "checksum": "SHA-256", "shown": "shown in"}
    columns = [Column(name, head, "text") for name, head in heads.items()]
    return wrapped(tabular(frame, columns, "the files themselves"), "llX")
