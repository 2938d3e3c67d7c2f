"""The README's headline table and figure, from a finished run: ``python -m editlab.analysis.edit.readme`` (``make readme``).

The block between the two markers is rewritten, and ``docs/method_comparison.png`` is copied; a README without the markers is
left alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.edit.scores import SHOWN, TITLES, over
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.text.wording import interval, level
from editlab.errors import ArtifactError
from editlab.files.artifacts import atomic_path, write_text

START, END = "<!-- matrix:start -->", "<!-- matrix:end -->"
TABLE, FIGURE = "results/tables/methods.csv", "results/figures/method_comparison.png"
COPY = "docs/method_comparison.png"


def render(table: pd.DataFrame) -> str:
    """Markdown: one row a method, bold as in the printed table, then the figure."""
    shown = [name for name in SHOWN if name in table]
    heads = ["method", "batch", *(TITLES.get(name, name) for name in shown), "perplexity"]
    lines = [
        f"From a real run: no replay, success after the last edit with {over(table)};",
        "bold where the paired test puts a method above every other one.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for row in records(table):
        scores = " | ".join(_score(row, metric) for metric in shown)
        perplexity = level(row.get("perplexity", float("nan")), 1)
        lines.append(f"| {str(row['method']).replace('|', '/')} | {row['batch']} | {scores} | {perplexity} |")
    return "\n".join([*lines, "", f"![ES, PS, NS and S of every method, with intervals]({COPY})"])


def _score(row: dict[str, Any], metric: str) -> str:
    text, found = level(row[metric]), Interval.of(row, metric)
    bold = f"**{text}**" if row.get(f"{metric}_best") is True else text
    return f"{bold} ({interval(found.low, found.high).replace(' to ', '-')})"


def update(root: Path = Path()) -> bool:
    """Rewrite the README's block and copy the figure; False, and nothing done, without the markers.

    Raises:
        ArtifactError: the table or the figure has not been made.
    """
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    start, end = text.find(START), text.find(END)
    if start < 0 or end < start:
        return False
    for name in (TABLE, FIGURE):
        if not (root / name).is_file():
            raise ArtifactError(f"{name}: no such file; make it with: snakemake --cores 2 {TABLE} {FIGURE}")
    block = render(pd.read_csv(root / TABLE))
    with atomic_path(root / COPY) as temporary:
        temporary.write_bytes((root / FIGURE).read_bytes())
    write_text(readme, f"{text[: start + len(START)]}\n{block}\n{text[end:]}")
    return True


if __name__ == "__main__":
    try:
        if not update():
            print(f"README.md: no block between {START} and {END}", file=sys.stderr)
    except ArtifactError as error:
        sys.exit(f"error: {error}")
