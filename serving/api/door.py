"""The door: what stands in Serve's HTTP proxy before a request enters Ray.

A request costs the proxy and the ingress several milliseconds of CPU time each. Under overload these queue
up, and a refusal by the ingress comes as late as an answer. The door refuses in the proxy's process, at a
small part of that. Each proxy loads it by `CALLBACK`, Serve's hook for ASGI middlewares.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from headwater.serving import traces
from headwater.serving.api.limits import SECURITY_HEADERS, Receive, cors, overloaded, read_body
from headwater.serving.errors import ApiError

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
LIMITS = "HEADWATER_DOOR"
"""Environment variable: a JSON list of the arguments of `environment`."""
ANSWERED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
"""Paths whose requests wait for the model."""
HEALTH = frozenset({"/health", "/healthz"})
METRICS = "/metrics"
QUIET_TURNS = 4
"""Turns of the event loop without a request, after which none waits: uvloop accepts one connection a turn,
and its request is read some turns later."""
PATIENCE_SECONDS = 0.05
"""Longest wait of a request that is let in for those that come meanwhile."""
HEALTH_SECONDS = 0.1
"""Time that the application has to say how it is, before its last answer is told."""
FRESH_SECONDS = 10.0
"""Greatest age of that answer: about the period of a probe."""
Send = Callable[[Any], Awaitable[None]]


class Door:
    """ASGI middleware: status 429 for one request too many, 413 for a body too large, 408 for one too slow.

    One request too many is known by its path and refused before its body is read. What is let in enters the
    application one at a time and lets others go first, as long as they come: Serve needs milliseconds for
    each, for which no refusal waits.

    Health is asked for once at a time. Where its answer takes long, the last one is told, if it is fresh.
    The application's metrics get one more: how many requests the door of this proxy has refused.
    """

    def __init__(self, app: Any, most: int, max_body_bytes: int) -> None:
        """`most`: requests to `ANSWERED` that may be inside at a time."""
        self._app, self._most, self._max_body_bytes = app, most, max_body_bytes
        self._inside, self._turn = 0, asyncio.Lock()
        self._came = 0
        self._refused: collections.Counter[int] = collections.Counter()
        self._health = Health(app)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in HEALTH and scope["method"] == "GET":
            await _send_all(await self._health.answer(scope), send)
            return
        if scope["type"] == "http" and scope["path"] == METRICS and scope["method"] == "GET":
            await _send_all(_with_more(await _answer(self._app, scope), self._metrics()), send)
            return
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._came += 1
        if not (span := traces.entry(scope)).is_recording():
            if scope["path"] in ANSWERED and self._full:
                self._refused[429] += 1
                await _send_all(FULL, send)
                return
            await self._enter(scope, receive, send)
            return
        try:
            with traces.within(span):
                await self._enter(traces.below(scope, span), receive, traces.telling(span, send))
        finally:
            span.end()

    async def _enter(self, scope: Any, receive: Receive, send: Send) -> None:
        counted = scope["path"] in ANSWERED
        try:
            with traces.spanned("door"):
                self._check(counted)
                declared = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
                body = await read_body(receive, declared, self._max_body_bytes)
                self._check(counted)  # others came while this one was read
        except ApiError as error:
            self._refused[error.status] += 1
            await _send_all(_refusal(error), send)
            return
        except ClientDisconnect:
            return
        inside = counted

        async def leaving(message: Any) -> None:
            nonlocal inside
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._inside -= inside  # whoever has the last byte may ask again
                inside = False
            await send(message)

        self._inside += inside
        try:
            async with self._turn:
                await self._quiet()  # what has come meanwhile is read and refused first
            await self._app(scope, _again(body, receive), leaving)
        finally:
            self._inside -= inside

    async def _quiet(self) -> None:
        """Wait until no request has come for `QUIET_TURNS`, but no longer than `PATIENCE_SECONDS`."""
        until, turns = time.monotonic() + PATIENCE_SECONDS, 0
        while turns < QUIET_TURNS and time.monotonic() < until:
            came = self._came
            await asyncio.sleep(0)
            turns = turns + 1 if came == self._came else 0

    def _check(self, counted: bool) -> None:
        if counted and self._full:
            raise overloaded()

    @property
    def _full(self) -> bool:
        return self._inside >= self._most

    def _metrics(self) -> bytes:
        """In Prometheus' text format."""
        lines = ["# HELP headwater_refused_total Requests that the proxy refused, by status"]
        lines.append("# TYPE headwater_refused_total counter")
        lines += [
            f'headwater_refused_total{{status="{status}"}} {count}'
            for status, count in sorted(self._refused.items())
        ]
        return "".join(f"{line}\n" for line in lines).encode()


class Health:
    """What the application says of its health. Under load that takes seconds: it asks Serve's controller."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._asked: asyncio.Task[list[Any]] | None = None
        self._host = b""
        self._last: tuple[float, list[Any]] = (-math.inf, [])

    async def answer(self, scope: Any) -> list[Any]:
        """The messages of the response: new ones if they come within `HEALTH_SECONDS`, or the last ones, if
        these are less than `FRESH_SECONDS` old and of the same name of the host."""
        host = dict(scope["headers"]).get(b"host", b"")
        if host != self._host or self._asked is None or self._asked.done():
            self._host, self._last = host, self._last if host == self._host else (-math.inf, [])
            self._asked = asyncio.create_task(_answer(self._app, scope))
        asked = self._asked
        await asyncio.wait([asked], timeout=HEALTH_SECONDS)
        told, messages = self._last
        if not asked.done() and time.monotonic() - told < FRESH_SECONDS:
            return messages
        messages = await asyncio.shield(asked)
        if host == self._host:
            self._last = (time.monotonic(), messages)
        return messages


async def _answer(app: Any, scope: Any) -> list[Any]:
    """The messages of the application's response to a request without a body."""
    messages: list[Any] = []
    requests: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return requests.pop() if requests else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    await app(traces.untraced(scope), receive, send)
    return messages


def _with_more(messages: list[Any], more: bytes) -> list[Any]:
    """A response with some bytes after its body, if it has succeeded."""
    start, *parts = messages
    if start["status"] != 200:
        return messages
    body = b"".join(part.get("body", b"") for part in parts) + more
    others = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    return [
        {**start, "headers": [*others, (b"content-length", str(len(body)).encode())]},
        {"type": "http.response.body", "body": body},
    ]


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what comes after it."""
    first: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Any:
        return first.pop() if first else await receive()

    return received


def _refusal(error: ApiError) -> list[Any]:
    """The messages of the response."""
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **SECURITY_HEADERS,
        **error.headers(),
    }
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    return [
        {"type": "http.response.start", "status": error.status, "headers": sent},
        {"type": "http.response.body", "body": body},
    ]


FULL = _refusal(overloaded())


async def _send_all(messages: list[Any], send: Send) -> None:
    """Send copies: the messages are sent again, and a middleware around the door adds headers to them."""
    for message in messages:
        headers = {"headers": list(message["headers"])} if "headers" in message else {}
        await send(message | headers)


def environment(most: int, max_body_bytes: int, origins: Sequence[str] = ()) -> dict[str, str]:
    """Variables by which a proxy of Serve gets its door. `origins`: of pages that may read refusals, too."""
    return {CALLBACK: f"{__name__}.middlewares", LIMITS: json.dumps([most, max_body_bytes, list(origins)])}


def middlewares() -> list[Middleware]:
    """Called by Serve in each proxy; the last one is around the others."""
    most, max_body_bytes, origins = json.loads(os.environ[LIMITS])
    return [Middleware(Door, most=most, max_body_bytes=max_body_bytes), *cors(origins)]
