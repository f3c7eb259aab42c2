"""A stand-in for the Hugging Face hub: its HTTP API on loopback, serving repositories from a folder.

``root/owner/name/`` is the repository ``owner/name``. Files of at least `LFS_BYTES`, and all GGUF and
safetensors files, are told as if stored with LFS (SHA-256), others as git blobs (SHA-1). As on the
hub, ``/{repo}/resolve/{commit}/{file}`` redirects LFS files to another address, here below ``/cdn/``
on another port, which honours ``Range`` and ``If-Range``.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

LFS_BYTES = 100_000
COMMIT = "c0ffee" * 6 + "c0ff"
"""The commit that every revision names."""

_CHUNK_BYTES = 65_536
_API = re.compile(r"/api/models/([^/]+/[^/]+)/revision/(.+)")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived.

    Attributes:
        path: Its path, unquoted, without the query.
        range: Its ``Range`` header, or None.
        authorization: Its ``Authorization`` header, or None.
    """

    path: str
    range: str | None
    authorization: str | None


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong; every fault is off at first.

    Attributes:
        statuses: Statuses of the next replies, one each, before all is well again.
        retry_after_s: Sent with those of them that are 429.
        error_code: Their ``X-Error-Code``, or None.
        drop_after_bytes: Close the connection after so many bytes of each file's body, `n_drops` times.
        n_drops: How often.
        stall_after_bytes: Send no more after so many bytes of a body, until `resume` is set.
        corrupt: Flip one bit in the first byte of every file.
        html: Answer with a web page instead of a file.
        no_length: Do not say how long a file is.
        ignore_range: Answer a ``Range`` with the whole file.
        etag: Sent instead of the right one.
        redirect_to: Where files are redirected, instead of to ``/cdn/``.
        token: Refuse with 401 whoever does not send this token to the hub.
    """

    statuses: list[int] = field(default_factory=list)
    retry_after_s: int | None = None
    error_code: str | None = None
    drop_after_bytes: int | None = None
    n_drops: int = 0
    stall_after_bytes: int | None = None
    resume: threading.Event = field(default_factory=threading.Event)
    corrupt: bool = False
    html: bool = False
    no_length: bool = False
    ignore_range: bool = False
    etag: str | None = None
    redirect_to: str | None = None
    token: str | None = None


class HubServer:
    """The stand-in, on two free ports of loopback; also a context manager that ends it.

    Args:
        root: Folder of the repositories.
        licence: What every model card states.
    """

    def __init__(self, root: Path, licence: str = "apache-2.0") -> None:
        self.root = root
        self.licence = licence
        self.faults = Faults()
        self.asked: list[Asked] = []
        """Every request so far."""
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler()) for _ in range(2)]
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        """The hub's address."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn_url(self) -> str:
        """Where the hub redirects large files."""
        return f"http://127.0.0.1:{self._servers[1].server_port}/cdn"

    def ranges(self) -> list[str | None]:
        """The ``Range`` of every request for a file's bytes so far."""
        return [asked.range for asked in self.asked if asked.path.startswith("/cdn/")]

    def close(self) -> None:
        """End it, stalled replies included."""
        self.faults.resume.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        return Handler


def listing(repo: Path, licence: str) -> dict[str, object]:
    """What the hub's API says of a repository."""
    files = sorted(path for path in repo.rglob("*") if path.is_file())
    siblings = []
    for path in files:
        content = path.read_bytes()
        blob = sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        sibling = {"rfilename": path.relative_to(repo).as_posix(), "size": len(content), "blobId": blob}
        if _is_large(path):
            digest = sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        siblings.append(sibling)
    return {
        "id": "x/y",
        "sha": COMMIT,
        "gated": False,
        "cardData": {"license": licence},
        "siblings": siblings,
    }


def _is_large(path: Path) -> bool:
    return path.suffix in {".gguf", ".safetensors"} or path.stat().st_size >= LFS_BYTES


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server_hub: HubServer

    def do_GET(self) -> None:
        hub, faults = self.server_hub, self.server_hub.faults
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(Asked(path, self.headers.get("Range"), self.headers.get("Authorization")))
        if faults.statuses:
            status = faults.statuses.pop(0)
            extra = {"Retry-After": str(faults.retry_after_s)} if faults.retry_after_s is not None else {}
            self._refuse(status, extra)
        elif path.startswith("/cdn/"):
            self._send_file(hub.root / path.removeprefix("/cdn/"))
        elif faults.token is not None and self.headers.get("Authorization") != f"Bearer {faults.token}":
            self._refuse(401, {})
        elif match := _API.fullmatch(path):
            self._send_listing(hub.root / match[1])
        elif match := _RESOLVE.fullmatch(path):
            self._send_resolved(match[1], match[3])
        else:
            self._refuse(404, {})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keep silent."""

    def _send_listing(self, repo: Path) -> None:
        if not repo.is_dir():
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})
            return
        body = json.dumps(listing(repo, self.server_hub.licence)).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_resolved(self, repo: str, name: str) -> None:
        path = self.server_hub.root / repo / name
        if not path.is_file():
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        elif self.server_hub.faults.redirect_to is not None:
            self._head(302, {"Location": self.server_hub.faults.redirect_to, "Content-Length": "0"})
        elif _is_large(path):
            target = f"{self.server_hub.cdn_url}/{repo}/{name}"
            self._head(302, {"Location": target, "Content-Length": "0"})
        else:
            self._send_file(path)

    def _send_file(self, path: Path) -> None:
        faults = self.server_hub.faults
        if not path.is_file():
            self._refuse(404, {})
            return
        content = b"<html>sign in</html>" if faults.html else path.read_bytes()
        etag = faults.etag or f'"{sha256(content).hexdigest()}"'
        if faults.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = self._start(etag, len(content))
        if start > len(content):
            self._refuse(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        headers = {"ETag": etag, "Content-Type": "text/html" if faults.html else "binary/octet-stream"}
        if faults.no_length:
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(len(content) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, headers)
        self._send_body(content[start:])

    def _start(self, etag: str, size_bytes: int) -> int:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or self.server_hub.faults.ignore_range:
            return 0
        start, condition = int(match[1]), self.headers.get("If-Range")
        if condition not in {None, etag}:
            return 0
        return start if start < size_bytes else size_bytes + 1

    def _send_body(self, content: bytes) -> None:
        faults = self.server_hub.faults
        with _tolerating_departure():
            for start in range(0, len(content), _CHUNK_BYTES):
                chunk = content[start : start + _CHUNK_BYTES]
                end = start + len(chunk)
                if faults.drop_after_bytes is not None and end >= faults.drop_after_bytes and faults.n_drops:
                    faults.n_drops -= 1
                    self.wfile.write(chunk[: faults.drop_after_bytes - start])
                    self.close_connection = True
                    return
                if faults.stall_after_bytes is not None and end >= faults.stall_after_bytes:
                    self.wfile.write(chunk[: faults.stall_after_bytes - start])
                    self.wfile.flush()
                    faults.resume.wait()
                    self.close_connection = True
                    return
                self.wfile.write(chunk)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        code = self.server_hub.faults.error_code
        extra = {"X-Error-Code": code} if code is not None else {}
        self._head(status, {"Content-Length": "0", **headers, **extra})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        with _tolerating_departure():
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()


@contextmanager
def _tolerating_departure() -> Iterator[None]:
    """A client may leave at any time."""
    with suppress(BrokenPipeError, ConnectionResetError):
        yield
