"""Training over several hosts equals training on one, even if a host is lost temporarily or permanently."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cluster import hosts as network
from tests.llm.models import save_model

pytestmark = [
    pytest.mark.soak,  # `make test` has test_trainer.py and test_sharding.py
    pytest.mark.skipif(bool(network.why_not()), reason=network.why_not()),
]

STEPS = 12
LIMIT = 280.0


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "steps": STEPS,
        "batch": 8,
        "micro_batch": 2,
        "workers": 3,
        "zero": {"stage": 3},
        "precision": "fp32",
        "checkpoint_every": 3,
        "learning_rate": 1e-2,
        "resize_interval_s": 3.0,
        **changes,
    }


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[network.Hosts]:
    with network.hosts(3, tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_model(tmp_path_factory.mktemp("start")).artifact.location)


class Driver:
    """A running `train_on_hosts`: what it left, and what was asked of it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def wait_for(self, name: str) -> None:
        """Wait for a file in the driver's folder; fails when the driver ends before."""
        deadline = time.monotonic() + LIMIT
        while not (self.folder / name).exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"no {name}\n{self.log()}"
            time.sleep(0.1)

    def result(self, run: str) -> dict[str, Any]:
        self.process.wait(LIMIT)
        assert self.process.returncode == 0, self.log()
        return dict(json.loads((self.folder / f"{run}.json").read_text()))

    def groups(self, run: str) -> list[tuple[int, str]]:
        """Of each worker group of a run, in order: its size and the host of its rank 0."""
        found = []
        for path in sorted((self.folder / run).glob("joined-*")):
            _, _, rank, size = path.name.split("-")
            if rank == "0":
                found.append((int(size), path.read_text()))
        return found

    def log(self) -> str:
        return (self.folder / "driver.log").read_text(errors="replace")[-6000:]


@contextlib.contextmanager
def driver(hosts: network.Hosts, model: Path, folder: Path, *runs: dict[str, Any]) -> Iterator[Driver]:
    address = f"{hosts.address(0)}:{network.PORT}"
    plan = {"address": address, "hosts": hosts.workers, "model": str(model), "folder": str(folder)}
    plan["runs"] = runs
    (folder / "plan.json").write_text(json.dumps(plan))
    module = "tests.cluster.train_on_hosts"
    with hosts.python(module, str(folder / "plan.json"), log=folder / "driver.log") as process:
        yield Driver(process, folder)


@pytest.fixture(scope="module")
def reference(hosts: network.Hosts, model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one worker on one host, without sharding."""
    folder = tmp_path_factory.mktemp("reference")
    alone = {"name": "alone", "config": settings(workers=1, zero={"stage": 0}, micro_batch=8)}
    with driver(hosts, model, folder, alone) as running:
        return list(running.result("alone")["losses"])


def test_three_hosts_train_as_one(
    hosts: network.Hosts, model: Path, reference: list[float], tmp_path: Path
) -> None:
    with driver(hosts, model, tmp_path, {"name": "together", "config": settings()}) as running:
        losses = running.result("together")["losses"]
    assert [size for size, _ in running.groups("together")] == [3]
    assert reference[-1] < reference[0] - 0.1
    np.testing.assert_allclose(losses, reference, rtol=1e-5)


def test_training_continues_without_a_disconnected_host_and_readmits_it(
    hosts: network.Hosts, model: Path, reference: list[float], tmp_path: Path
) -> None:
    run = {"name": "returns", "config": settings(min_workers=2), "wait_at": 6, "full_house_at": 9}
    with driver(hosts, model, tmp_path, run) as running:
        running.wait_for("returns/waiting-0")
        lost = host_of_rank(hosts, tmp_path / "returns", 0)
        hosts.cut(lost)
        (tmp_path / "returns" / "go").touch()
        try:
            running.wait_for("returns/short-handed")
        finally:
            hosts.mend(lost)
        result = running.result("returns")
    assert [size for size, _ in running.groups("returns")] == [3, 2, 3]
    np.testing.assert_allclose(result["losses"], reference, rtol=1e-5)
    assert f"lost the host of rank 0 ({hosts.address(lost)})" in result["said"]
    # The checkpoint of step 6 counts once Ray Train's controller has heard of it, within a second or so.
    assert re.search(r"resumes from step [36] with 2 workers", result["said"])
    assert "resumes from step 9 with 3 workers" in result["said"]


def test_a_run_whose_host_is_lost_finishes_on_the_remaining_hosts(
    hosts: network.Hosts, model: Path, reference: list[float], tmp_path: Path
) -> None:
    run = {"name": "gone", "config": settings(min_workers=1), "wait_at": 6}
    with driver(hosts, model, tmp_path, run) as running:
        running.wait_for("gone/waiting-2")
        lost = host_of_rank(hosts, tmp_path / "gone", 2)
        hosts.cut(lost)
        (tmp_path / "gone" / "go").touch()
        result = running.result("gone")
    assert [size for size, _ in running.groups("gone")] == [3, 2]
    np.testing.assert_allclose(result["losses"], reference, rtol=1e-5)
    assert f"lost the host of rank 2 ({hosts.address(lost)})" in result["said"]


def host_of_rank(hosts: network.Hosts, signs: Path, rank: int) -> int:
    (joined,) = signs.glob(f"joined-*-{rank}-3")
    return next(n for n in range(1, hosts.workers + 1) if hosts.address(n) == joined.read_text())
