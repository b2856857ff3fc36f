"""A Ray head started by a test, as an operator would, with its own ports, token and processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Head:
    dashboard: str
    gcs: str
    environment: dict[str, str]
    """For processes that talk to it: its token, and this project's packages."""
    process: subprocess.Popen[bytes]

    def command(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """`headwater …` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "headwater", *arguments],
            env=self.environment | changes,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 180, **changes: str) -> tuple[int, str]:
        """The same, to its end: exit code and output."""
        process = self.command(*arguments, **changes)
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, output


@contextlib.contextmanager
def head(cpus: int = 2, **environment: str) -> Iterator[Head]:
    """`ray start --head` on localhost with token authentication; ends exactly what it started."""
    gcs, dashboard, client, agent, agent_grpc, metrics, env_agent = free_ports(7)
    token = secrets.token_hex(16)
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    folder = tempfile.mkdtemp(prefix="hw-", dir="/tmp")  # short: it holds Unix sockets
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={env_agent}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
    command += [f"--num-cpus={cpus}", "--object-store-memory=150000000", "--disable-usage-stats"]
    log = Path(folder) / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=kept | own | environment,
            cwd="/",
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started = Head(
        f"http://127.0.0.1:{dashboard}",
        f"127.0.0.1:{gcs}",
        kept | own | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"},
        process,
    )
    try:
        _wait(started, token, log)
        yield started
    finally:
        end_tree(process.pid)
        process.wait(20)


def end_tree(pid: int) -> None:
    """SIGTERM to a process, then SIGKILL to what is left of it and of everything below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        below = root.children(recursive=True)
        root.send_signal(signal.SIGTERM)
        psutil.wait_procs([root], timeout=10)
        for process in (root, *below):  # Ray's workers may outlive it by ten seconds
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs([root, *below], timeout=10)


def _wait(started: Head, token: str, log: Path) -> None:
    request = urllib.request.Request(
        f"{started.dashboard}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    for _ in range(240):
        assert started.process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.25)
    raise TimeoutError(f"the head did not answer within 60 s: {log.read_text()}")
