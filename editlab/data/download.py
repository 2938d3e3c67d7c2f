"""Fetch a data file by an explicit rule: https only, checksum required, whole or absent."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from editlab.artifacts import atomic_path, sha256
from editlab.errors import DataError

LARGEST = 2 << 30  # bytes; a wrong address must not fill the disk


def download(url: str, path: str | Path, checksum: str) -> None:
    """Download ``url`` to ``path`` with a progress bar on a terminal.

    Raises:
        DataError: not https, unreachable, too large, or a checksum that does not match.
    """
    from tqdm import tqdm

    if not url.startswith("https://"):
        raise DataError(f"{url}: only https downloads are allowed")
    with atomic_path(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=60) as source, temporary.open("wb") as target:
                size = int(source.headers.get("Content-Length") or 0) or None
                with tqdm(total=size, unit="B", unit_scale=True, desc=Path(path).name, disable=None) as bar:
                    while block := source.read(1 << 20):
                        target.write(block)
                        bar.update(len(block))
                        if target.tell() > LARGEST:
                            raise DataError(f"{url}: larger than {LARGEST} bytes")
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise DataError(f"{url}: cannot be downloaded ({error})") from None
        check_sha256(temporary, checksum, url)


def check_sha256(path: str | Path, checksum: str, name: str | None = None) -> None:
    """Raise :class:`DataError` unless the file has this checksum."""
    found = sha256(path)
    if found != checksum:
        raise DataError(f"{name or path}: sha256 is {found}, expected {checksum}")
