"""Responses that are streams of server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from fastapi.responses import StreamingResponse
from starlette.types import Send

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
QUIET_SECONDS = 5.0
"""Longest silence of a stream. Proxies close one that is silent for long: nginx after 60 s."""
MOST_JOINED = 256
"""Events in one message."""
COMMENT = ": waiting\n\n"
"""A line that clients skip."""


class EventStream(StreamingResponse):
    """A response whose last event ends its body, in one message: a client that has read it to `[DONE]` may
    ask again at once, for its place is free (`door.Door`)."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__((), media_type="text/event-stream", headers=HEADERS)
        self._events = never_quiet(events)

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event, more in self._events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": more})


async def never_quiet(events: AsyncGenerator[str, None]) -> AsyncGenerator[tuple[str, bool], None]:
    """The events, those that come together joined, each time with whether more follow, and comments where
    none comes for `QUIET_SECONDS`.

    An empty event comes last where the end of `events` takes longer to come than one turn of the loop.
    """
    coming = asyncio.create_task(_next(events))
    try:
        while True:
            await asyncio.wait([coming], timeout=QUIET_SECONDS)
            if not coming.done():
                yield COMMENT, True
                continue
            ready, more = list[str](), True
            while more and coming.done() and len(ready) < MOST_JOINED and not (ready and coming.exception()):
                if more := (event := coming.result()) is not None:
                    ready.append(event)
                    coming = asyncio.create_task(_next(events))
                    await asyncio.sleep(0)  # the next one, or the end, is there now if it came together
            yield "".join(ready), more
            if not more:
                return
    finally:
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await coming
        await events.aclose()


async def _next(events: AsyncGenerator[str, None]) -> str | None:
    return await anext(events, None)
