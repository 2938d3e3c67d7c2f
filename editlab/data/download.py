"""Fetch a data file by an explicit rule: https only (also where it is redirected to), checksum required, whole or absent."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from editlab.errors import DataError, one_line
from editlab.files.artifacts import atomic_path, sha256

LARGEST = 2 << 30  # bytes; a wrong address must not fill the disk


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https addresses alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """As in the base class.

        Raises:
            DataError: the new address is not https.
        """
        _check_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_https(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise DataError(f"{url[:200]!r}: only https downloads are allowed")


def download(url: str, path: str | Path, checksum: str) -> None:
    """Download ``url`` to ``path`` with a progress bar on a terminal.

    Raises:
        DataError: not https, unreachable, too large, or a checksum that does not match.
        ArtifactError: the file cannot be written.
    """
    from tqdm import tqdm

    _check_https(url)
    with atomic_path(path) as temporary, temporary.open("wb") as target:
        try:
            source = urllib.request.build_opener(HttpsOnly).open(url, timeout=60)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(url, error) from None
        with source, tqdm(unit="B", unit_scale=True, desc=Path(path).name, disable=None) as bar:
            bar.total = _size(source.headers.get("Content-Length"))
            while block := _block(source, url):
                target.write(block)
                bar.update(len(block))
                if target.tell() > LARGEST:
                    raise DataError(f"{url}: larger than {LARGEST} bytes")
        target.flush()
        check_sha256(temporary, checksum, url)


def _block(source: Any, url: str) -> bytes:
    try:
        return bytes(source.read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from None


def _size(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and text.isascii() else None


def _unreachable(url: str, error: Exception) -> DataError:
    return DataError(f"{url}: cannot be downloaded ({one_line(error)})")


def check_sha256(path: str | Path, checksum: str, name: str | None = None) -> None:
    """Raise :class:`DataError` unless the file has this checksum."""
    found = sha256(path)
    if found != checksum:
        raise DataError(f"{name or path}: sha256 is {found}, expected {checksum}")
