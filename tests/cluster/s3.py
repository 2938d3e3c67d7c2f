"""The part of S3 that Snakemake's storage plugin uses, in memory, on loopback: for tests of profiles/kubernetes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import urllib.parse
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape


class Store(ThreadingHTTPServer):
    """Objects by ``bucket/key``; every bucket exists."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[bytes, float]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Head, get, put and delete of objects, and the list of a bucket. Signatures are not looked at."""

    server: Store
    protocol_version = "HTTP/1.1"

    @property
    def name(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")

    def do_HEAD(self) -> None:
        self._object(with_body=False)

    def do_GET(self) -> None:
        if "/" in self.name:
            self._object(with_body=True)
        else:
            self._list()

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            data = _unchunked(data)
        self.server.objects[self.name] = (data, time.time())
        self._answer(200, {"ETag": _tag(data)})

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.name, None)
        self._answer(204, {})

    def _object(self, *, with_body: bool) -> None:
        if "/" not in self.name:
            self._answer(200, {})
        elif self.name not in self.server.objects:
            self._answer(404, {})
        else:
            data, at = self.server.objects[self.name]
            headers = {"ETag": _tag(data), "Last-Modified": formatdate(at, usegmt=True)}
            first, last = 0, len(data) - 1
            if wanted := self.headers.get("Range", "").removeprefix("bytes="):
                first, last = (int(n) for n in wanted.split("-"))
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._answer(206 if wanted else 200, headers, data[first : last + 1], with_body=with_body)

    def _list(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        prefix, rows = query.get("prefix", [""])[0], []
        for name, (data, at) in sorted(self.server.objects.items()):
            bucket, _, key = name.partition("/")
            if bucket == self.name and key.startswith(prefix):
                when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
                rows.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                    f"<ETag>{_tag(data)}</ETag><Size>{len(data)}</Size></Contents>"
                )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        self._answer(200, {"Content-Type": "application/xml"}, text.encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"", *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """No word on the terminal."""


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _unchunked(data: bytes) -> bytes:
    """The payload of an upload in signed chunks: size in hex, line, data, line, until a chunk of no bytes."""
    parts, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


@contextlib.contextmanager
def serving() -> Iterator[Store]:
    """A store that answers inside the block."""
    store = Store()
    thread = threading.Thread(target=store.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
        thread.join(5)
