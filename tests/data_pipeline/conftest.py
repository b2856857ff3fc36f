"""A small HTTP server with valid and faulty responses, and a file to read."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class WebServer:
    url: str
    files: dict[str, bytes]
    """Path → content."""
    breaks: dict[str, int]
    """Path → how many times the connection breaks off in the middle before it goes well."""
    requests: list[tuple[str, str]]
    """Path and Range header of each request."""
    redirects: dict[str, str]
    """Path → where it sends."""


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    state = WebServer("", {}, {}, [], {"/to-file": "file:///etc/passwd"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.requests.append((self.path, wanted))
            if self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                self.end_headers()
                return
            if self.path not in state.files:
                self.send_error(403 if self.path == "/forbidden" else 404)
                return
            content = state.files[self.path]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if state.breaks.get(self.path, 0) > 0:
                state.breaks[self.path] -= 1
                self.wfile.write(content[start : start + max(1, (len(content) - start) // 2)])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(content[start:])

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def jsonl_file(tmp_path: Path) -> Path:
    path = tmp_path / "pages.jsonl"
    rows = [{"text": f"page number {n}", "url": f"https://example.org/{n}"} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
