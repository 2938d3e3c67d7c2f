"""What a study reports, as declarations: a :class:`Report` lists topics, and each topic is one file of its package.

``editlab/analysis/{study}/__init__.py`` exports ``REPORT``. The file of a topic has a ``TOPIC`` with the tables that it
collects from cells (:class:`Collected`) and its place in the paper; what it declares with :func:`figure` and :func:`sheet`
are its figures and printed tables, and its function ``findings`` makes its findings. Tables are known by name alone; the rules
know where ``NAME.csv`` lies. Names of tables, figures, sheets and pages are unique over all studies, because a run has one
folder of each.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis.draw.plots import Drawing, says
from editlab.analysis.draw.style import house_style
from editlab.analysis.paper.tabular import Printed
from editlab.analysis.report.run import Run
from editlab.analysis.text.findings import Finding

FIRST = "*"  # in place of an experiment: the first that the run declares


class Tables(dict[str, pd.DataFrame]):
    """Collected tables by name; one that the run lacks is empty."""

    def __missing__(self, name: str) -> pd.DataFrame:
        return pd.DataFrame()


@dataclasses.dataclass(frozen=True)
class Collected:
    """A table that is collected from finished cells: ``NAME.csv`` in the folder of the run.

    Attributes:
        collect: from the run, whose ``cells`` hold the experiments named here and whose ``inputs`` the files named here.
        experiments: that it reads. A run that lacks the first has no such table; the others are read where they are there.
            :data:`FIRST` stands for the first of the run.
        files: of every cell that it reads; ``record`` is that of how the cell was made.
        settings: keys of the study's block that it reads: it is made again when one changes.
        inputs: further files by the name under which the study's rules offer them (``REPORTED`` in ``rules/{study}/report.smk``);
            a run where one is empty has no such table.
        optional: the same, for files that the table is the poorer without.
    """

    name: str
    collect: Callable[[Run], pd.DataFrame]
    experiments: tuple[str, ...] = ()
    files: tuple[str, ...] = ("metrics.csv",)
    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of one table, declared with :func:`figure`. Its caption is what the findings named by ``cites`` say (keys of
    the topic, with ``*``), then the legend.

    Attributes:
        legend: what is shown, with n and intervals, but no verdict.
        rows: what of the table is shown; ``draw`` and ``legend`` get it, unless it is empty.
        empty: figure and caption where there are no rows.
        level: place in the paper: where it is too long, the highest levels give way first (1 stays).
    """

    name: str
    title: str
    table: str
    draw: Callable[[pd.DataFrame], Drawing]
    legend: Callable[[pd.DataFrame], str]
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    empty: str = "No finished cell to compare."
    cites: tuple[str, ...] = ()
    level: int = 9

    def drawn(self, table: pd.DataFrame) -> Drawing:
        """The figure of a table, in the house style."""
        rows = self.rows(table) if len(table) else table
        with house_style():
            return self.draw(rows) if len(rows) else says(self.empty)

    def told(self, table: pd.DataFrame) -> str:
        """The legend of a table."""
        rows = self.rows(table) if len(table) else table
        return self.legend(rows) if len(rows) else self.empty


def figure(
    title: str, table: str, legend: Callable[[pd.DataFrame], str], **options: Any
) -> Callable[[Callable[[pd.DataFrame], Drawing]], Figure]:
    """Declare a :class:`Figure` above the function that draws it, by that function's name."""
    return lambda draw: Figure(draw.__name__, title, table, draw, legend, **options)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A printed table, declared with :func:`sheet`: ``make`` gets the collected tables named here, ``optional`` ones where the
    run has them."""

    name: str
    title: str
    tables: tuple[str, ...]
    make: Callable[[Tables], Printed]
    level: int = 9
    optional: tuple[str, ...] = ()


def sheet(name: str, title: str, *tables: str, **options: Any) -> Callable[[Callable[[Tables], Printed]], Sheet]:
    """Declare a :class:`Sheet` above the function that makes it: numbers, columns and legend."""
    return lambda make: Sheet(name, title, tables, make, **options)


@dataclasses.dataclass(frozen=True)
class Topic:
    """A part of a study that is reported together: ``TOPIC`` of its file, which :class:`Report` completes.

    Attributes:
        title: subcategory of the HTML report.
        about: to follow "an experiment on", such as "the batch size"; empty: its absence is not worth a sentence.
        reads: tables (its own, or of other topics of the study) that its findings are made of.
        sentences: in the paper at most.
        name: of the file; keys of its findings start with it.
        figures, sheets: that the file declares.
        findings: of the file; gets those of ``reads`` that are there, if there is any. The first should be the most telling.
    """

    title: str
    about: str = ""
    tables: tuple[Collected, ...] = ()
    reads: tuple[str, ...] = ()
    sentences: int = 3
    name: str = ""
    figures: tuple[Figure, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    findings: Callable[[Tables], Iterable[Finding]] = lambda _: ()


@dataclasses.dataclass(frozen=True)
class Page:
    """An interactive page: ``data`` of the tables that are there, for ``report/pages/{script}.js``."""

    name: str
    title: str
    intro: str
    script: str
    tables: tuple[str, ...]
    data: Callable[[Tables], dict[str, Any]]
    caption: Callable[[Tables], str]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a run of a study is, in plain sentences, from its configuration and files.

    Attributes:
        subject: what was studied, in a few words: heading of its part of the front page.
        setting: model, data, cells.
        limits: how far the results carry.
        values: numbers and passages that ``report/sections/{study}.tex`` fetches as ``\\val{study.key}``, in LaTeX.
        tables: the paper's own small tables, by name: (tabular, caption in LaTeX, level).
    """

    subject: str
    setting: Sequence[str] = ()
    limits: Sequence[str] = ()
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, tuple[str, str, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a study reports.

    Its topics are named here and imported when they are asked for, so that a job depends on the code of its own topic alone.

    Attributes:
        study: name of its package, its block of the configuration and its section of the paper.
        title: category of the HTML report.
        question: that the study asks.
        names: of the topics, in the order in which they are told: the files of the package whose ``TOPIC`` they are.
        described: collected tables that ``describe`` of the package's file ``description.py`` gets beside the run.
        headline: the sheet that the front page shows.
        abstract: topics that the paper's abstract names first, most telling first.
    """

    study: str
    title: str
    question: str
    names: tuple[str, ...]
    described: tuple[str, ...] = ()
    headline: str = ""
    abstract: tuple[str, ...] = ()

    def module(self, name: str) -> str:
        """The file of a topic, as a module."""
        return f"editlab.analysis.{self.study}.{name}"

    def topic(self, name: str) -> Topic:
        """A topic, with what its file declares."""
        declared = vars(importlib.import_module(self.module(name)))
        topic: Topic = declared["TOPIC"]
        figures = tuple(found for found in declared.values() if isinstance(found, Figure))
        sheets = tuple(found for found in declared.values() if isinstance(found, Sheet))
        made = {"findings": declared["findings"]} if "findings" in declared else {}
        return dataclasses.replace(topic, name=name, figures=figures, sheets=sheets, **made)

    @functools.cached_property
    def topics(self) -> tuple[Topic, ...]:
        """All topics."""
        return tuple(map(self.topic, self.names))

    @property
    def pages(self) -> tuple[Page, ...]:
        """The interactive pages: ``PAGES`` of the package's file ``pages.py``."""
        found: tuple[Page, ...] = importlib.import_module(self.module("pages")).PAGES
        return found

    def describe(self, run: Run, tables: Tables) -> Description:
        """The run in sentences."""
        found: Description = importlib.import_module(self.module("description")).describe(run, tables)
        return found

    @functools.cached_property
    def tables(self) -> dict[str, tuple[Topic, Collected]]:
        """All collected tables by name, with their topic."""
        return self._by_name("tables")

    @functools.cached_property
    def figures(self) -> dict[str, tuple[Topic, Figure]]:
        """All figures by name, with their topic."""
        return self._by_name("figures")

    @functools.cached_property
    def sheets(self) -> dict[str, tuple[Topic, Sheet]]:
        """All printed tables by name, with their topic."""
        return self._by_name("sheets")

    def _by_name(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for topic in self.topics:
            for declared in getattr(topic, kind):
                if declared.name in found:
                    raise ValueError(f"report of {self.study}: {declared.name} is declared twice among its {kind}")
                found[declared.name] = (topic, declared)
        return found

    def experiments(self, topic: Topic) -> list[str]:
        """The experiments that a topic's findings stand on: any of them gives it something to say."""
        read = [self.tables[name][1].experiments for name in topic.reads]
        return list(dict.fromkeys(experiments[0] for experiments in read if experiments))
