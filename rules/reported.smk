# What there is to report, as the studies' REPORT declares it (editlab/analysis/{study}): which tables, figures, sheets, pages
# and findings this run has, and what each is made from. Nothing here imports torch.

from itertools import chain

from editlab.analysis.report.making import report_of
from editlab.analysis.report.topic import FIRST

REPORTS = {study: report_of(study) for study in REPORTED}
CAPTION = "../report/captions/generated.rst"
DEFAULT_PAPER = ["report/final_report.pdf"] if OUT == "results" else []


def declared(kind):
    """By name, (study, topic, declaration) of every table, figure or sheet."""
    return {
        name: (study, topic, found)
        for study, reported in REPORTS.items()
        for name, (topic, found) in getattr(reported, kind).items()
    }


COLLECTED, FIGURES, SHEETS = map(declared, ("tables", "figures", "sheets"))
PAGES = {page.name: (s, page) for s, found in REPORTS.items() for page in found.pages}


def among(names):
    """A regular expression for a wildcard; never empty."""
    return "|".join(names) or "$^"


def offered(study, name):
    """The files that a study's rules offer under a name."""
    return list(REPORTED[study]["inputs"].get(name, list)())


def experiments_of(name):
    """The experiments that a table reads and the run has; none where the run lacks the first."""
    study, _, table = COLLECTED[name]
    there = REPORTED[study]["experiments"]
    wanted = [next(iter(there), e) if e == FIRST else e for e in table.experiments]
    found = [e for e in wanted if e in there and REPORTED[study]["cells"](e)]
    return found if found[:1] == wanted[:1] else []


@functools.cache
def has_table(name):
    """Whether there is, or will be, anything in a table."""
    study, _, table = COLLECTED[name]
    if table.experiments and not experiments_of(name):
        return False
    return all(offered(study, inputs) for inputs in table.inputs)


def files_of(names):
    """By name, the files of those tables that the run has."""
    return {name: f"{OUT}/{name}.csv" for name in names if has_table(name)}


def cells_behind(name):
    """The files of cells that a table reads."""
    study, _, table = COLLECTED[name]
    if table.experiments and not experiments_of(name):
        raise WorkflowError(
            f"config: {study}.experiments.{table.experiments[0]}: required for {OUT}/{name}.csv but missing"
        )
    files = REPORTED[study]["files"]
    # One job writes them all: where files are not copied to where they are read, the first stands for the others.
    kinds = table.files if HERE else table.files[:1]
    return [f for e in experiments_of(name) for n in kinds for f in files(e, n)]


def table_inputs(wildcards):
    """What a table is collected from: files of cells, and what else the study offers."""
    study, _, table = COLLECTED[wildcards.table]
    others = {name: offered(study, name) for name in table.inputs + table.optional}
    return {"cells": cells_behind(wildcards.table)} | others


def run_of(study, experiments=None, keys=None, inputs=None):
    """What a script makes a Run of; where a table names them, only the settings and inputs that it reads."""
    found = REPORTED[study]
    settings = found["settings"]
    chosen = found["experiments"] if experiments is None else experiments
    return {
        "name": RUN.run,
        "settings": settings if keys is None else {k: settings[k] for k in keys},
        "cells": {e: found["cells"](e) for e in chosen},
        "inputs": {
            n: offered(study, n)
            for n in (found["inputs"] if inputs is None else inputs)
        },
        "paths": found["paths"] if keys is None else {},
        "logs": LOGS,
    }


def run_of_table(wildcards):
    study, _, table = COLLECTED[wildcards.table]
    chosen = experiments_of(wildcards.table)
    return run_of(study, chosen, table.settings, table.inputs + table.optional)


def code_of(script, entry):
    """Digest of a script with the file of the topic that it runs."""
    study, topic, _ = entry
    return code_digest(script, REPORTS[study].module(topic.name))


def figure_tables(wildcards):
    """The table of a figure, and those of the findings that its caption cites."""
    _, topic, figure = FIGURES[wildcards.figure]
    return {figure.table: f"{OUT}/{figure.table}.csv"} | files_of(topic.reads)


def report_tables():
    """The collected tables that the run has."""
    return list(files_of(COLLECTED).values())


def report_figures():
    """The figures that the run has."""
    found = [name for name, (*_, f) in FIGURES.items() if has_table(f.table)]
    return [f"{OUT}/figures/{name}.png" for name in found]


def report_sheets():
    """The printed tables that the run has."""
    found = [n for n, (*_, s) in SHEETS.items() if all(map(has_table, s.tables))]
    return [f"{OUT}/tables/{name}.csv" for name in found]


def finding_tables():
    """All tables that findings are made of, by name."""
    topics = [topic for found in REPORTS.values() for topic in found.topics]
    return files_of(name for topic in topics for name in topic.reads)


def report_findings():
    """The findings, where there is anything to say."""
    return [f"{OUT}/findings.json"] if finding_tables() else []


def report_pages():
    """The interactive pages, the front page and the card of the run."""
    found = [name for name, (_, page) in PAGES.items() if files_of(page.tables)]
    pages = [f"{OUT}/report/{name}.html" for name in found]
    return [*pages, f"{OUT}/report/front_page.rst", f"{OUT}/summary.md"]


def report_files():
    """Everything that a finished run has beside its cells."""
    made = report_tables() + report_figures() + report_sheets()
    return made + report_findings() + report_pages()


TARGETS.append(report_files)


def captions_of(files, suffix):
    """The captions of figures and printed tables, which lie in a folder of their own."""
    found = [Path(OUT, "captions", Path(f).relative_to(OUT)) for f in files]
    return [str(path.with_suffix(suffix)) for path in found]


def told_tables(study):
    """The tables that the description and the headline of a study stand on."""
    found = REPORTS[study]
    sheet = found.sheets[found.headline][1].tables if found.headline else ()
    return files_of([*found.described, *sheet])


def report_texts(wildcards):
    """What the sentences of card, front page and paper are made of."""
    records = [
        file
        for found in REPORTED.values()
        for e in found["experiments"]
        for file in found["files"](e, "record")
    ]
    return {
        "findings": report_findings(),
        "tables": [path for s in REPORTED for path in told_tables(s).values()],
        "records": records,
        "offered": [f for s in REPORTED for f in offered(s, "requests")],
        "templates": sorted(map(str, Path("report/templates").glob("*.j2"))),
    }


def text_modules():
    """Modules of all studies that front page, card and paper are made with."""
    return [
        found.module(name)
        for found in REPORTS.values()
        for name in ("description", *found.names)
    ]
