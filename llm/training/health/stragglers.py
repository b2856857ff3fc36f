"""Slow ranks: each rank's compute time on its own share, compared over the last steps."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


WINDOW = 20
"""Steps over which ranks are compared."""


SLOW = 1.5
"""A rank is slow above this many times the median."""


class Stopwatch:
    """A rank's own compute time: its forward passes, before ranks wait for each other.

    Under ZeRO 3 the forward passes wait for parameters too: there CPU workers count processor time.
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
        """Total seconds; synchronises with the GPU."""
        if not self._cuda:
            return self._seconds
        self._events[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3


class Pace:
    """Compute seconds by rank over the last steps. Used on rank 0."""

    def __init__(self) -> None:
        self._steps: deque[Sequence[float]] = deque(maxlen=WINDOW)
        self._named: set[int] = set()

    def add(self, seconds: Sequence[float]) -> list[tuple[int, float]]:
        """Add one step's seconds per rank. Returns ranks that became slow, with their ratio to the median."""
        self._steps.append(seconds)
        if len(self._steps) < WINDOW or len(seconds) < 2:
            return []
        slow = stragglers([statistics.median(rank) for rank in zip(*self._steps, strict=True)])
        new = [(rank, times) for rank, times in slow if rank not in self._named]
        self._named = {rank for rank, _ in slow}
        return new


def stragglers(seconds: Sequence[float]) -> list[tuple[int, float]]:
    """Ranks slower than SLOW times the (lower) median, with their ratio."""
    usual = statistics.median_low(seconds)
    return [(rank, own / usual) for rank, own in enumerate(seconds) if usual > 0 and own > SLOW * usual]
