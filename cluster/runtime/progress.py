"""What the person in front of the screen sees while work goes on: a rate and the time left.

On a terminal a live bar; elsewhere (a log, CI) a plain line every few seconds. Workers report
through a small Ray actor, so that a bar moves for work that happens in other processes.
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
"""Told of every step, beside the screen."""
PLAIN_LINE_SECONDS = 5.0
POLL_SECONDS = 0.5


class RateColumn(ProgressColumn):
    """Units a second since the work began."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text("" if rate is None else f"{rate:,.1f} {unit}/s", style="cyan")


class Bar:
    """One piece of work being counted. `advance` and `update` may be called from any thread."""

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
        """Count what an earlier run finished without letting it flatter the rate."""
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
    """A bar for work done in this process."""
    shown = Bar(console, label, total, unit, listener)
    try:
        yield shown
    finally:
        shown.close()


class Board:
    """The Ray actor behind `remote_bar`: holds the last report of the workers, and what there is to say."""

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
        """Something that happened, to be shown once and kept in the log."""
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
    """A bar for work done elsewhere; yields the handle of the actor that workers report to.

    What is said to it (`board.say.remote(line)`) goes to `say`, in this process.
    """
    import ray

    # On this node: the loss of any other must not take the board along.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    board: Any = ray.remote(num_cpus=0, label_selector=here)(Board).remote()
    stop = threading.Event()

    def follow(shown: Bar) -> None:
        resumed_seen, heard, last = None, 0, False
        while not last:
            last = stop.wait(POLL_SECONDS)
            try:
                done, note, resumed = ray.get(board.read.remote(), timeout=10)
                lines = ray.get(board.lines.remote(heard), timeout=10)
            except ray.exceptions.RayError:  # the cluster is going away: its own error will be raised
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
            thread.join(timeout=POLL_SECONDS + 11)
            ray.kill(board)
