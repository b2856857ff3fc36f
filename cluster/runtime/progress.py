"""Progress display: completed units, rate and time left.

A live bar on a terminal; a plain line every few seconds elsewhere (a log, CI). Workers in other
processes report through a small Ray actor.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from headwater.cluster.runtime.run_record import Progress as ProgressRecord

Listener = Callable[[ProgressRecord], None]
"""Receives every progress update, in addition to the screen."""
PLAIN_LINE_SECONDS = 5.0
POLL_SECONDS = 0.5
READ_SECONDS = 10.0
"""A read that takes longer is made again: the actor starts, or the machine is busy."""


class RateColumn(ProgressColumn):
    """Units per second since the work began."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text("" if rate is None else f"{rate:,.1f} {unit}/s", style="cyan")


class Bar:
    """Progress of one piece of work. `advance` and `update` are thread-safe."""

    def __init__(self, console: Console, label: str, total: int, unit: str, listener: Listener) -> None:
        self._console, self.label, self.total, self.unit = console, label, total, unit
        self._listener = listener
        self.done, self.note = 0, ""
        self._first = 0
        self._started = self._printed = time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
                RateColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
                console=console,
                transient=True,
            )
            self._task = self._live.add_task(label, total=total, unit=unit, note="")
            self._live.start()

    def resume_at(self, done: int) -> None:
        """Set the count that an earlier run reached. It does not enter the rate."""
        self.done = self._first = done
        self._started = time.monotonic()
        if self._live:
            self._live.reset(self._task, completed=done)

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        self.update(self.done + amount, note)

    def update(self, done: int, note: str | None = None) -> None:
        self.done = done
        self.note = self.note if note is None else note
        self._listener(
            ProgressRecord(
                label=self.label,
                done=self.done,
                total=self.total,
                unit=self.unit,
                note=self.note,
                rate=self._rate(),
            )
        )
        if self._live:
            self._live.update(self._task, completed=done, note=self.note)
        elif time.monotonic() - self._printed > PLAIN_LINE_SECONDS:
            self._printed = time.monotonic()
            self._console.print(f"  {self._plain_line()}", highlight=False)

    def _rate(self) -> float:
        elapsed = time.monotonic() - self._started
        return (self.done - self._first) / elapsed if elapsed > 0 else 0.0

    def _plain_line(self) -> str:
        rate = self._rate()
        left = f", {max(self.total - self.done, 0) / rate:,.0f} s left" if rate else ""
        note = f"  {self.note}" if self.note else ""
        return f"{self.label} {self.done:,}/{self.total:,} {self.unit}, {rate:,.1f}/s{left}{note}"

    def close(self) -> None:
        if self._live:
            self._live.stop()


@contextlib.contextmanager
def bar(
    console: Console, label: str, total: int, unit: str, listener: Listener = lambda progress: None
) -> Iterator[Bar]:
    """Progress bar for work in this process."""
    shown = Bar(console, label, total, unit, listener)
    try:
        yield shown
    finally:
        shown.close()


class Board:
    """Ray actor behind `remote_bar`: holds the workers' last report and their messages."""

    def __init__(self) -> None:
        self._done, self._note = 0, ""
        self._resumed: int | None = None
        self._lines: list[str] = []

    def report(self, done: int, note: str = "", resumed: int | None = None) -> None:
        self._done, self._note = done, note
        if resumed is not None:
            self._resumed = resumed

    def read(self) -> tuple[int, str, int | None]:
        return self._done, self._note, self._resumed

    def say(self, line: str) -> None:
        """Add a message, which the driver prints and logs once."""
        self._lines.append(line)

    def lines(self, first: int = 0) -> list[str]:
        return self._lines[first:]


@contextlib.contextmanager
def remote_bar(
    console: Console,
    label: str,
    total: int,
    unit: str,
    say: Callable[[str], None],
    listener: Listener = lambda progress: None,
) -> Iterator[Any]:
    """Progress bar for work in other processes; yields the handle of the actor that workers report to.

    Messages (`board.say.remote(line)`) are passed to `say` in this process.
    """
    import ray

    # On this node, so that the board survives the loss of any other node.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    board: Any = ray.remote(num_cpus=0, label_selector=here)(Board).remote()
    stop = threading.Event()

    def follow(shown: Bar) -> None:
        resumed_seen, heard, last = None, 0, False
        while not last:
            last = stop.wait(POLL_SECONDS)
            try:
                done, note, resumed = ray.get(board.read.remote(), timeout=READ_SECONDS)
                lines = ray.get(board.lines.remote(heard), timeout=READ_SECONDS)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:  # the cluster is shutting down and raises its own error
                return
            for line in lines:
                say(line)
            heard += len(lines)
            if resumed is not None and resumed != resumed_seen:
                resumed_seen = resumed
                shown.resume_at(resumed)
            shown.update(done, note)

    with bar(console, label, total, unit, listener) as shown:
        thread = threading.Thread(target=follow, args=(shown,), daemon=True)
        thread.start()
        try:
            yield board
        finally:
            stop.set()
            thread.join(timeout=POLL_SECONDS + READ_SECONDS + 1)
            ray.kill(board)
