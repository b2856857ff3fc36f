"""A proxy in front of a real S3 server that drops, refuses and truncates requests and responses."""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Literal

Fault = Literal["slow_down", "reset", "cut_off", "lost_answer"]
"""503 SlowDown; the connection reset before an answer; half of the body and then the end; the request done,
but the connection reset in place of the answer."""
SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class FaultyProxy(http.server.ThreadingHTTPServer):
    """Each request (method and path with query) meets `faults` in turn before it goes through."""

    daemon_threads = True
    disable_nagle_algorithm = True

    def __init__(self, upstream: str, faults: Sequence[Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.faults = upstream.removeprefix("http://"), list(faults)
        self.seen: collections.Counter[str] = collections.Counter()
        self.met: collections.Counter[str] = collections.Counter()
        """How often each fault was dealt out."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, request: str) -> Fault | None:
        with self._lock:
            number = self.seen[request]
            self.seen[request] += 1
            fault = self.faults[number] if number < len(self.faults) else None
            if fault is not None:
                self.met[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that we or the client break are what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.server.next_fault(f"{self.command} {self.path}")
        if fault == "slow_down":
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fault == "reset":
            self._reset()
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        chunked = isinstance(body, list)
        upstream.request(self.command, self.path, body, dict(self.headers.items()), encode_chunked=chunked)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault == "lost_answer":
            self._reset()
        elif fault == "cut_off" and self.command == "GET" and len(content) > 1:
            self._answer(response.status, response.getheaders(), content, sent=len(content) // 2)
            self._reset()
        else:
            self._answer(response.status, response.getheaders(), content)

    def _body(self) -> bytes | list[bytes]:
        """As it came: a list of chunks is sent on in chunks."""
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return chunks

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def _reset(self) -> None:
        """End the connection with RST, not with the orderly FIN."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextlib.contextmanager
def faulty_proxy(upstream: str, faults: Sequence[Fault]) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream, faults)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
