"""The small tables that the paper brings along: what was run, hyper-parameters, missed facts, provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from editlab.analysis import prose
from editlab.analysis.latex import Column, tabular
from editlab.analysis.run import Run
from editlab.analysis.wording import label
from editlab.files.artifacts import sha256

FAILURES = 8  # rows of the printed table
OWN_CAPTIONS = {
    "experiments": "The experiments of this study. A cell is one method at one point of the axes, with one seed.",
    "recipes": "Hyper-parameters by method, as resolved from the configuration of this run.",
    "failures": "The edited facts that came out worst, over all streams that edited them.",
    "provenance": "The file behind every figure and table of the run, with the start of its checksum. Not all are printed here.",
}


def own_tables(run: Run, failures: pd.DataFrame, sources: Mapping[str, str]) -> dict[str, str]:
    """The tables of :data:`OWN_CAPTIONS`; ``sources``: see :func:`provenance_tabular`."""
    return {
        "experiments": experiment_tabular(run),
        "recipes": recipe_tabular(run),
        "failures": failure_tabular(failures),
        "provenance": provenance_tabular(sources, run.root),
    }


def experiment_tabular(run: Run) -> str:
    """What was run."""
    frame = run.experiments()
    frame["methods"] = [listed_short(run.study["experiments"][e]["methods"]) for e in frame["experiment"]]
    columns = [Column("experiment", "experiment", "text"), Column("methods", "methods", "text")]
    for axis in ("batch", "replay", "rank", "seed"):
        if frame[axis].nunique() > 1 or set(frame[axis]) - {"0", ""}:
            columns.append(Column(axis, axis, "text"))
    columns += [Column("edits", "edits", "count"), Column("finished", "cells", "count")]
    return tabular(frame, columns, "config.yaml")


def listed_short(methods: Sequence[str]) -> str:
    """Names of a few methods, or how many there are."""
    return ", ".join(map(label, methods)) if len(methods) <= 4 else f"{len(methods)} methods"


def recipe_tabular(run: Run) -> str:
    """Hyper-parameters of every method that runs; what a method shares with an earlier one is not said again."""
    frame = prose.recipe_table(run.study, run.controls())
    first: dict[tuple[str, ...], str] = {}
    texts = []
    for row in frame.to_dict("records"):
        core = (row["solver"], row["layers"], row["targets"], row["solve"])
        like = first.setdefault(core, row["method"])
        said = [row["targets"], row["solve"]] if like == row["method"] else [f"as {label(like)}"]
        texts.append("; ".join(part for part in [*said, row["storage and guard"]] if part and part != "raw"))
    columns = [
        Column("method", "method", "method"),
        Column("layers", "layers", "text"),
        Column("all", "parameters", "text"),
    ]
    return _wrapped(tabular(frame.assign(all=texts), columns, "config.yaml"), "llX")


def _wrapped(text: str, layout: str, anywhere: bool = False) -> str:
    """A tabular as wide as a column, in which the columns ``X`` wrap: at underscores, or ``anywhere`` in long words."""
    start, end = text.index(r"\begin{tabular}{@{}"), text.index("@{}}")
    layout = layout.replace("X", r">{\raggedright\arraybackslash}X")
    head, body = text[:start], text[end:].replace(r"\end{tabular}", r"\end{tabularx}")
    if anywhere:
        command = re.compile(r"\\(top|mid|bottom)rule|\\end")
        body = "\n".join(line if command.match(line) else _breakable(line) for line in body.split("\n"))
    else:
        body = body.replace(r"\_", r"\_\allowbreak{}")
    return rf"{head}\footnotesize\begin{{tabularx}}{{\columnwidth}}{{@{{}}{layout}{body}"


def _breakable(line: str, length: int = 8) -> str:
    """Escaped text in which words of more than ``length`` letters may be broken after every one of them."""

    def split(match: re.Match[str]) -> str:
        units = re.findall(r"\\[a-zA-Z]+\{\}|\\.|\$[^$]*\$|.", match[0])
        return match[0] if len(units) <= length or "\\\\" in match[0] else r"\allowbreak{}".join(units)

    return re.sub(r"\S+", split, line)


def failure_tabular(failures: pd.DataFrame) -> str:
    """The worst facts."""
    frame = failures.head(FAILURES)
    columns = [
        Column("prompt", "prompt", "text"),
        Column("target_true", "old object", "text"),
        Column("target_new", "new object", "text"),
        Column("ES", "ES"),
        Column("PS", "PS"),
        Column("NS", "NS"),
    ]
    shortened = frame.assign(**{c: [_short(v) for v in frame[c]] for c in ("prompt", "target_true", "target_new")})
    return _wrapped(
        tabular(shortened, columns, "results/missed_facts.csv"),
        r">{\hsize=1.4\hsize}X>{\hsize=0.8\hsize}X>{\hsize=0.8\hsize}Xrrr",
        anywhere=True,
    )


def _short(text: object, length: int = 44) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= length else f"{flat[: length - 1].rstrip()}…"


def provenance_tabular(sources: Mapping[str, str], root: Path = Path()) -> str:
    """Which file every table and figure comes from, with the start of its checksum.

    Args:
        sources: of :func:`sources`; files that are not there are left out.
    """
    rows = [
        {"file": file.removeprefix("results/"), "checksum": sha256(root / file)[:8], "shown": shown}
        for file, shown in sources.items()
        if (root / file).is_file()
    ]
    frame = pd.DataFrame(rows, columns=["file", "checksum", "shown"])
    columns = [
        Column("file", "results/", "text"),
        Column("checksum", "SHA-256", "text"),
        Column("shown", "shown in", "text"),
    ]
    return _wrapped(tabular(frame, columns, "the files themselves"), "llX")
