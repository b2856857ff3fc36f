"""From the thread that makes an answer to the event loop that sends it, several events at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Events that a thread puts in, and the event loop takes out. Made in that loop."""

    def __init__(self, pause: Callable[[], float], after: Callable[[T], bool]) -> None:
        """`pause`: shortest time between two batches of events, in seconds, but for the last one. Pauses
        begin behind the first event of which `after` is true."""
        self._pause, self._after, self._loop = pause, after, asyncio.get_running_loop()
        self._lock, self._held, self._told = threading.Lock(), list[T](), False
        self._filled, self._closed = asyncio.Event(), asyncio.Event()
        self._error: BaseException | None = None

    def put(self, event: T) -> None:
        """For any thread."""
        with self._lock:
            self._held.append(event)
            first, self._told = not self._told, True
        if first:
            self._loop.call_soon_threadsafe(self._filled.set)

    def close(self, error: BaseException | None = None) -> None:
        """For any thread: nothing follows. `error` is raised behind the last event."""
        self._error = error
        self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._filled.set()
        self._closed.set()

    async def batches(self) -> AsyncIterator[list[T]]:
        """All events that are ready, each time some."""
        pausing = False
        while True:
            await self._filled.wait()
            closed = self._closed.is_set()
            self._filled.clear()
            with self._lock:
                events, self._held, self._told = self._held, [], False
            if events:
                pausing = pausing or any(map(self._after, events))
                yield events
            if closed:
                if self._error is not None:
                    raise self._error
                return
            if pausing:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._closed.wait()
