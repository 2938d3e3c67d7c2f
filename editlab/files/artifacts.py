"""Files that are whole or absent: atomic writes, checksums, provenance, and tensors without pickle.

Every writer goes through :func:`atomic_path`: a temporary name beside the target, fsync, then ``os.replace``. A process
that dies half-way leaves the old file or none. A record under ``.provenance``, named like the result (:func:`record_of`),
says how it was made and holds the checksums of its files; :func:`read_verified` compares one with them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editlab.errors import ArtifactError, DamagedError, one_line

if TYPE_CHECKING:
    import pandas as pd
    import torch

RECORDS = ".provenance"  # folder of the records in the folder of a run's results
_RESULTS = "results"
_METADATA = "editlab"  # entry of a safetensors file's metadata
_ALIGNMENT = 64  # bytes; where PyTorch puts a tensor of its own


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; on a clean exit it replaces ``path``, on an exception it is removed.

    Raises:
        ArtifactError: the file cannot be written (disk full, read-only folder), with the target's name.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:
        if (told := _unwritable(path, error)) is None:
            raise
        raise told from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> ArtifactError | None:
    """What to tell about an error while ``path`` was written; None: it has nothing to do with writing."""
    if isinstance(error, OSError):
        return ArtifactError(f"{path}: cannot be written ({error.strerror or one_line(error)})")
    if type(error).__name__ == "SafetensorError":  # not imported here: the ground floor is light
        return ArtifactError(f"{path}: cannot be written ({one_line(error)})")
    return None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically, with ``\\n`` line ends on every platform."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys (byte-stable for equal values)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table with a fixed float format. Programs read it: text stands as it is (:func:`defused` for people)."""
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def defused(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for a spreadsheet: text that one would run as a formula gets a leading ``'``. Not to be read back."""
    frame = frame.copy()
    for name in frame.columns[frame.dtypes.map(lambda t: str(t) in ("object", "str", "string"))]:
        frame[name] = frame[name].map(_defuse)
    return frame


def _defuse(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Save tensors as safetensors, byte-stable for equal values; all metadata is one JSON entry.

    Several entries would be written in an order that changes from call to call.
    """
    from safetensors.torch import save_file

    texts = {_METADATA: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=texts)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor where PyTorch itself would put it: kernels round differently by address, and a header's length moves a view."""
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Load (tensors, metadata) from a safetensors file.

    Raises:
        ArtifactError: the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))
            return {key: _aligned(file.get_tensor(key)) for key in file.keys()}, metadata  # noqa: SIM118 - not a dictionary
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not a readable safetensors file ({one_line(error)}); delete it and rerun"
        ) from None


def sha256(path: str | Path) -> str:
    """Checksum of a file's bytes."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def directory_files(directory: str | Path) -> list[str]:
    """Names of the files of a result directory, sorted; hidden ones do not count."""
    return sorted(p.name for p in Path(directory).iterdir() if p.is_file() and not p.name.startswith("."))


def joint_digest(checksums: Mapping[str, str]) -> str:
    """One checksum over names and checksums of files."""
    return hashlib.sha256("".join(f"{name}\0{checksums[name]}\n" for name in sorted(checksums)).encode()).hexdigest()


def directory_digest(directory: str | Path) -> str:
    """One checksum over the names and contents of a directory's files."""
    return joint_digest({name: sha256(Path(directory, name)) for name in directory_files(directory)})


def record_of(result: str | Path) -> Path:
    """Where the record of a result (a file, or a folder that one job made) is, whether it exists or not.

    ``results/full/known/m/facts.csv`` has ``results/full/.provenance/known/m/facts.csv.json``: records lie in the nearest
    folder around the result that has a folder of records, so a run's folder can be moved with them.
    """
    result = Path(result)
    home = home_of(result)
    name = result.relative_to(home)
    return home / RECORDS / name.with_name(f"{name.name}.json")


def home_of(result: Path) -> Path:
    """The folder that holds the records of a result, or will."""
    for folder in result.parents:
        if (folder / RECORDS).is_dir():
            return folder
    parts = result.parts
    return Path(*parts[: parts.index(_RESULTS) + 1]) if _RESULTS in parts[:-1] else result.parent


def result_of_record(record: str | Path) -> Path:
    """The result that a record is about."""
    parts = Path(record).parts
    place = len(parts) - 1 - parts[::-1].index(RECORDS)
    return Path(*parts[:place], *parts[place + 1 : -1], parts[-1].removesuffix(".json"))


def provenance_file(path: str | Path) -> Path:
    """The record that tells of a file or folder: its own, else that of the folder that it was made with."""
    path = Path(path)
    own = record_of(path)
    if path.is_dir() or own.exists():
        return own
    joint = own if path.parent == home_of(path) else record_of(path.parent)
    return joint if joint.exists() else own


def write_provenance(result: str | Path, facts: Mapping[str, Any], files: Iterable[str | Path]) -> None:
    """Write the record of a result: ``facts``, the checksum of each of its ``files``, and one of itself.

    Args:
        result: a folder with ``files`` in it, or the one file.
    """
    result = Path(result)
    folder = result if result.is_dir() else result.parent
    checksums = {Path(f).name: sha256(folder / Path(f).name) for f in files}
    # Through JSON and back: what is summed up must be what a reader will see.
    provenance = json.loads(json.dumps({**facts, "versions": versions(), "files": checksums}))
    write_json(record_of(result), {**provenance, "checksum": own_checksum(provenance)})


def accept_altered(result: str | Path, names: Iterable[str]) -> None:
    """Take files as they are now: their checksums enter the record, the former ones stay in it as ``accepted``.

    Raises:
        DamagedError: the record itself is damaged.
        ArtifactError: a file cannot be read.
    """
    result, record_file = Path(result), record_of(result)
    folder = result if result.is_dir() else result.parent
    record = load_provenance(record_file)
    accepted = dict(record.get("accepted", {}))
    for name in names:
        accepted.setdefault(name, record["files"].get(name))
        record["files"][name] = sha256(folder / name)
    record["accepted"] = accepted
    write_json(record_file, {**record, "checksum": own_checksum(record)})


def own_checksum(provenance: Mapping[str, Any]) -> str:
    """Checksum of a provenance without its entry ``checksum``, whatever the order and white space of its file."""
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_provenance(directory: str | Path) -> dict[str, Any]:
    """The provenance of a result directory, checked for shape and against its own checksum.

    Raises:
        DamagedError: it is missing, damaged or altered.
    """
    return load_provenance(record_of(directory))


def load_provenance(path: Path) -> dict[str, Any]:
    """Read one provenance file; see :func:`read_provenance`."""
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
        files, checksum = provenance["files"], provenance.pop("checksum")
        if not (_is_checksums(files) and all(Path(n).name == n and n.isprintable() for n in files)):
            raise ValueError
        if not (_is_checksums(provenance.get("inputs", {})) and _is_checksums(provenance.get("roots", {}))):
            raise ValueError
        if not _are_stats(provenance.get("stats", {})) or not isinstance(provenance.get("code", ""), str):
            raise ValueError
        if checksum != own_checksum(provenance):
            raise ValueError
    except FileNotFoundError:
        result = result_of_record(path)
        raise DamagedError(f"{path}: no such file; rebuild with: {rebuild_command(result)}", result) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        result = result_of_record(path)
        raise DamagedError(f"{path}: damaged; rebuild with: {rebuild_command(result)}", result) from None
    return dict(provenance)


def _is_checksums(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) and len(v) == 64 for v in value.values())


def _are_stats(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, list) and len(v) == 2 for v in value.values())


def read_verified(path: str | Path) -> Path:
    """``path``, after its bytes were compared with the checksum in its record.

    Raises:
        DamagedError: missing, truncated or altered since it was made; names the command that rebuilds it.
    """
    path = Path(path)
    record = provenance_file(path)
    if not record.is_file():
        raise DamagedError(f"{record}: no such file; rebuild with: {rebuild_command(path)}", path)
    expected = load_provenance(record)["files"].get(path.name)
    if not path.is_file():
        raise DamagedError(f"{path}: no such file; rebuild with: {rebuild_command(path)}", path)
    if expected != sha256(path):
        raise DamagedError(f"{path}: altered since it was made; rebuild with: {rebuild_command(path)}", path)
    return path


def rebuild_command(path: str | Path) -> str:
    """The command line that makes ``path`` again."""
    name = shlex.quote(str(path))
    return f"rm -{'r' if Path(path).is_dir() else ''}f {name} && snakemake --cores 2 {name}"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape the numbers."""
    import importlib.metadata
    import platform

    found = {"python": platform.python_version()}
    for name in ("editlab", "torch", "transformers", "numpy", "scipy", "pandas", "tokenizers", "safetensors"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def replace_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; on a clean exit it takes its place, else it is removed."""
    import shutil

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except Exception as error:
        if (told := _unwritable(path, error)) is None:
            raise
        raise told from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
