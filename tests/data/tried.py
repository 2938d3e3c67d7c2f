"""The table of files in docs/data_formats.md, made by reading them: ``python tests/data/tried.py`` writes it anew.

Made-up records of every form (:mod:`forms`), and every real file in the folder of shared data.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forms import RECORDS

from editlab.data.forms import read_dataset
from editlab.errors import DataError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data_formats.md"
START, END = "<!-- tried:start -->\n", "<!-- tried:end -->\n"
HEAD = (
    "| file | form | records | requests | probes | not scored | noted, left out, refused |\n"
    "|---|---|---|---|---|---|---|\n"
)
BINARY = {".npz", ".safetensors"}  # read as text they are refused for their first byte, whose number says nothing


def made_up() -> Iterator[str]:
    """A row a form, from one made-up record each."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, record in RECORDS.items():
            path = Path(folder, "made-up.json")
            path.write_text(json.dumps([record]), encoding="utf-8")
            yield row(f"made-up {kind} record", path)


def real(folder: Path) -> Iterator[str]:
    """A row a real file; files of one folder and one outcome share a row."""
    told: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in BINARY):
        cells = row("", path).replace(str(path), "").split("|", 2)[2]
        told.setdefault((path.relative_to(folder).parent, cells), []).append(path.relative_to(folder))
    for (parent, cells), paths in told.items():
        kinds = "/".join(sorted({p.suffix for p in paths}))
        name = str(paths[0]) if len(paths) == 1 else f"{parent}: {len(paths)} files {kinds}"
        yield f"| {name} |{cells}"


def row(name: str, path: Path) -> str:
    """What became of a file."""
    try:
        account = read_dataset(path).account
    except DataError as error:
        text = str(error).removeprefix(f"{path}: ").replace("|", r"\|")
        return f"| {name} | | | | | | refused: {text[:110]} |\n"
    notes = account["notes"] | {reason: item["count"] for reason, item in account["left_out"].items()}
    counts = (listed(account[key]) for key in ("probes", "not_scored"))
    cells = (account["kind"], f"{account['records']:,}", f"{account['requests']:,}", *counts, listed(notes))
    return f"| {name} | {' | '.join(cells)} |\n"


def listed(counts: Mapping[str, Any]) -> str:
    """``name (count)`` of each; long lists by their first four."""
    items = [f"{name.replace('|', ' ')} ({count:,})" for name, count in counts.items()]
    return ", ".join(items[:4] + ([f"{len(items) - 4} more"] if len(items) > 4 else []))


def table(page: str) -> str:
    """The table as the page has it."""
    return page[page.index(START) + len(START) : page.index(END)]


def main() -> None:
    """Write the table into the page; rows of real files need them there."""
    default = PAGE.parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDITLAB_TEST_DATA") or default)
    if not folder.is_dir():
        sys.exit(f"{folder}: no real data (set EDITLAB_TEST_DATA)")
    page = PAGE.read_text(encoding="utf-8")
    rows = "".join([HEAD, *made_up(), *real(folder)])
    before, after = page.split(START)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{START}{rows}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
