"""Pauses between requests: never shorter than asked for, whichever event loop runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from headwater.data_pipeline.crawl.fetch import sleep_until


@pytest.mark.parametrize("make", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_nobody_wakes_too_early(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def early() -> int:
        count = 0
        for _ in range(50):
            at = time.monotonic() + 0.0034
            await sleep_until(at)
            count += time.monotonic() < at
        return count

    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(early()) == 0
