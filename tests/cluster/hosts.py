"""Several hosts on one machine: network namespaces, each with a cable to one switch and a real Ray node.

A host has its own address and its own network; only files are shared, as on a cluster with a network disk.
Everything that is made here has a name that nothing else has, by which what a killed run left is found and
removed; a lock sees to it that there is one such network on a machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.cluster.heads import ROOT

PREFIX = "headwater-test-host-"
SWITCH = f"{PREFIX}switch"
RAY_FOLDER = Path("/tmp/headwater-test-hosts")  # short: Ray makes sockets below it
ADDRESS = "10.77.0.{}"
PORT = 6379
OBJECT_STORE_BYTES = 80 << 20
START_SECONDS = 120.0

QUICK_TO_NOTICE = {
    # Ray's head asks every node for a sign of life each second, and gives up after five without one.
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
    # A node that no longer hears its head ends, with its workers.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    # Ray Train: between two looks at the workers; to wait for room that the cluster turns out not to have.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}


def why_not() -> str:
    """Why there can be no such hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "`ip` is missing (Debian's package iproute2)"
    probe = f"headwater-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


class Hosts:
    """Host 0 is Ray's head, without CPUs; hosts 1 … `workers` have one CPU each."""

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers, self.folder = workers, folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | QUICK_TO_NOTICE
        self.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}
        self.environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment.pop("RAY_ADDRESS", None)

    def start(self) -> None:
        """Lay the cables and start the nodes, one after the other: Ray gives a node 30 s to come up."""
        _ip("netns", "add", SWITCH)
        _ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        _ip("-n", SWITCH, "link", "set", "bridge", "up")
        for host in range(self.workers + 1):
            name, cable = _name(host), f"cable{host}"
            _ip("netns", "add", name)
            _ip("-n", SWITCH, "link", "add", cable, "type", "veth", "peer", "name", "net0", "netns", name)
            _ip("-n", SWITCH, "link", "set", cable, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "net0")
            _ip("-n", name, "link", "set", "net0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        head = f"--head --port={PORT} --num-cpus=0 --temp-dir={RAY_FOLDER} --include-dashboard=false"
        self._start_ray(0, f"{head} --no-monitor")
        for host in range(1, self.workers + 1):
            self._start_ray(host, f"--address={self.address(0)}:{PORT} --num-cpus=1")

    def address(self, host: int) -> str:
        return ADDRESS.format(host + 1)

    def cut(self, host: int) -> None:
        """Pull a host's cable out of the switch."""
        _ip("-n", SWITCH, "link", "set", f"cable{host}", "down")

    def mend(self, host: int) -> None:
        _ip("-n", SWITCH, "link", "set", f"cable{host}", "up")

    @contextlib.contextmanager
    def python(self, module: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A module running on the head; ended with the block."""
        with log.open("wb") as output:
            process = self._run(0, [sys.executable, "-m", module, *arguments], output)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)

    def _start_ray(self, host: int, options: str) -> None:
        """`ray start`, and again whenever it ends, as a host's service manager would do."""
        ray = f"{sys.executable} -m ray.scripts.scripts start --block --disable-usage-stats {options}"
        ray += f" --node-ip-address={self.address(host)} --object-store-memory={OBJECT_STORE_BYTES}"
        path = self.folder / f"host-{host}.log"
        with path.open("wb") as log:
            shell = ["sh", "-c", f"while :; do {ray} --include-log-monitor=false; sleep 1; done"]
            self.processes.append(self._run(host, shell, log))
        deadline = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in path.read_bytes():
            assert time.monotonic() < deadline, path.read_text(errors="replace")[-4000:]
            time.sleep(0.1)

    def _run(self, host: int, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["ip", "netns", "exec", _name(host), *command],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def hosts(workers: int, folder: Path) -> Iterator[Hosts]:
    """Hosts for the block, and nothing of them afterwards; one such block at a time on a machine."""
    with RAY_FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the process, however it ends
        _clean_up()
        made = Hosts(workers, folder)
        try:
            made.start()
            yield made
        finally:
            _clean_up()
            for process in made.processes:
                process.wait(20)


def _clean_up() -> None:
    """End every process in namespaces of ours, delete them (cables and bridge go along), and Ray's files."""
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in listing.splitlines() if line.startswith(PREFIX)]
    for name in names:
        deadline = time.monotonic() + 20
        while pids := _pids(name):
            assert time.monotonic() < deadline, f"processes {pids} in {name} do not end"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        _ip("netns", "del", name)
    shutil.rmtree(RAY_FOLDER, ignore_errors=True)


def _pids(name: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    return [int(pid) for pid in found.stdout.split()]


def _name(host: int) -> str:
    return f"{PREFIX}{host}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
