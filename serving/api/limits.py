"""Limits on request bodies, and the security headers of every response."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING, Any

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


async def read_json_body(request: Request, limit: int) -> bytes:
    """The body of a request. Raises ApiError 413 if it exceeds `limit` bytes, 415 if it is not JSON.

    Requiring `application/json` protects servers on localhost: a page of another origin cannot send it
    without a CORS preflight, which is refused.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "The Content-Type must be application/json.", code="unsupported_media_type")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than {limit:,} bytes.", code="request_too_large")


class PerMinute:
    """At most `most` calls of one name per minute, counted on this replica (a sliding window)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: dict[str, collections.deque[float]] = {}

    def check(self, name: str, now: float) -> None:
        """Count a call at `now` (seconds). Raises ApiError 429 if it is one too many."""
        times = self._times.setdefault(name, collections.deque())
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= self._most:
            wait = math.ceil(times[0] + 60 - now)
            message = f"More than {self._most} in a minute. Try again in {wait} s."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)
        times.append(now)


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
