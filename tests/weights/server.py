"""A server on this machine that answers as the Hub's `resolve` and its CDN do, and as releases on GitHub do."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Content:
    """A file on the server.

    Attributes:
        body: what is sent. announced: sha256 that the Hub announces ("" for the body's own). size: that it announces,
            where it is not the body's. lfs: in LFS; other files have git's hash as ETag.
        status: of every answer. head: whether HEAD is answered. ranges: whether Range is honoured.
        failing: statuses of the next answers with bytes. cut: bytes after which the next answers break off. hold:
            blocks answers until it is set.
    """

    body: bytes
    announced: str = ""
    lfs: bool = True
    status: int = 200
    failing: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    ranges: bool = True
    size: int | None = None
    head: bool = True
    hold: threading.Event | None = None

    @property
    def tag(self) -> str:
        return self.announced or (hashlib.sha256 if self.lfs else hashlib.sha1)(self.body).hexdigest()


@dataclass
class Server:
    """Attributes:
    address: of the server. files: path -> content. seen: (method, path, Range, Authorization) of every request.
    """

    address: str
    files: dict[str, Content] = field(default_factory=dict)
    seen: list[tuple[str, str, str, str]] = field(default_factory=list)

    def hub(self, repository: str, name: str, content: Content) -> Content:
        self.files[f"/{repository}/resolve/main/{name}"] = content
        return content

    def release(self, path: str, content: Content) -> Content:
        self.files[f"/{path}"] = content
        return content

    @property
    def ranges(self) -> list[str]:
        """Range of every request for bytes."""
        return [span for method, path, span, _ in self.seen if method == "GET" and not path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def log_message(self, *_: object) -> None:
        return None

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)  # a proxy gets the whole address
        path = unquote(url.path)
        headers = (self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        self.server_.seen.append((self.command, self.path, *headers))
        content = self.server_.files.get(path.removeprefix("/cdn"))
        if content is None or content.status != 200:
            self._refuse(404 if content is None else content.status)
        elif "/resolve/" in path and not path.startswith("/cdn"):
            self._redirect(path, content)
        elif self.command == "HEAD" and not content.head:
            self._refuse(403)
        elif content.failing and self.command == "GET":
            self._refuse(content.failing.pop(0))
        else:
            self._send(content)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 403:
            self.send_header("X-Error-Code", "GatedRepo")
        elif status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, path: str, content: Content) -> None:
        self.send_response(302)
        # Another host, as the Hub's: its client follows redirects inside one host itself.
        self.send_header("Location", f"{self.server_.address.replace('127.0.0.1', 'localhost')}/cdn{path}")
        self.send_header("X-Repo-Commit", "f" * 40)
        self.send_header("X-Linked-Size", str(len(content.body) if content.size is None else content.size))
        self.send_header("X-Linked-Etag", f'"{content.tag}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: Content) -> None:
        start, body = 0, content.body
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if content.ranges else None
        if span:
            start = int(span[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{content.tag}"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if content.hold is not None:
            self.wfile.write(body[start : start + 1])
            self.wfile.flush()
            content.hold.wait(20)
            start += 1
        if content.cut:
            self.wfile.write(body[start : start + content.cut.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body[start:])


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        return None  # clients that go away are what the tests are about


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the block ends."""
    http = _Http(("127.0.0.1", 0), _Handler)
    server = Server(f"http://127.0.0.1:{http.server_address[1]}")
    http.RequestHandlerClass = type("Handler", (_Handler,), {"server_": server})
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
