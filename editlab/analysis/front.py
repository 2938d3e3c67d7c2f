"""The front page of Snakemake's report as reStructuredText: question, set-up, headline table, findings, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from editlab.analysis import prose
from editlab.analysis.paper import leading
from editlab.analysis.run import Run
from editlab.analysis.wording import label, level, rst
from editlab.data.requests import EditRequest

SCORES = {"ES": "efficacy", "PS": "paraphrase", "NS": "neighbours", "S": "composite"}


def front_page(
    run: Run, requests: Sequence[EditRequest], methods: pd.DataFrame | None, findings: Sequence[Mapping[str, Any]]
) -> str:
    """Text that ``report/workflow.rst`` includes.

    Args:
        methods: the headline table (one row a method, columns as ``results/tables/methods.csv``), or None.
    """
    model, data = " ".join(prose.model_sentences(run)), " ".join(prose.data_sentences(run, requests))
    title = f"Study {rst(run.study['study'])}: edited facts in {rst(prose.model_name(run.study))}"
    parts = [f"{title}\n{'=' * len(title)}", rst(prose.QUESTION)]
    if methods is not None and len(methods):
        parts += [_heading("Headline"), headline(methods), _reading(methods)]
    firsts = leading(findings, [*prose.SECTIONS, "speed"], 8)
    if firsts:
        parts += [_heading("Findings"), "\n".join(f"- {rst(f['sentence'])}" for f in firsts)]
    parts += [_heading("Set-up"), rst(model), rst(data), rst(" ".join(prose.cell_sentences(run)))]
    missing = [*prose.missing_sentences(run), *prose.limit_sentences(run)]
    parts += [_heading("What to bear in mind"), rst(" ".join(missing))]
    return "\n\n".join(parts) + "\n"


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}"


def headline(methods: pd.DataFrame) -> str:
    """The headline table: value and interval of every score; best in bold where the paired test supports it."""
    scores = [s for s in SCORES if s in methods]
    axes = [a for a in ("batch", "replay", "rank") if a in methods and methods[a].nunique() > 1]
    lines = [".. list-table::", "   :header-rows: 1", "", *_row(["method", *axes, *(SCORES[s] for s in scores)])]
    for row in methods.to_dict("records"):
        shown = [rst(f"{row[a]:g}") for a in axes]
        lines += _row([rst(label(str(row["method"]))), *shown, *(_score(row, s) for s in scores)])
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> list[str]:
    return [f"   {'*' if i == 0 else ' '} - {text}" for i, text in enumerate(cells)]


def _score(row: Mapping[Any, Any], score: str) -> str:
    value = rst(level(float(row[score])))
    bold = f"**{value}**" if bool(row.get(f"{score}_best", False)) else value
    low, high = float(row.get(f"{score}_low", "nan")), float(row.get(f"{score}_high", "nan"))
    return bold if low != low or high != high else f"{bold} {rst(f'[{level(low)}, {level(high)}]')}"


def _reading(methods: pd.DataFrame) -> str:
    seeds = int(methods["seeds"].max()) if "seeds" in methods else 0
    n = int(methods["n"].max()) if "n" in methods else 0
    return rst(
        f"Success after the whole stream with 95 % intervals over facts and seeds (at most {n:,} facts, {seeds} seeds); bold "
        "where the paired test on the same facts separates the best method from every other one."
    )
