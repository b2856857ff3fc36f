"""Results in memory for some time; who asks for one that is being made waits for it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class _Making(Generic[V]):
    def __init__(self, task: asyncio.Task[V]) -> None:
        self.task, self.waiting = task, 0


class Cache(Generic[V]):
    """At most `size` results, each for `seconds`. Errors are not kept. Belongs to one event loop."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds, self._size = seconds, size
        self._kept: OrderedDict[str, tuple[float, V]] = OrderedDict()
        self._making: dict[str, _Making[V]] = {}

    async def get(self, key: str, make: Callable[[], Awaitable[tuple[V, bool]]]) -> V:
        """The result for a key. `make` returns it, and whether it may be kept; it is cancelled when nobody
        waits for it any more."""
        if (kept := self._kept.get(key)) is not None:
            if time.monotonic() < kept[0]:
                self._kept.move_to_end(key)
                return kept[1]
            del self._kept[key]
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(asyncio.create_task(self._make(key, make)))
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.waiting -= 1
            if not making.waiting and not making.task.done():
                making.task.cancel()
                self._forget(key, making)

    async def _make(self, key: str, make: Callable[[], Awaitable[tuple[V, bool]]]) -> V:
        making = self._making[key]
        try:
            value, keep = await make()
        finally:
            self._forget(key, making)
        if keep and self._seconds:
            self._kept[key] = (time.monotonic() + self._seconds, value)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value

    def _forget(self, key: str, making: _Making[V]) -> None:
        if self._making.get(key) is making:
            del self._making[key]
