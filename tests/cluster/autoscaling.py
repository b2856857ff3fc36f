"""A real autoscaling cluster on one machine: a head without CPUs, and worker raylets that come and go.

Ray's own autoscaler (version 2) runs with its fake node provider, which starts a raylet where a cloud
would start a machine. Ports and folder are the cluster's own, so that it stands beside any other Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from tests.cluster.heads import ROOT
from tests.ports import free_ports

MARK = "HEADWATER_TEST_CLUSTER"
"""Every process of a cluster inherits this variable: so exactly these are counted, and ended."""
IDLE_SECONDS = 5
STORE_BYTES = 100_000_000
WATCH_SECONDS = 0.25


@dataclass
class AutoscalingCluster:
    address: str
    environment: dict[str, str]
    """What a driver has to be started with."""
    mark: str
    nodes_seen: list[int] = field(default_factory=list)
    """Number of worker raylets, each time that it had changed."""
    most_at_work: int = 0
    """Worker raylets that were seen with an actor of a pool, at one time."""

    def worker_nodes(self) -> list[int]:
        """Process ids of the worker raylets."""
        return [pid for pid, command in _processes(self.mark) if _is_worker_raylet(command)]

    def actors(self) -> list[int]:
        """Process ids of the pool's actors."""
        return [pid for pid, command in _processes(self.mark) if command[0].startswith("ray::MapWorker")]

    def at_work(self) -> set[int]:
        """Process ids of the worker raylets that have an actor of the pool. (The actors of a pool that has
        ended may still be there when the next one begins, so their number says less.)"""
        parents = set()
        for pid in self.actors():
            with contextlib.suppress(psutil.NoSuchProcess):
                parents.add(psutil.Process(pid).ppid())
        return parents.intersection(self.worker_nodes())

    def forget(self) -> None:
        """What is seen from here on is what counts."""
        self.nodes_seen, self.most_at_work = [len(self.worker_nodes())], 0

    def wait_for_nodes(self, number: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(self.worker_nodes()) != number:
            there = len(self.worker_nodes())
            assert time.monotonic() < deadline, f"{there} nodes, not {number}:\n{self.status()}"
            time.sleep(WATCH_SECONDS)

    def status(self) -> str:
        """What the autoscaler says of each node, and why it is not idle."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--verbose"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr


@contextlib.contextmanager
def autoscaling_cluster(max_workers: int = 3) -> Iterator[AutoscalingCluster]:
    """A head with no CPU, and one-CPU workers on demand. It is ended here, process by process."""
    folder = Path(tempfile.mkdtemp(prefix="hw", dir="/tmp"))  # sockets' paths must be short
    mark, (port,) = secrets.token_hex(8), free_ports(1)
    address = f"127.0.0.1:{port}"
    shared = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": address,
    }
    cluster = AutoscalingCluster(address, os.environ | shared, mark)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(cluster, stop), daemon=True)
    try:
        _start_head(folder, address, max_workers, os.environ | shared | {MARK: mark})
        watcher.start()
        yield cluster
    finally:
        stop.set()
        if watcher.is_alive():
            watcher.join()
        _end(mark)
        shutil.rmtree(folder, ignore_errors=True)


def _start_head(folder: Path, address: str, max_workers: int, environment: dict[str, str]) -> None:
    configuration = folder / "autoscaling.json"
    configuration.write_text(json.dumps(_configuration(address, max_workers)))
    metrics, dashboard, client = free_ports(3)
    environment = environment | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_raylet_start_wait_time_s": "120",  # two cores may be busy with other things
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(metrics),
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    environment.pop("RAY_ADDRESS")
    host, _, port = address.partition(":")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=0", "--num-gpus=0"]
    command += [f"--port={port}", f"--node-ip-address={host}", "--include-dashboard=false"]
    command += [f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--object-store-memory={STORE_BYTES}"]
    command += [f"--temp-dir={folder}", f"--autoscaling-config={configuration}", "--disable-usage-stats"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _configuration(address: str, max_workers: int) -> dict[str, object]:
    empty: tuple[str, ...] = ("setup_commands", "head_setup_commands", "worker_setup_commands")
    empty += ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")
    empty += ("cluster_synced_files", "rsync_exclude", "rsync_filter")
    return {name: [] for name in empty} | {
        "cluster_name": "headwater-test",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "max_workers": max_workers,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "upscaling_speed": max_workers,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "use_node_id_as_ip": True,
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": max_workers,
            },
        },
    }


def _watch(cluster: AutoscalingCluster, stop: threading.Event) -> None:
    while not stop.wait(WATCH_SECONDS):
        cluster.most_at_work = max(cluster.most_at_work, len(cluster.at_work()))
        number = len(cluster.worker_nodes())
        if not cluster.nodes_seen or cluster.nodes_seen[-1] != number:
            cluster.nodes_seen.append(number)


def _is_worker_raylet(command: list[str]) -> bool:
    return bool(command) and command[0].endswith("/raylet") and "--head" not in command


def _processes(mark: str) -> Iterator[tuple[int, list[str]]]:
    """Process id and command line of every process that carries the mark."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is not ours to look at
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    yield int(entry.name), command


def _end(mark: str) -> None:
    """Kill what carries the mark until nothing does: a process that is killed may have started another."""
    deadline = time.monotonic() + 30
    while pids := [pid for pid, _ in _processes(mark)]:
        assert time.monotonic() < deadline, f"processes {pids} do not end"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
