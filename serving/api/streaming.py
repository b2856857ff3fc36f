"""Responses that are streams of server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi.responses import StreamingResponse

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
QUIET_SECONDS = 5.0
"""Longest silence of a stream. Proxies close one that is silent for long: nginx after 60 s."""
COMMENT = ": waiting\n\n"
"""A line that clients skip."""


def stream(events: AsyncGenerator[str, None]) -> StreamingResponse:
    return StreamingResponse(never_quiet(events), media_type="text/event-stream", headers=HEADERS)


async def never_quiet(events: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    """The events, with comments where none comes for `QUIET_SECONDS`."""
    coming: asyncio.Task[str | None] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(events))
            await asyncio.wait([coming], timeout=QUIET_SECONDS)
            if not coming.done():
                yield COMMENT
                continue
            done, coming = coming, None
            if (event := done.result()) is None:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await coming
        await events.aclose()


async def _next(events: AsyncGenerator[str, None]) -> str | None:
    return await anext(events, None)
