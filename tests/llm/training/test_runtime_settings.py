"""What the loop does beside training: garbage, traces, goodput, and how often it waits for its GPU."""

from __future__ import annotations

import gc
import gzip
import json
import math
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.training import exchange, job, loop
from headwater.llm.training.health import nan_guard, stragglers
from headwater.llm.training.health.pauses import collected_every
from headwater.llm.training.losses import objectives
from headwater.llm.training.telemetry.goodput import BEGAN, Goodput, note_beginning
from headwater.llm.training.telemetry.records import read_history
from tests.llm.jobs import run_job
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import make


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


def test_garbage_is_collected_at_the_steps_that_say_so_and_at_no_other_time() -> None:
    with collected_every(3) as collect:
        assert not gc.isenabled()
        knot = weakref.ref(Knot())
        collect(4)
        assert knot() is not None
        collect(6)
        assert knot() is None
    assert gc.isenabled()
    with collected_every(0):
        assert gc.isenabled()


def test_goodput_counts_the_steps_of_this_stage_that_changed_the_weights(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    before = [{"step": 0, "loss": 1.0, "seconds": 50.0}]  # of the artifact that this one goes on from
    note_beginning(output, 1)
    began = output.read_json(BEGAN)
    output.write_json(BEGAN, began | {"time": began["time"] - 100})
    own = [
        {"step": 1, "loss": 1.0, "seconds": 20.0},
        {"step": 2, "loss": math.nan, "seconds": 20.0, "skipped": 1.0},
        {"step": 3, "loss": 2.0, "seconds": 20.0, "skipped": 1.0},
    ]
    resumed = Goodput(output, before + own)  # by another group of workers: the beginning stays
    found = resumed.add({"step": 4, "loss": 1.0, "seconds": 30.0})
    elapsed = time.time() - began["time"] + 100
    assert found == pytest.approx(50 / elapsed, rel=0.05)


def traced(folder: Path) -> None:
    settings: dict[str, Any] = {"steps": 5, "profile": {"first": 1, "steps": 2}, "gc_every": 2}
    run_job(folder / "run", Rows(8), folder / "screen", **settings)
    assert gc.isenabled()


def test_a_traced_run_writes_one_trace_and_says_its_goodput_at_each_step(tmp_path: Path) -> None:
    on_ranks(1, traced, tmp_path)
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    assert trace.name == "steps-00000001-00000002.rank-00000.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name") == "Optimizer.step#AdamW.step"]
    assert len(steps) == 2 * 3  # ZeRO 2 updates one group of parameters after another
    records = read_history(Artifact(str(tmp_path / "run")))
    assert len(records) == 5 and all(0 < record["goodput"] <= 1 for record in records)


WAITS = ("tolist", "item", "__float__", "__int__", "__bool__")
OURS = {module.__file__ for module in (loop, exchange, job, nan_guard, objectives, stragglers)}


def waits_of_a_step() -> None:
    """Reads of tensors by our own code. `weight` reads the batch while it is still the host's."""
    found: list[str] = []

    def noted(name: str) -> Any:
        read = getattr(torch.Tensor, name)

        def method(self: torch.Tensor) -> Any:
            caller = sys._getframe(1).f_code
            if caller.co_filename in OURS and caller.co_name != "weight":
                found.append(f"{caller.co_name} {name}")
            return read(self)

        return method

    for name in WAITS:
        setattr(torch.Tensor, name, noted(name))
    for precision, stage in (("bf16", 2), ("fp32", 3)):
        trained, worker = make("adamw", stage, precision=precision, micro_batch=2)
        found.clear()
        loop.train_step(trained, worker, 0)
        assert found == ["means tolist"], (precision, stage, found)
        trained.check = lambda step, means: None
        loop.train_step(trained, worker, 1)
        assert found == ["means tolist"] * 3, "a check before the update has to wait for the loss"


def test_a_step_waits_for_its_gpu_once() -> None:
    on_ranks(2, waits_of_a_step)
