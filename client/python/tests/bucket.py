"""A server with as much of S3 as forebay uses, for the tests: lists, ranges, and objects that are written whole.

Its objects are files in a folder. Without a query it is a web server, too.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            return self._list(query.get("prefix", [""])[0])
        self.server.bucket.authorizations.append(self.headers.get("Authorization", ""))
        file = self._file()
        if not self.server.bucket.answers.wait(60) or not file.is_file():
            return self._send(404)
        whole = file.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        tag = {"ETag": _tag(whole)}
        if found is None:
            return self._send(200, whole, tag)
        start, end = int(found[1]), min(int(found[2]) + 1, len(whole))
        self._send(206, whole[start:end], {**tag, "Content-Range": f"bytes {start}-{end - 1}/{len(whole)}"})

    def do_HEAD(self) -> None:
        file = self._file()
        if not file.is_file():
            return self._send(404)
        whole = file.read_bytes()
        self._send(200, whole, {"ETag": _tag(whole)})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._file().write_bytes(body)
        self._send(200, b"", {"ETag": _tag(body)})

    def _list(self, prefix: str) -> None:
        bucket = self._file()
        keys = sorted(str(file.relative_to(bucket)) for file in bucket.rglob("*") if file.is_file())
        # Those in the folder itself.
        keys = [key for key in keys if key.startswith(prefix) and "/" not in key[len(prefix) :]]
        entries = ""
        for key in keys:
            whole = (bucket / key).read_bytes()
            entries += (
                f"<Contents><Key>{escape(key)}</Key><Size>{len(whole)}</Size><ETag>{escape(_tag(whole))}</ETag>"
                "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        xml = f"<ListBucketResult>{entries}<IsTruncated>false</IsTruncated></ListBucketResult>"
        self._send(200, xml.encode())

    def _file(self) -> Path:
        return self.server.bucket.folder / unquote(urlsplit(self.path).path).strip("/")

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT", **(headers or {})}
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    bucket: Bucket

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client may go away."""


class Bucket:
    """A running server."""

    def __init__(self, folder: Path, server: _Server) -> None:
        self.folder = folder
        self.host = f"127.0.0.1:{server.server_address[1]}"
        # The credentials of each request for an object.
        self.authorizations: list[str] = []
        # While this is not set, requests for objects are not answered.
        self.answers = threading.Event()
        self.answers.set()

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which `s3://` is this server."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret",
        }  # fmt: skip


@contextmanager
def serve(folder: Path) -> Iterator[Bucket]:
    """Serves the folders in a folder, each as a bucket, on a free port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.bucket = Bucket(folder, server)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.bucket
    server.bucket.answers.set()
    server.shutdown()
    server.server_close()
    thread.join()


def _tag(whole: bytes) -> str:
    return f'"{hashlib.md5(whole).hexdigest()}"'
