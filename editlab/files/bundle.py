"""Share results: one archive of results, provenance and configuration that can be checked and restored elsewhere.

    python -m editlab.files.bundle create results.tar.gz [--configfile runs/mine.yaml]
    python -m editlab.files.bundle check results.tar.gz
    python -m editlab.files.bundle restore results.tar.gz FOLDER

The archive is a plain tar (gzipped when its name ends in ``.gz``), the same bytes for the same results. Its first member,
``manifest.json``, names every file with its size and checksum. Nothing is taken from an archive that its manifest does not
name, and only regular files with plain relative names: links, devices, absolute names and ``..`` are refused, and no
file is written outside of a new folder that takes its place only when every checksum was right.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from editlab.errors import ArtifactError, EditlabError, one_line
from editlab.files.artifacts import RECORDS, atomic_path, sha256, versions
from editlab.files.provenance import ASIDE, RESULTS, commit_of
from editlab.files.verify import verify

FORMAT = "editlab bundle 1"
MANIFEST = "manifest.json"
CONFIGURATION = "configuration"  # folder of the configuration files in the archive
LARGEST_MANIFEST = 256 << 20
NAME = re.compile(r"[^\x00-\x1f\x7f\\:]{1,4000}")


def create(archive: Path, results: Path = RESULTS, configuration: Sequence[Path] = ()) -> dict[str, Any]:
    """Pack a folder of results and configuration files; links are followed, temporary files left out.

    Returns: the manifest.

    Raises:
        ArtifactError: a result is altered or without provenance, a file cannot be read, the archive not written.
    """
    report = verify(results)
    if bad := [f for f in report.findings if f.kind not in ("stale", "orphaned")]:
        raise ArtifactError(
            f"{bad[0].path}: {bad[0].reason} ({len(bad)} such files); have them made again first: make verify SET_ASIDE=1"
        )
    members = {f"{RESULTS.name}/{p.relative_to(results).as_posix()}": p for p in _files(results)}
    for file in configuration:
        members[f"{CONFIGURATION}/{file.name}"] = file
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "commit": commit_of(),
        "versions": versions(),
        "stale": sorted(str(path) for path in report.of("stale")),
        "files": {name: {"sha256": sha256(p), "size": p.stat().st_size} for name, p in members.items()},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True).encode()
    with (
        atomic_path(archive) as temporary,
        temporary.open("wb") as raw,
        _compressed(raw, archive) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        tar.addfile(_entry(MANIFEST, len(text)), io.BytesIO(text))
        for name in sorted(members):
            with members[name].open("rb") as source:
                tar.addfile(_entry(name, manifest["files"][name]["size"]), source)
    return manifest


def _files(results: Path) -> Iterator[Path]:
    for path in sorted(results.rglob("*")):
        parts = path.relative_to(results).parts
        if path.is_file() and not _hidden(parts) and not any(p.endswith(ASIDE) for p in parts):
            yield path


@contextlib.contextmanager
def _compressed(raw: IO[bytes], archive: Path) -> Iterator[IO[bytes]]:
    if archive.suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as stream:
            yield stream  # type: ignore[misc]
    else:
        yield raw


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """Owner, rights and date are the same for all, so that equal results give equal bytes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o644, 0
    return entry


def restore(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack an archive into ``folder``, which may hold a workflow but none of the archive's folders.

    Returns: the manifest.

    Raises:
        ArtifactError: not such an archive, damaged, something in it is not allowed, or the folder is taken.
    """
    for top in (RESULTS.name, CONFIGURATION):
        if (folder / top).exists() or (folder / top).is_symlink():
            raise ArtifactError(f"{folder / top}: is there already; restore into another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".restore-", dir=folder))
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        manifest = _read(archive, temporary)
        check_configuration(temporary / CONFIGURATION)
        _date(temporary)
        for top in sorted(p.name for p in temporary.iterdir()):
            os.replace(temporary / top, folder / top)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def check_configuration(folder: Path) -> None:
    """Refuse configuration files that would run code: Snakemake evaluates expressions in files that say ``__use_yte__``.

    Raises:
        ArtifactError: such a file, or one that is not plain YAML.
    """
    import yaml

    for file in sorted(folder.glob("*")):
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{file.name}: not a plain YAML file ({one_line(error, 100)})") from None
        if isinstance(values, dict) and "__use_yte__" in values:
            raise ArtifactError(
                f"{file.name}: __use_yte__ is not allowed, it makes Snakemake run expressions of the file"
            )


def _date(folder: Path) -> None:
    """One date for everything, so that Snakemake takes nothing for older than what it was made of."""
    date = folder.stat().st_mtime_ns
    for path in folder.rglob("*"):
        os.utime(path, ns=(date, date))


def check(archive: Path) -> dict[str, Any]:
    """Compare an archive with its manifest without writing anything; raises as :func:`restore`."""
    return _read(archive, None)


def _read(archive: Path, folder: Path | None) -> dict[str, Any]:
    try:
        with archive.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with (
                gzip.open(raw) if compressed else contextlib.nullcontext(raw) as stream,
                tarfile.open(fileobj=stream, mode="r|") as tar,
            ):
                return _members(archive, tar, folder)
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename or archive}: no such file") from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ArtifactError(f"{archive}: damaged, or not an archive of editlab ({one_line(error, 100)})") from None
    except (ValueError, OverflowError, RecursionError, KeyError, TypeError) as error:
        raise ArtifactError(f"{archive}: damaged ({one_line(error, 100)})") from None
    except OSError as error:
        raise ArtifactError(f"{error.filename or archive}: {error.strerror or one_line(error, 100)}") from None


def _members(archive: Path, tar: tarfile.TarFile, folder: Path | None) -> dict[str, Any]:
    manifest: dict[str, Any] | None = None
    left: dict[str, Mapping[str, Any]] = {}
    for entry in tar:
        source = tar.extractfile(entry) if entry.isreg() and not entry.issparse() else None
        if source is None:
            raise ArtifactError(f"{archive}: {entry.name[:80]!r} is not a regular file; nothing was restored")
        if manifest is None:
            manifest = _manifest(archive, entry, source, folder)
            left = dict(manifest["files"])
            continue
        expected = left.pop(entry.name, None)
        if expected is None:
            raise ArtifactError(f"{archive}: {entry.name[:80]!r} is twice or not in its manifest; nothing was restored")
        if entry.size != expected["size"] or _copy(source, folder and folder / entry.name) != expected["sha256"]:
            raise ArtifactError(f"{archive}: {entry.name[:80]!r} is not what its manifest says; nothing was restored")
    if manifest is None or left:
        missing = f"{next(iter(left))[:80]!r} is missing" if left else "it is empty"
        raise ArtifactError(f"{archive}: {missing}; nothing was restored")
    return manifest


def _manifest(archive: Path, entry: tarfile.TarInfo, source: IO[bytes], folder: Path | None) -> dict[str, Any]:
    """The first member, checked: every name is a plain relative one below the two folders."""
    if entry.name != MANIFEST or entry.size > LARGEST_MANIFEST:
        raise ArtifactError(f"{archive}: not an archive of editlab ({MANIFEST} must come first)")
    manifest = json.loads(source.read())
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        raise ArtifactError(f"{archive}: not an archive of editlab (its manifest is not of the format {FORMAT!r})")
    size = 0
    for name, facts in manifest["files"].items():
        parts = name.split("/")
        plain = NAME.fullmatch(name) and PurePosixPath(name).as_posix() == name
        if not plain or parts[0] not in (RESULTS.name, CONFIGURATION) or len(parts) < 2 or _hidden(parts):
            raise ArtifactError(f"{archive}: the name {name[:80]!r} is not allowed; nothing was restored")
        if not (isinstance(facts, dict) and isinstance(facts.get("sha256"), str) and type(facts.get("size")) is int):
            raise ArtifactError(f"{archive}: the manifest's entry of {name[:80]!r} is malformed; nothing was restored")
        size += facts["size"]
    if folder is not None and size > shutil.disk_usage(folder).free:
        raise ArtifactError(f"{archive}: {size} bytes do not fit on the disk of {folder.parent}; nothing was restored")
    return manifest


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") and part != RECORDS for part in parts)  # also "." and ".."


def _copy(source: IO[bytes], target: Path | None) -> str:
    """Checksum of a member; its bytes go to ``target`` where there is one."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        file = None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(target.open("xb"))
        while block := source.read(1 << 20):
            digest.update(block)
            if file is not None:
                file.write(block)
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Create, check or restore; the exit status is 1 with one line on an error."""
    parser = argparse.ArgumentParser(prog="python -m editlab.files.bundle", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("create", "pack results"), ("check", "compare with the manifest"), ("restore", "unpack")):
        command = commands.add_parser(name, help=text)
        command.add_argument("archive", type=Path)
        if name == "create":
            command.add_argument("--results", type=Path, default=RESULTS)
            command.add_argument("--configfile", type=Path, action="append", default=[], help="a run's file")
        if name == "restore":
            command.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "create":
            files = [Path("config.yaml"), *chosen.configfile] if Path("config.yaml").is_file() else chosen.configfile
            manifest = create(chosen.archive, chosen.results, files)
            print(f"{chosen.archive}: {len(manifest['files'])} files, sha256 {sha256(chosen.archive)}", file=sys.stdout)
        elif chosen.command == "check":
            manifest = check(chosen.archive)
            print(f"{chosen.archive}: {len(manifest['files'])} files, all as in the manifest", file=sys.stdout)
        else:
            manifest = restore(chosen.archive, chosen.folder)
            report = verify(chosen.folder / RESULTS.name)
            print(f"{chosen.folder}: {len(manifest['files'])} files, {report.results} results", file=sys.stdout)
            return _tell(report.of("altered", "unknown"))
    except EditlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _tell(bad: Sequence[Path]) -> int:
    for path in bad:
        print(f"{path}: not as its provenance says", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
