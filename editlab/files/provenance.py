"""What a result was made of: recorded under ``.provenance``, and compared before anything is made of the result.

A *result* is a folder that one job made (a cell, a model) or a file (requests, statistics, contexts, tables, figures); its
record has the same name in the folder of records. It holds the checksums of the result's files, of its direct
``inputs`` and of its ``roots`` (what those were made of, down to the user's own files). So three questions have an
answer without trust in clocks: were the bytes altered, was an input made anew since, was a root exchanged.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editlab.errors import ArtifactError, DamagedError, OutdatedError
from editlab.files.artifacts import (
    RECORDS,
    directory_digest,
    directory_files,
    joint_digest,
    load_provenance,
    provenance_file,
    read_provenance,
    read_verified,
    rebuild_command,
    record_of,
    result_of_record,
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
    """Write the records of a job's outputs. A folder whose record is among them (a cell) gets one for all its files, unless the
    job has written it itself."""
    whole = {result_of_record(o) for o in outputs if RECORDS in Path(o).parts}
    for folder in sorted(whole):
        if not record_of(folder).exists():
            write_provenance(folder, facts, [o for o in outputs if Path(o).parent == folder])
    for output in map(Path, outputs):
        if RECORDS not in output.parts and output.parent not in whole:
            write_provenance(output, facts, directory_files(output) if output.is_dir() else [output])


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
        if not path.is_relative_to(made) or is_unrecorded(path.relative_to(made)) or not path.exists():
            continue
        if path.is_dir():
            check_directory(path)
        elif RECORDS not in path.parts:  # a record holds its own checksum, which loading compares
            read_verified(path)
        result = result_of_record(path) if RECORDS in path.parts else path
        if changed := changed_input(load_provenance(provenance_file(result)), now):
            raise OutdatedError(
                f"{result}: out of date, {changed} has changed since; rebuild with: {rebuild_command(result)}", result
            )


def is_unrecorded(path: Path) -> bool:
    """Whether a file, relative to the folder of all results, is in a folder of measurements made by hand."""
    return UNRECORDED in path.parts[:2]


def check_directory(directory: Path) -> None:
    """Compare the files of a folder with its provenance: none altered, missing or added.

    Raises:
        DamagedError: names the first that differs.
    """
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
    for old in (path, record_of(path)):
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
    """The result that a file belongs to: itself, the one that a record is about, or a folder that one job made."""
    if RECORDS in path.parts:
        return result_of_record(path)
    record = provenance_file(path)
    return result_of_record(record) if record.exists() else path


def records(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(result, its record) of all results below ``folder``, those of other runs in it too, sorted; hidden ones and those that
    were set aside are passed over."""
    for home in homes(folder):
        for file in sorted(home.joinpath(RECORDS).rglob("*.json")):
            result = result_of_record(file)
            inside = result.is_relative_to(folder)
            if inside and not any(p.startswith(".") or p.endswith(ASIDE) for p in result.relative_to(home).parts):
                yield result, file


def homes(folder: Path) -> list[Path]:
    """Folders with records of results below ``folder``: itself or the one that it lies in, and those of runs inside."""
    around = next((f for f in (folder, *folder.parents) if (f / RECORDS).is_dir()), None)
    inside = sorted(p.parent for p in folder.glob(f"*/{RECORDS}"))
    return [*([around] if around else []), *inside]


def outdated(folder: Path = RESULTS) -> dict[Path, str]:
    """Results whose inputs were made anew or exchanged, though dates may say otherwise: {result: what changed}.

    Tables and figures tell by their roots, which takes milliseconds; only when one of them does are all results read.
    """
    now = functools.cache(recorded)
    ends = {
        result_of_record(file): changed
        for place in (folder / RECORDS, folder / RECORDS / "figures", folder / RECORDS / "tables")
        for file in sorted(place.glob("*.json"))
        if (record := _read(file)) is not None and (changed := changed_root(record, now))
    }
    if not ends:
        return {}
    found = dict(ends)
    for result, file in records(folder):
        if not file.is_relative_to(folder / RECORDS):
            continue  # of another run
        record = _read(file)
        if record is not None and (changed := changed_root(_without_roots(record), now)):
            found[result] = changed
    return found


def _without_roots(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "roots": {}}


def dated_ahead(now: float, folder: Path = RESULTS) -> dict[Path, float]:
    """Files and folders of a run's results that are dated after ``now``, with their dates: the clock has gone back."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, RECORDS).is_dir()]  # of other runs
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
    """The commit that a checkout stands at, with ``+changes`` where tracked files differ from it; None outside of one."""
    if not Path(folder, ".git").exists():  # a copy within another repository has no commit of its own
        return None
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        head, changes = (
            subprocess.run([*command, *words], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
        return f"{head}+changes" if changes else head
    return None
