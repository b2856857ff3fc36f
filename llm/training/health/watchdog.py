"""Detects hangs: the stack traces of all ranks are saved when a step does not end.

A `Watchdog` on every rank notices that no step has ended for too long, and dumps the stacks of all its
threads before the collective timeout (`collective_timeout_s`) ends the processes. Slow ranks are reported by
`stragglers`.
"""

from __future__ import annotations

import faulthandler
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cluster.storage.artifact import Artifact

if TYPE_CHECKING:
    from headwater.llm.training.job import Worker

SHARE_OF_TIMEOUT = 0.8
STACKS = "stacks"
GATHERING_SECONDS = 1.5
"""Time for the other ranks to write their stacks after the first; all watch the same clock."""


class Watchdog:
    """A thread that expects a `beat` every step. A context manager."""

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
        """Report that a step has ended and `step` begins."""
        self._step, self._beat = step, time.monotonic()

    def _watch(self) -> None:
        reported = 0.0
        while not self._stop.wait(min(1.0, self.patience / 10)):
            beat = self._beat
            if beat != reported and time.monotonic() - beat > self.patience:
                reported = beat  # once per hang
                self._report()

    def _report(self) -> None:
        folder = f"{STACKS}/step-{self._step:08d}"
        name = f"{folder}/rank-{self.rank:05d}.txt"
        stacks = stack_dump()
        self.output.write_bytes(name, f"rank {self.rank}: {doing(stacks)}\n\n{stacks}".encode())
        self._stop.wait(GATHERING_SECONDS)
        here = self.output.files(folder)
        if here and here[0] == name:  # the first rank that responds reports
            self._say(
                f"step {self._step} has not ended after {time.monotonic() - self._beat:.0f} s: "
                f"{self._states(here)}; stacks in {self.output.path(folder)}"
            )

    def _states(self, files: list[str]) -> str:
        """What each rank is doing, and which ranks left no stacks."""
        lines = [self.output.read_bytes(name).split(b"\n", 1)[0].decode() for name in files]
        spoke = {int(name.rsplit("-", 1)[1].removesuffix(".txt")) for name in files}
        silent = [str(rank) for rank in range(self.world_size) if rank not in spoke]
        return ", ".join(lines + ([f"no response from rank {', '.join(silent)}"] if silent else []))


def stack_dump() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def doing(stacks: str) -> str:
    """What the training thread is doing: `waiting for the others`, or its innermost call.

    Stacks list the innermost call first; the training thread is the one with our loop in its stack.
    """
    for stack in stacks.split("\n\n"):
        if "train_step" in stack or "_worker_loop" in stack:
            calls = [line.strip() for line in stack.splitlines() if line.strip().startswith("File ")]
            if any("torch/distributed/" in call or "deepspeed/comm/" in call for call in calls[:4]):
                return "waiting for the others"
            file, line, function = calls[0].split(", ", 1)[0], *calls[0].split(", ", 1)[1].split(" in ")
            return f"in {function} ({Path(file.split(chr(34))[1]).name} {line})"
    return "not in a step"
