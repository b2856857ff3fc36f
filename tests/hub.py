"""The part of the Hugging Face hub's HTTP interface that reading files needs, over a folder."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

REPOSITORY = "someone/pages"
COMMIT = "0" * 40


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, kind: str, *arguments: Any) -> None:
        self._folder, self._kind = folder, kind
        super().__init__(*arguments)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        path = path.replace(COMMIT, "main")  # the repository has one commit
        api = f"/api/{self._kind}s/{REPOSITORY}"
        resolved = f"/{'datasets/' if self._kind == 'dataset' else ''}{REPOSITORY}/resolve/main/"
        if path in (api, f"{api}/revision/main"):
            self._send(200, json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
        elif path == f"{api}/paths-info/main":
            asked = urllib.parse.parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            found = [self._folder / name for name in asked if (self._folder / name).exists()]
            self._send(200, json.dumps([self._entry(name) for name in found]).encode())
        elif path.startswith(f"{api}/tree/main"):
            top = self._folder / path.removeprefix(f"{api}/tree/main").strip("/")
            names = top.rglob("*") if "recursive=true" in self.path.lower() else top.iterdir()
            self._send(200, json.dumps([self._entry(name) for name in sorted(names)]).encode())
        elif path.startswith(resolved):
            file = self._folder / path.partition("/resolve/main/")[2]
            content = file.read_bytes()
            ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            first = int(ranged[1]) if ranged else 0
            last = int(ranged[2]) if ranged and ranged[2] else len(content) - 1
            self._send(206 if ranged else 200, content[first : last + 1])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_GET = do_POST = do_HEAD = _answer

    def _entry(self, path: Path) -> dict[str, Any]:
        name = str(path.relative_to(self._folder))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "1" * 40, "size": 0}
        return {"type": "file", "path": name, "oid": "2" * 40, "size": path.stat().st_size}

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        kind = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (kind | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextlib.contextmanager
def hub(folder: Path, kind: Literal["dataset", "model"] = "dataset") -> Iterator[str]:
    """Its URL, for HF_ENDPOINT; the repository REPOSITORY of this kind is what lies in the folder."""
    handler: Any = functools.partial(_Handler, folder, kind)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
