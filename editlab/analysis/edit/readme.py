"""The README's tables and figure, from finished runs: ``python -m editlab.analysis.edit.readme`` (``make readme``).

The headline's block is that of the default run, the streams' that of ``runs/frontier.yaml``. A block between two markers is
rewritten where its run has been made, and ``docs/method_comparison.png`` is copied; a README without markers is left alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from editlab.analysis.edit.scores import SHOWN, TITLES, over
from editlab.analysis.statistics.intervals import Interval, records
from editlab.analysis.statistics.streams import ENOUGH
from editlab.analysis.text.wording import counted, interval, level
from editlab.errors import ArtifactError
from editlab.files.artifacts import atomic_path, write_text

TABLE, FIGURE = "results/tables/methods.csv", "results/figures/method_comparison.png"
STREAMS = "results/frontier/tables/streams.csv"
COPY = "docs/method_comparison.png"
SHARES = {  # of the streams' table, beside S
    "ES": "ES", "ES_exact": "ES exact", "PS": "PS", "NS": "NS", "NS_exact": "NS exact", "SS_exact": "SS exact",
    "Question_Form": "question", "multi_hop": "two hops", "generation": "written",
}  # fmt: skip
COSTS = {"perplexity": "perplexity", "cpu_ms": "ms an edit", "parameters": "numbers stored", "inference": "reading"}
DIGITS = {"perplexity": 1, "cpu_ms": 0, "parameters": 0, "inference": 2}


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
    text = level(row[metric])
    return f"**{text}**{_ends(row, metric)}" if row.get(f"{metric}_best") is True else text + _ends(row, metric)


def _cost(row: dict[str, Any], name: str, digits: int) -> str:
    if pd.isna(row.get(name)):
        return ""
    return f"{row[name]:,.{digits}f}" + (_ends(row, name, digits) if f"{name}_low" in row else "")


def _ends(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """An interval in brackets, or nothing where all streams have the same number."""
    found = Interval.of(row, name)
    ends = interval(found.low, found.high, digits).replace(" to ", "-")
    return f" ({ends})" if ends and found.low < found.high else ""


def render_streams(table: pd.DataFrame) -> str:
    """Markdown: one row a method, S on its way, what holds at the end, and what it costs."""
    lengths = [name for name in map(str, table.columns) if re.fullmatch(r"S_\d+", name)]
    scores = {name: f"S, {int(name[2:]):,}" for name in lengths} | {
        name: title for name, title in SHARES.items() if name in table
    }
    if not lengths:
        raise ArtifactError(f"{STREAMS}: no column S_N; its run looked at no stream on its way")
    heads, seeds = ["method", *scores.values(), *COSTS.values()], int(table["seeds"].max())
    drawn = "streams" if seeds >= ENOUGH else "the cases of these streams"
    lines = [
        f"One stream of {int(lengths[-1][2:]):,} edits a seed, {counted(seeds, 'seed')}, 95 % intervals over {drawn};",
        "S on the way is of a sample of the edits so far, the rest is after the last edit;",
        "reading: time to score a prompt against the unedited model's.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for row in records(table):
        shares = [_score(row, name) if pd.notna(row[name]) else "" for name in scores]
        costs = [_cost(row, name, digits) for name, digits in DIGITS.items()]
        lines.append(f"| {' | '.join([str(row['method']), *shares, *costs])} |")
    return "\n".join(lines)


def update(root: Path = Path()) -> list[str]:
    """Rewrite the README's blocks, and copy the figure; the names of those that were rewritten. The streams' block is left as it
    is where their run has not been made.

    Raises:
        ArtifactError: the headline's table or figure has not been made.
    """
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    blocks = {"matrix": (TABLE, render), "streams": (STREAMS, render_streams)}
    marked = [name for name in blocks if _around(text, name)]
    made = [name for name in marked if (root / blocks[name][0]).is_file()]
    if "matrix" in marked:
        for name in (TABLE, FIGURE):
            if not (root / name).is_file():
                raise ArtifactError(f"{name}: no such file; make it with: snakemake --cores 2 {TABLE} {FIGURE}")
        with atomic_path(root / COPY) as temporary:
            temporary.write_bytes((root / FIGURE).read_bytes())
    for name in made:
        path, rendered = blocks[name]
        before, after = _around(text, name)
        text = f"{before}\n{rendered(pd.read_csv(root / path))}\n{after}"
    if made:
        write_text(readme, text)
    return made


def _around(text: str, name: str) -> tuple[str, ...]:
    """What stands before and after a block, its markers included; empty where there is none."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    first, last = text.find(start), text.find(end)
    return (text[: first + len(start)], text[last:]) if 0 <= first < last else ()


if __name__ == "__main__":
    try:
        if not update():
            print("README.md: no block between <!-- matrix:start --> and <!-- matrix:end -->", file=sys.stderr)
    except ArtifactError as error:
        sys.exit(f"error: {error}")
