"""Ranks that hold the others up: the slow ones named, the standing ones photographed.

A group of workers is as fast as its slowest. `Pace` compares how long each rank computed on its own share;
a `Watchdog` on every rank notices that no step has ended for too long, and leaves the stacks of all its
threads before the time limit of the exchange (`collective_timeout_s`) takes the processes away.
"""

from __future__ import annotations

import faulthandler
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact

if TYPE_CHECKING:
    import torch

    from llm.job import Worker

WINDOW = 20
"""Steps over which ranks are compared."""
SLOW = 1.5
"""So many times the median of the ranks is slow."""
SHARE_OF_TIMEOUT = 0.8
STACKS = "stacks"
GATHERING_SECONDS = 1.5
"""How long after the first rank the others have for their stacks; all watch the same clock."""


class Stopwatch:
    """How long a rank computes by itself: the forward passes, before ranks wait for each other.

    Under ZeRO 3 they also wait in these, for parameters: there the processor's time counts, on the CPU.
    """

    def __init__(self, device: torch.device, zero_stage: int) -> None:
        self._cuda = device.type == "cuda"
        self._clock = time.perf_counter if zero_stage < 3 else time.thread_time
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._started = self._clock()
        if self._cuda:
            self._events.append((self._mark(), None))

    def __exit__(self, *_: Any) -> None:
        self._seconds += self._clock() - self._started
        if self._cuda:
            self._events[-1] = (self._events[-1][0], self._mark())

    def _mark(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """In all; a GPU is waited for."""
        if not self._cuda:
            return self._seconds
        self._events[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3


class Pace:
    """Seconds of own computation by rank, over the last steps. Rank 0's."""

    def __init__(self) -> None:
        self._steps: deque[Sequence[float]] = deque(maxlen=WINDOW)
        self._named: set[int] = set()

    def add(self, seconds: Sequence[float]) -> list[tuple[int, float]]:
        """Of each rank at one step. Returns who has become slow, with how many times the median."""
        self._steps.append(seconds)
        if len(self._steps) < WINDOW or len(seconds) < 2:
            return []
        slow = stragglers([statistics.median(rank) for rank in zip(*self._steps, strict=True)])
        new = [(rank, times) for rank, times in slow if rank not in self._named]
        self._named = {rank for rank, _ in slow}
        return new


def stragglers(seconds: Sequence[float]) -> list[tuple[int, float]]:
    """Ranks that take more than SLOW times the (lower) median, and how many times it."""
    usual = statistics.median_low(seconds)
    return [(rank, own / usual) for rank, own in enumerate(seconds) if usual > 0 and own > SLOW * usual]


class Watchdog:
    """A thread that expects `beat` at every step. A context manager."""

    def __init__(self, worker: Worker, output: Artifact, patience: float) -> None:
        """`patience`: seconds without a beat."""
        self.rank, self.world_size, self._say = worker.rank, worker.world_size, worker.say
        self.output, self.patience = output, patience
        self._step = 0
        self._beat = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=1)

    def beat(self, step: int) -> None:
        """A step has ended, and `step` begins."""
        self._step, self._beat = step, time.monotonic()

    def _watch(self) -> None:
        reported = 0.0
        while not self._stop.wait(min(1.0, self.patience / 10)):
            beat = self._beat
            if beat != reported and time.monotonic() - beat > self.patience:
                reported = beat  # once each time
                self._report()

    def _report(self) -> None:
        folder = f"{STACKS}/step-{self._step:08d}"
        name = f"{folder}/rank-{self.rank:05d}.txt"
        stacks = stack_dump()
        self.output.write_bytes(name, f"rank {self.rank}: {doing(stacks)}\n\n{stacks}".encode())
        self._stop.wait(GATHERING_SECONDS)
        here = self.output.files(folder)
        if here and here[0] == name:  # the first of those that can speak, speaks
            self._say(
                f"step {self._step} has not ended after {time.monotonic() - self._beat:.0f} s: "
                f"{self._states(here)}; stacks in {self.output.path(folder)}"
            )

    def _states(self, files: list[str]) -> str:
        """What each rank does, and who is so stuck that it left nothing."""
        lines = [self.output.read_bytes(name).split(b"\n", 1)[0].decode() for name in files]
        spoke = {int(name.rsplit("-", 1)[1].removesuffix(".txt")) for name in files}
        silent = [str(rank) for rank in range(self.world_size) if rank not in spoke]
        return ", ".join(lines + ([f"nothing from rank {', '.join(silent)}"] if silent else []))


def stack_dump() -> str:
    """The stacks of all threads of this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def doing(stacks: str) -> str:
    """What the thread that trains is at: `waiting for the others`, or its innermost call.

    A stack begins with its innermost call; the training thread's is the one that goes through our loop.
    """
    for stack in stacks.split("\n\n"):
        if "train_step" in stack or "_worker_loop" in stack:
            calls = [line.strip() for line in stack.splitlines() if line.strip().startswith("File ")]
            if any("torch/distributed/" in call or "deepspeed/comm/" in call for call in calls[:4]):
                return "waiting for the others"
            file, line, function = calls[0].split(", ", 1)[0], *calls[0].split(", ", 1)[1].split(" in ")
            return f"in {function} ({Path(file.split(chr(34))[1]).name} {line})"
    return "not in a step"
