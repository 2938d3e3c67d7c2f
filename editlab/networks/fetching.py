"""Fetch a model from the hub, every file compared with its checksum, or link a directory that is here."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from editlab.errors import ModelError, one_line
from editlab.networks.loading import check_model_directory

SOURCE = "source.json"  # in a fetched model's directory: where it came from


def fetch(source: str, directory: Path, *, revision: str | None = None) -> None:
    """Fill ``directory`` with links to the files of a model directory, or of the hub snapshot at ``revision``.

    ``source.json`` tells where they came from; of a snapshot, every file is compared with the checksum that names it.

    Raises:
        ModelError: the model is not there, cannot be reached, is damaged or has no safetensors weights.
    """
    from editlab.files.artifacts import write_json

    path = Path(source).expanduser()
    origin: dict[str, str | None] = {"source": source, "revision": revision}
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        try:
            path = Path(
                snapshot_download(
                    source, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"]
                )
            )
        except Exception as error:
            raise ModelError(f"{source}: cannot be fetched ({one_line(error)})") from None
        origin["commit"] = path.name
        for file in sorted(path.rglob("*")):
            check_blob(file)
    check_model_directory(path)
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        (directory / file.name).symlink_to(file.resolve())
    write_json(directory / SOURCE, origin)


def check_blob(file: Path) -> None:
    """Compare a file of the hub's cache with its name there: sha256 of large files, git's object id of others.

    Raises:
        ModelError: it is truncated or altered.
    """
    blob = file.resolve()
    if blob == file or not blob.is_file() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(f"blob {blob.stat().st_size}\0".encode())
    with blob.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        raise ModelError(f"{file}: its content is not what the hub's checksum says; delete {blob} and rerun")
