"""From LaTeX sources to a PDF, with whichever engine is there; no shell escape, nothing outside the sources is read.

Equal sources give equal bytes: the date is fixed, and the sources keep dates and file names out of the PDF.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from editlab.errors import EditlabError
from editlab.files.artifacts import atomic_path, write_text

PACKAGES = "texlive-latex-base texlive-latex-recommended texlive-fonts-recommended"
EPOCH = "1735689600"  # a fixed day
RUNS = 4  # of pdflatex at most; references settle in three


class TypesetError(EditlabError):
    """LaTeX is missing, or refused the sources."""


def find_engine(path: str | None = None) -> str:
    """``pdflatex`` (with bibtex) or ``tectonic``; raises ``TypesetError`` with the names of packages where neither is there."""
    if shutil.which("pdflatex", path=path) and shutil.which("bibtex", path=path):
        return "pdflatex"
    if shutil.which("tectonic", path=path):
        return "tectonic"
    raise TypesetError(
        f"the paper needs LaTeX and none is installed: apt-get install {PACKAGES} (Debian, Ubuntu), or install tectonic, "
        "or run with --sdm conda (envs/paper.yaml)"
    )


def typeset_within(
    sources: Mapping[str, str | Path], main: str, output: str | Path, log: str | Path, *, pages: int, detail: int
) -> Outcome:
    """Typeset with the largest ``\\detail`` from ``detail`` down to 1 that needs at most ``pages`` pages.

    The sources input ``detail.tex``, which is written here. With detail 1 the paper is as long as it is. Raises as
    :func:`typeset`.
    """
    with tempfile.TemporaryDirectory(prefix="editlab-detail-") as name:
        file = Path(name) / "detail.tex"

        def build(level: int) -> Outcome:
            write_text(file, f"\\newcommand{{\\detail}}{{{level}}}\n")
            return typeset({**sources, file.name: file}, main, output, log)

        level, outcome = detail, build(detail)
        low, high = (detail, detail) if outcome.pages <= pages else (1, detail - 1)
        while low < high:  # high + 1 is too long
            level = (low + high + 1) // 2
            outcome = build(level)
            low, high = (level, high) if outcome.pages <= pages else (low, level - 1)
        return outcome if level == low else build(low)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A typeset paper: its pages, and what a reader of the log would worry about."""

    pages: int
    undefined: list[str]
    overfull: list[str]


def typeset(sources: Mapping[str, str | Path], main: str, output: str | Path, log: str | Path) -> Outcome:
    """Typeset ``main`` in a folder of its own and move the PDF to ``output``.

    Args:
        sources: by name inside that folder, the file to copy there.
        main: name of the main file, without ``.tex``.
        log: where the engine's log goes, also when it fails.

    Raises:
        TypesetError: no engine, or the first errors of the log.
    """
    engine = find_engine()
    with tempfile.TemporaryDirectory(prefix="editlab-paper-") as name:
        folder = Path(name)
        for target, source in sources.items():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / target)
        latex = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", main]
        steps = [latex, ["bibtex", "-terse", main], *[latex] * (RUNS - 1)]
        if engine == "tectonic":
            steps = [["tectonic", "--untrusted", "--keep-logs", "--chatter", "minimal", f"{main}.tex"]]
        printed = _run(steps, folder, main)
        own = folder / f"{main}.log"
        text = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else printed
        write_text(log, text)
        if errors := re.findall(r"^!.*(?:\n.*){0,4}", text, flags=re.MULTILINE):
            raise TypesetError(f"{engine} refused the paper ({log}): {errors[0]}")
        pdf = folder / f"{main}.pdf"
        if not pdf.is_file():
            raise TypesetError(f"{engine} made no PDF; see {log}")
        with atomic_path(output) as temporary:
            shutil.copyfile(pdf, temporary)
    return read_log(text)


def _run(steps: Iterable[list[str]], folder: Path, main: str) -> str:
    """Run the steps until one fails or the references have settled. Returns what they printed."""
    safe = {"SOURCE_DATE_EPOCH": EPOCH, "FORCE_SOURCE_DATE": "1", "openin_any": "p", "openout_any": "p"}
    environment = {**os.environ, **safe, "max_print_line": "1000"}
    printed, before = "", b""
    for step in steps:
        options: dict[str, Any] = {"cwd": folder, "env": environment, "text": True, "errors": "replace", "timeout": 300}
        found = subprocess.run(step, capture_output=True, check=False, **options)
        printed += found.stdout + found.stderr
        if found.returncode and step[0] != "bibtex":
            break
        after = b"".join(f.read_bytes() for f in (folder / f"{main}.aux", folder / f"{main}.bbl") if f.is_file())
        if step[0] == "pdflatex" and after == before:
            break
        before = after
    return printed


def read_log(log: str) -> Outcome:
    """Pages, undefined references and citations, and overfull boxes of a LaTeX log."""
    pages = re.findall(r"Output written on \S+ \((\d+) page", log)
    undefined = re.findall(r"^.*(?:Reference|Citation) [`'].*undefined.*$", log, flags=re.MULTILINE)
    return Outcome(int(pages[-1]) if pages else 0, undefined, re.findall(r"^Overfull .*$", log, flags=re.MULTILINE))
