"""What a result was made of: recorded beside it, and compared before anything is made of the result.

A *result* is a folder with a ``provenance.json`` (a cell, a model) or a file with a ``<name>.provenance.json`` beside it
(requests, statistics, contexts, tables, figures). The record holds the checksums of the result's files, of its direct
``inputs`` and of its ``roots`` (what those were made of, down to the user's own files). So three questions have an
answer without trust in clocks: were the bytes altered, was an input made anew since, was a root exchanged.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.errors import ArtifactError, DamagedError, OutdatedError
from editlab.files.artifacts import (
    PROVENANCE,
    directory_digest,
    directory_files,
    joint_digest,
    load_provenance,
    provenance_file,
    read_provenance,
    read_verified,
    rebuild_command,
    sha256,
    write_provenance,
)

RESULTS = Path("results")
UNRECORDED = "benchmarks"  # folder of results that no rule makes: seconds and memory, measured by hand
ASIDE = ".altered"  # suffix of a damaged result that was moved out of the way
CLOCK_ERROR = 10.0  # seconds by which the clocks of two machines may differ
EARLY = 86_400.0  # 2 January 1970: older than anything


def digest(path: str | Path) -> str:
    """Checksum of a file, or of a folder's names and contents, from the bytes."""
    return directory_digest(path) if Path(path).is_dir() else sha256(path)


def recorded(path: str | Path) -> str | None:
    """The checksum that the provenance of a result holds; None where there is none. No result is read."""
    path = Path(path)
    record = _read(provenance_file(path))
    return None if record is None else _checksum(path, record)


def _checksum(path: Path, record: Mapping[str, Any]) -> str | None:
    found: str | None = joint_digest(record["files"]) if path.is_dir() else record["files"].get(path.name)
    return found


def origins(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Facts for a provenance: ``inputs`` and ``roots`` as {path: checksum}, ``stats`` of the files made elsewhere.

    Recorded checksums are taken at their word; :func:`check_inputs` compares them with the bytes.
    """
    inputs: dict[str, str] = {}
    roots: dict[str, str] = {}
    stats: dict[str, list[int]] = {}
    for path in map(Path, dict.fromkeys(str(p) for p in paths)):
        record = _read(provenance_file(path))
        known = None if record is None else _checksum(path, record)
        inputs[str(path)] = known or digest(path)
        if record is None or known is None:
            stats |= _stats(path)
        else:
            roots |= record.get("roots", {}) | record.get("inputs", {})
            stats |= record.get("stats", {})
    return {"inputs": inputs, "roots": roots, "stats": stats}


def _stats(path: Path) -> dict[str, list[int]]:
    """Size and time of a file from outside: as long as they stay, it need not be read again."""
    return {str(path): [path.stat().st_size, path.stat().st_mtime_ns]} if path.is_file() else {}


def record_outputs(outputs: Sequence[str | Path], facts: Mapping[str, Any]) -> None:
    """Write the provenance of a job's outputs; folders that have one already (cells) keep it."""
    whole = {Path(o).parent for o in outputs if Path(o).name == PROVENANCE}
    for output in map(Path, outputs):
        if output.is_dir():
            write_provenance(output, facts, directory_files(output))
        elif output.parent not in whole:
            write_provenance(output.parent, facts, [output], f"{output.name}.{PROVENANCE}")


def check_inputs(paths: Iterable[str | Path], made: Path = RESULTS) -> None:
    """Compare every input that this workflow made with its provenance, byte for byte.

    Args:
        made: the folder of results; files elsewhere are the user's own.

    Raises:
        DamagedError: an input is altered, incomplete or without provenance.
        OutdatedError: what it was made of has changed since.
    """
    now = functools.cache(recorded)
    for path in map(Path, dict.fromkeys(str(p) for p in paths)):
        if not path.is_relative_to(made) or path.is_relative_to(made / UNRECORDED) or not path.exists():
            continue
        if path.is_dir():
            check_directory(path)
        elif path.name != PROVENANCE:  # a provenance holds its own checksum, which loading compares
            read_verified(path)
        if changed := changed_input(load_provenance(provenance_file(path)), now):
            raise OutdatedError(
                f"{path}: out of date, {changed} has changed since; rebuild with: {rebuild_command(path)}", path
            )


def check_directory(directory: Path) -> None:
    """Compare the files of a folder with its provenance: none altered, missing or added.

    Raises:
        DamagedError: names the first that differs.
    """
    if not (directory / PROVENANCE).is_file():
        raise DamagedError(
            f"{directory / PROVENANCE}: no such file; rebuild with: {rebuild_command(directory)}", directory
        )
    files = read_provenance(directory)["files"]
    for name in sorted({*files, *directory_files(directory)}):
        path = directory / name
        if name not in files:
            problem = "not among the files that were made"
        elif not path.is_file():
            problem = "no such file"
        elif sha256(path) != files[name]:
            problem = "altered since it was made"
        else:
            continue
        raise DamagedError(f"{path}: {problem}; rebuild with: {rebuild_command(directory)}", directory)


def changed_input(record: Mapping[str, Any], now: Any = recorded) -> str | None:
    """The first direct input whose recorded checksum is another now; inputs that are gone do not count."""
    for path, checksum in record.get("inputs", {}).items():
        if now(path) not in (None, checksum):
            return str(path)
    return None


def changed_root(record: Mapping[str, Any], now: Any = recorded) -> str | None:
    """The first input or root that is another now; the user's files are read only when size or time changed."""
    for path, checksum in {**record.get("roots", {}), **record.get("inputs", {})}.items():
        current = now(path)
        if current is None and path in record.get("stats", {}) and Path(path).is_file():
            same = _stats(Path(path)) == {path: record["stats"][path]}
            current = checksum if same else sha256(path)
        if current not in (None, checksum):
            return str(path)
    return None


def set_aside(path: str | Path) -> list[Path]:
    """Move a damaged result out of the way, so that a plain rerun makes it again; its name with ``.altered`` after it.

    A file that belongs to a folder's provenance takes the whole folder with it: one job made them all.
    """
    path = result_of(Path(path))
    moved = []
    for old in (path, path.with_name(f"{path.name}.{PROVENANCE}")):
        new = old.with_name(old.name + ASIDE)
        with contextlib.suppress(FileNotFoundError):  # another job was faster
            if new.is_dir() and not new.is_symlink():
                shutil.rmtree(new)
            old.rename(new)
            moved.append(new)
    return moved


def backdate(result: str | Path) -> None:
    """Give an outdated result a date before all others: nothing is lost, and a plain rerun makes it again."""
    path = result_of(Path(result))
    for file in (path, *(path.iterdir() if path.is_dir() else ())):
        with contextlib.suppress(FileNotFoundError):
            os.utime(file, (EARLY, EARLY), follow_symlinks=False)


def result_of(path: Path) -> Path:
    """The result that a file belongs to: itself, the file that a provenance is about, or a folder that one job made."""
    if path.name.endswith(f".{PROVENANCE}"):
        return path.with_name(path.name.removesuffix(f".{PROVENANCE}"))
    folder = path.parent
    own = path.with_name(f"{path.name}.{PROVENANCE}").exists()
    if path.is_dir() or own or not (folder / PROVENANCE).exists():
        return path
    return path if any(p.is_dir() for p in folder.iterdir()) else folder


def records(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(result, its provenance file) of all results below ``folder``, sorted; hidden and set aside ones are passed over."""
    for file in sorted(folder.rglob(f"*{PROVENANCE}")):
        parts = file.relative_to(folder).parts
        if any(part.startswith(".") or part.endswith(ASIDE) for part in parts):
            continue
        if file.name == PROVENANCE:
            yield file.parent, file
        elif file.name.endswith(f".{PROVENANCE}"):
            yield file.with_name(file.name.removesuffix(f".{PROVENANCE}")), file


def outdated(folder: Path = RESULTS) -> dict[Path, str]:
    """Results whose inputs were made anew or exchanged, though dates may say otherwise: {result: what changed}.

    Tables and figures tell by their roots, which takes milliseconds; only when one of them does are all results read.
    """
    now = functools.cache(recorded)
    ends = {
        result: changed
        for place in (folder, folder / "figures", folder / "tables")
        for file in sorted(place.glob(f"*.{PROVENANCE}"))
        for result in [file.with_name(file.name.removesuffix(f".{PROVENANCE}"))]
        if (record := _read(file)) is not None and (changed := changed_root(record, now))
    }
    if not ends:
        return {}
    found = dict(ends)
    for result, file in records(folder):
        record = _read(file)
        if record is not None and (changed := changed_root(_without_roots(record), now)):
            found[result] = changed
    return found


def _without_roots(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "roots": {}}


def dated_ahead(now: float, folder: Path = RESULTS) -> dict[Path, float]:
    """Files and folders of results that are dated after ``now``, with their dates: the clock has gone back."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                if (date := path.lstat().st_mtime) > now + CLOCK_ERROR:
                    found[path] = date
    return found


def bring_to_present(dates: Mapping[Path, float], now: float) -> None:
    """Move dates back by as much as the latest is ahead: their order stays, and nothing looks older than it is."""
    ahead = max(dates.values(), default=now) - now
    for path, date in dates.items():
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (date - ahead, date - ahead), follow_symlinks=False)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return load_provenance(file)
    except ArtifactError:
        return None


def commit_of(folder: str | Path = ".") -> str | None:
    """The commit that a checkout stands at, from its files; None outside of a repository."""
    git = Path(folder) / ".git"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head or None
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8").strip()
        for line in (git / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {name}"):
                return line.split()[0]
    return None
