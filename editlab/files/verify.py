"""Compare all results with their provenance: ``python -m editlab.files.verify [folder] [--set-aside | --accept]``.

Lists what is *altered* (bytes differ, files missing or added, the record damaged), what is *stale* (an input or the code
behind it has changed since it was made), what is *unknown* (a file without a record) and what is *orphaned* (a record
whose result is gone). The exit status is 1 when
there is any of these. Files are read by several threads; a bar shows the progress on a terminal.

Whoever alters a file on purpose (what would the report say if this cell were worse?) accepts it with ``--accept``: the
provenance then holds its new checksum, and the former one under ``accepted``; a plain run makes again what depends on it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from editlab.errors import ArtifactError, EditlabError
from editlab.files.artifacts import RECORDS, accept_altered, directory_files, load_provenance, sha256
from editlab.files.code import code_changed
from editlab.files.provenance import (
    ASIDE,
    RESULTS,
    backdate,
    changed_root,
    is_unrecorded,
    recorded,
    records,
    set_aside,
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as it was made.

    Attributes:
        kind: "altered", "stale", "unknown" or "orphaned".
        path: the file.
        result: the file or folder that has to be made again.
        reason: in words.
    """

    kind: str
    path: Path
    result: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`verify` found, and how much it looked at."""

    findings: list[Finding]
    results: int
    files: int
    leftovers: list[Path]

    def of(self, *kinds: str) -> list[Path]:
        """Results with a finding of one of these kinds, each once."""
        return list(dict.fromkeys(f.result for f in self.findings if f.kind in kinds))


def verify(folder: Path = RESULTS, *, progress: bool | None = None) -> Report:
    """Compare every result below ``folder`` with its provenance.

    Args:
        progress: show a bar; None: only on a terminal.

    Raises:
        ArtifactError: there is no such folder.
    """
    from tqdm import tqdm

    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; make results first, for example with: make matrix")
    findings: list[Finding] = []
    known: dict[Path, tuple[Path, str | None]] = {}  # file -> its result, expected checksum
    loaded: list[tuple[Path, dict[str, Any]]] = []
    for result, file in records(folder):
        if not result.exists():
            findings.append(Finding("orphaned", file, result, f"{result} is gone"))
            continue
        try:
            record = load_provenance(file)
        except ArtifactError:
            findings.append(Finding("altered", file, result, "the record is damaged"))
            if result.is_dir():
                known |= {result / name: (result, None) for name in directory_files(result)}
            else:
                known[result] = (result, None)
            continue
        loaded.append((result, record))
        for name, checksum in record["files"].items():
            known[(result if result.is_dir() else result.parent) / name] = (result, checksum)
    checked = [(path, result, checksum) for path, (result, checksum) in known.items() if checksum is not None]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = tqdm(checked, unit="file", desc="verify", disable=None if progress is None else not progress)
        for (path, result, _), reason in zip(shown, pool.map(_altered, checked), strict=True):
            if reason:
                findings.append(Finding("altered", path, result, reason))
    findings += _stale(loaded)
    present, leftovers = _present(folder)
    findings += [Finding("unknown", p, p, "no record tells how it was made") for p in present if p not in known]
    return Report(findings, len(loaded), len(checked), leftovers)


def _altered(item: tuple[Path, Path, str]) -> str | None:
    path, _, checksum = item
    if not path.is_file():
        return "no such file"
    try:
        return None if sha256(path) == checksum else "altered since it was made"
    except ArtifactError:
        return "cannot be read"


def _stale(loaded: Sequence[tuple[Path, Mapping[str, Any]]]) -> Iterator[Finding]:
    now = functools.cache(recorded)
    for result, record in loaded:
        if changed := changed_root({**record, "roots": {}}, now):
            yield Finding("stale", result, result, f"{changed} has changed since it was made")
        if record.get("code") and code_changed(record["code"]):
            modules = record["code"].partition(":")[0].replace(",", ", ")
            yield Finding("stale", result, result, f"the code of {modules} has changed since it was made")


def _present(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files that should have a provenance, and temporary files that killed jobs left."""
    present, leftovers = [], []
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        parts = path.relative_to(folder).parts
        if is_unrecorded(path.relative_to(folder)) or any(part.endswith(ASIDE) for part in parts):
            continue
        if any(part.startswith(".") for part in parts):
            if any(part.startswith(".") and part.endswith(".tmp") for part in parts):
                leftovers.append(path)
            continue
        if not path.name.startswith("partial"):
            present.append(path)
    return present, leftovers


def rebuild(report: Report) -> list[Path]:
    """Set altered results aside and date stale ones back, so that a plain run makes them again; what was set aside."""
    moved = [new for result in report.of("altered", "orphaned") for new in set_aside(result)]
    for result in report.of("stale"):
        backdate(result)
    return moved


def accept(report: Report) -> list[Path]:
    """Take altered files as they are (:func:`editlab.files.artifacts.accept_altered`); those that were accepted.

    Files that are missing, and those whose provenance is damaged, stay findings.
    """
    accepted = []
    for finding in report.findings:
        if finding.kind == "altered" and finding.path.is_file() and RECORDS not in finding.path.parts:
            accept_altered(finding.result, [finding.path.name])
            accepted.append(finding.path)
    return accepted


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings, then what to do; the exit status is 1 when there are any."""
    parser = argparse.ArgumentParser(prog="python -m editlab.files.verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS, help="the results (default: results)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--set-aside", action="store_true", help="make a plain run rebuild what is altered or stale")
    choice.add_argument("--accept", action="store_true", help="take altered files as they are, on record")
    chosen = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        report = verify(chosen.folder)
    except EditlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for finding in report.findings:
        print(f"{finding.kind:<8} {finding.path}: {finding.reason}", file=sys.stdout)
    counts = ", ".join(f"{len(report.of(kind))} {kind}" for kind in ("altered", "stale", "unknown", "orphaned"))
    seconds = time.perf_counter() - started
    print(f"{report.results} results, {report.files} files in {seconds:.1f} s: {counts}", file=sys.stdout)
    if report.leftovers:
        print(
            f"{len(report.leftovers)} temporary files of killed jobs; harmless, to remove them while nothing runs: "
            f"find {shlex.quote(str(chosen.folder))} -name '.*.tmp' -exec rm -r {{}} +",
            file=sys.stdout,
        )
    if chosen.set_aside:
        for path in rebuild(report):
            print(f"set aside: {path}", file=sys.stdout)
    elif chosen.accept:
        for path in accept(report):
            print(f"accepted as it is: {path}", file=sys.stdout)
    elif report.of("altered", "stale"):
        print("to have them made again by a plain run: make verify SET_ASIDE=1", file=sys.stdout)
        print("to keep altered files as they are: python -m editlab.files.verify --accept", file=sys.stdout)
    return 1 if report.findings else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
