"""Fetch a data file by an explicit rule: https only (also where it is redirected to), checksum required, whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from tqdm import tqdm

from editlab.errors import DataError, EditlabError, one_line
from editlab.files.artifacts import atomic_path

if TYPE_CHECKING:
    import requests

LARGEST = 2 << 30  # bytes; a wrong address must not fill the disk
CHUNK = 1 << 20
ALGORITHMS = {32: "md5", 64: "sha256"}  # by the number of hexadecimal digits


def download(url: str, path: str | Path, checksum: str) -> None:
    """Download ``url`` to ``path`` with a progress bar on a terminal.

    Args:
        checksum: md5 or sha256 of the file in hexadecimal digits, whichever its publisher gives.

    Raises:
        DataError: not https, unreachable, too large, or a checksum that does not match.
        ArtifactError: the file cannot be written.
    """
    import requests
    from pooch import HTTPDownloader

    _check_https(url)
    with atomic_path(path) as temporary, contextlib.closing(_Progress(temporary, url, Path(path).name)) as progress:
        options: dict[str, Any] = {"timeout": 60, "hooks": {"response": _stay_on_https}}
        fetch = HTTPDownloader(progressbar=progress, chunk_size=CHUNK, **options)
        try:
            fetch(url, str(temporary), None)
        except EditlabError:
            raise
        except (requests.RequestException, ValueError) as error:
            raise DataError(f"{url}: cannot be downloaded ({one_line(error)})") from None
        check_file(temporary, checksum, url)


class _Progress:
    """What pooch tells of a download: drawn on a terminal by tqdm; one that does not end is ended."""

    def __init__(self, file: Path, url: str, name: str) -> None:
        self.file, self.url, self.total = file, url, 0
        self.bar = tqdm(unit="B", unit_scale=True, desc=name, disable=None)

    def update(self, _: int) -> None:
        """Move to the size of the file: what pooch counts are whole chunks, however little was in them."""
        size = self.file.stat().st_size
        if size > LARGEST:
            raise DataError(f"{self.url}: larger than {LARGEST} bytes")
        self.bar.total = self.total or None
        self.bar.update(size - self.bar.n)

    def reset(self) -> None:
        """The end, announced by pooch: the file is there."""

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def _check_https(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise DataError(f"{url[:200]!r}: only https downloads are allowed")


def _stay_on_https(response: requests.Response, **_: Any) -> None:
    """Called with every answer, before a redirection is followed."""
    if response.is_redirect:
        _check_https(urljoin(response.url, response.headers["location"]))


def check_file(path: str | Path, checksum: str, name: str | None = None) -> None:
    """Raise :class:`DataError` unless the file has this md5 or sha256 (``name``: what the message calls it)."""
    algorithm = ALGORITHMS.get(len(checksum))
    if algorithm is None:
        raise DataError(f"{name or path}: checksum {checksum[:80]!r} is neither an md5 nor a sha256")
    try:
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if found != checksum.lower():
        raise DataError(f"{name or path}: {algorithm} is {found}, expected {checksum}")
