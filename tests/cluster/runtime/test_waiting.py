"""A stage without room says what it waits for, and who has it."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from headwater.cluster.runtime.needs import Need
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig, execute
from headwater.cluster.runtime.waiting import Demand, describe
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store


class Holder:
    def here(self) -> bool:
        return True


class Waits(Stage[StageConfig]):
    """Two actors hold a CPU and a half; a group of two CPUs then waits until `enough` was said."""

    name = "waits"

    def __init__(self, enough: Callable[[], bool], group: list[dict[str, float]]) -> None:
        super().__init__(StageConfig())
        self.enough, self.group = enough, group

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        make: Any = ray.remote(num_cpus=0.75)(Holder)
        holders = [make.remote() for _ in range(2)]
        ray.get([holder.here.remote() for holder in holders])
        group = ray.util.placement_group(self.group)
        end = time.monotonic() + 60
        try:
            while not self.enough() and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            ray.util.remove_placement_group(group)
            for holder in holders:
                ray.kill(holder)
        return {}


def test_a_stage_without_room_says_repeatedly_what_is_wanted_there_and_in_use(
    ray_cluster: None, tmp_path: Path
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    said = re.compile(
        r"waits waits for 1\.5 CPUs: 3\.5 CPUs wanted, 2 CPUs there; in use: 1\.5 CPUs by Holder \(2\)"
    )
    with Session(Store(str(tmp_path)), console=console, patience=1.0) as session:
        stage = Waits(lambda: len(said.findall(screen.getvalue())) >= 2, [{"CPU": 1}, {"CPU": 1}])
        started = time.monotonic()
        execute(stage, {}, session)
        lines = said.findall(screen.getvalue())
    assert len(lines) == 2, screen.getvalue()
    assert len(lines) <= (time.monotonic() - started) / session.patience  # sparsely


def test_a_stage_that_makes_progress_or_has_room_says_nothing(ray_cluster: None, tmp_path: Path) -> None:
    screen = io.StringIO()
    with Session(Store(str(tmp_path)), console=Console(file=screen, width=200), patience=1.0) as session:
        began = time.monotonic()
        with session.progress("work", 1000, "rows") as shown:

            def busy() -> bool:
                shown.advance()
                return time.monotonic() - began > 2.5

            execute(Waits(busy, [{"CPU": 1}, {"CPU": 1}]), {}, session, redo=True)
        began = time.monotonic()
        execute(Waits(lambda: time.monotonic() - began > 2.5, [{"CPU": 0.5}]), {}, session, redo=True)
    assert "waits for" not in screen.getvalue()


def test_what_has_room_is_only_starting() -> None:
    assert describe("rl", Demand({"Holder": [Need(1)]}, [Need(1)]), [Need(2)]) == ""
    assert describe("rl", Demand({"Holder": [Need(2)]}, []), [Need(2)]) == ""


def test_a_missing_gpu_and_room_in_pieces_are_told_apart() -> None:
    pieces = describe("rl", Demand({"another job": [Need(2), Need(2)]}, [Need(2)]), [Need(3), Need(3)])
    assert pieces == (
        "rl waits for 2 CPUs on one node: 6 CPUs wanted, 6 CPUs there; in use: 4 CPUs by another job (2)"
    )
    gpu = describe("sft", Demand({}, [Need(1, 1)]), [Need(4)])
    assert gpu == "sft waits for 1 GPU: 1 CPU and 1 GPU wanted, 4 CPUs there; in use: nothing"
