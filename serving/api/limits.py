"""Limits on request bodies, and the security headers of every response."""

from __future__ import annotations

import asyncio
import collections
import ipaddress
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from headwater.serving.errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

SECURITY_HEADERS = {
    # The page loads only its own files, connects only to its own server and cannot be framed.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


BODY_SECONDS = 30.0
"""Time that a client has for the body of its request. A connection that dribbles holds no place meanwhile."""
MINUTE = 60.0
RETRY_SECONDS = 2
"""Retry-After of an overloaded server, in seconds: about the time of one short answer."""
Receive = Callable[[], Awaitable[Any]]
"""Of an ASGI application."""


async def read_json_body(request: Request, limit: int) -> bytes:
    """The body of a request. Raises ApiError as `read_body`, and 415 if it is not JSON.

    Requiring `application/json` protects servers on localhost: a page of another origin cannot send it
    without a CORS preflight, which is refused.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "The Content-Type must be application/json.", code="unsupported_media_type")
    return await read_body(request.receive, request.headers.get("content-length", ""), limit)


async def read_body(receive: Receive, declared: str, limit: int) -> bytes:
    """The body of a request, whose Content-Length is `declared`.

    Raises ApiError 413 if it exceeds `limit` bytes, 408 if it takes longer than `BODY_SECONDS`, and
    ClientDisconnect if the client leaves before its end.
    """
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        late = f"The body did not arrive within {BODY_SECONDS:g} s."
        raise ApiError(408, late, code="request_timeout") from error


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than {limit:,} bytes.", code="request_too_large")


def overloaded() -> ApiError:
    message = "The request queue is full. Try again shortly."
    return ApiError(429, message, code="overloaded", retry_after=RETRY_SECONDS)


def cors(origins: Sequence[str]) -> list[Middleware]:
    """The ASGI middleware that lets pages of these origins call; none without origins."""
    allowed = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type"],
        expose_headers=["retry-after"],
    )
    return [allowed] if origins else []


class Window:
    """Amounts of each name over the last minute (a sliding window), counted on this replica."""

    def __init__(self) -> None:
        self._amounts: dict[str, collections.deque[tuple[float, int]]] = {}

    def add(self, name: str, amount: int, now: float) -> None:
        """`now`: seconds, by one clock for all calls."""
        self._amounts.setdefault(name, collections.deque()).append((now, amount))

    def used(self, name: str, now: float) -> int:
        return sum(amount for _, amount in self._fresh(name, now))

    def wait(self, name: str, most: int, now: float) -> float:
        """Seconds until less than `most` is used, as far as anything used goes by."""
        left, wait = self.used(name, now), 0.0
        for then, amount in self._fresh(name, now):
            if left < most:
                break
            left -= amount
            wait = then + MINUTE - now
        return wait

    def _fresh(self, name: str, now: float) -> collections.deque[tuple[float, int]]:
        amounts = self._amounts.setdefault(name, collections.deque())
        while amounts and amounts[0][0] <= now - MINUTE:
            amounts.popleft()
        return amounts


class PerMinute:
    """At most `most` calls of one name per minute, counted on this replica."""

    def __init__(self, most: int) -> None:
        self._most, self._calls = most, Window()

    def check(self, name: str, now: float) -> None:
        """Count a call at `now` (seconds). Raises ApiError 429 if it is one too many."""
        if self._calls.used(name, now) >= self._most:
            raise too_many(self._most, "requests in a minute", self._calls.wait(name, self._most, now))
        self._calls.add(name, 1, now)


def too_many(most: int, what: str, wait: float) -> ApiError:
    """`wait`: seconds."""
    seconds = max(1, math.ceil(wait))
    message = f"The limit of {most:,} {what} is reached. Try again in {seconds:,} s."
    return ApiError(429, message, code="rate_limit_exceeded", retry_after=seconds)


class SecurityHeaders:
    """ASGI middleware: adds `SECURITY_HEADERS` to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


class LoopbackHost:
    """ASGI middleware: refuses requests to another name than this machine's loopback (status 421).

    An endpoint without keys trusts whoever reaches it. A web page whose name is made to resolve to 127.0.0.1
    (DNS rebinding) reaches it from a browser, but its requests carry that name.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or is_loopback(_host(scope["headers"])):
            await self._app(scope, receive, send)
            return
        message = "Without `serve.api_keys` this server answers to the names of its own machine alone."
        error = ApiError(421, message, code="misdirected_request")
        await JSONResponse(error.body(), status_code=error.status)(scope, receive, send)


def _host(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The name in the Host header, without its port; empty if there is none, or several, or it is no name."""
    found = [value.decode("latin-1") for name, value in headers if name == b"host"]
    given = found[0] if len(found) == 1 else ""
    if set(given) & set("@/?#\\"):  # `evil.example@localhost` is a URL's user and host
        return ""
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or empty: every address
        return False
