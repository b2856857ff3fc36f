"""One guarded HTTP request, bounded in time and bytes.

aiohttp, which Ray brings, takes a resolver of our own, leaves bodies packed, and gives the headers as they
were sent.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import ipaddress
import socket
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from headwater.data_pipeline.sources.guard import AddressGuard, ForbiddenAddress, tls_context
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.proxy import Proxy, proxy_of
from headwater.data_pipeline.sources.readers.warc import PAGE_TYPES, media_type, unpacked
from headwater.data_pipeline.sources.spec import FetchSettings

TYPES = {
    "page": (*PAGE_TYPES, "text/plain"),
    "links": (
        *("application/xml", "text/xml", "application/rss+xml", "application/atom+xml", "text/plain"),
        *("application/gzip", "application/x-gzip", "application/octet-stream", *PAGE_TYPES),
    ),
}
"""Content types that are read, by kind of request. Others are cut off after their headers."""
ERROR_BYTES = 1 << 20
"""Bytes that are read of a response that is no page: a redirect, an error, a robots.txt."""
CHUNK_BYTES = 1 << 16
DNS_SECONDS = 300
"""How long the address of a host is believed."""
CHECKED_HOSTS = 100_000
PROXY_AUTHORIZATION = "proxy-authorization"


@dataclass
class Response:
    """A response with its body as it was sent, without the chunks of the transfer."""

    url: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    request: list[tuple[str, str]]
    """Headers of the request."""
    address: str
    """Of the server; empty behind a proxy."""
    date: str
    """When the request began, as a WARC date."""
    truncated: bool = False
    """Whether the body was cut at a limit."""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def content(self, limit: int) -> bytes:
        """The unpacked body. Raises Failure."""
        headers = {key.lower(): value for key, value in self.headers}
        try:
            content = unpacked(self.body, headers, limit)
        except Exception as error:
            raise Failure("broken_body", str(error)) from error
        if len(content) > limit:
            raise Failure("too_large", f"more than {limit:,} bytes unpacked")
        return content


class Failure(Exception):
    """A request without a response. `again`: another attempt may succeed."""

    def __init__(self, reason: str, detail: str, again: bool = False) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.again = reason, detail, again


class GuardedResolver(AbstractResolver):
    """Gives aiohttp the permitted addresses of a host. They are kept for some minutes, so that the connection
    goes to an address that was checked."""

    def __init__(self, guard: AddressGuard, table: dict[str, str], proxy: str = "") -> None:
        """`proxy`: host of the proxy, whose own address is not checked."""
        self._guard, self._table, self._proxy = guard, table, proxy
        self._names = ThreadedResolver()
        self._checked: dict[str, float] = {}

    async def check(self, host: str) -> None:
        """Raise ForbiddenAddress or OSError unless the host has a permitted address."""
        if self._checked.get(host, 0.0) < time.monotonic():
            await self._permitted(host, 0, socket.AF_UNSPEC)
            if len(self._checked) >= CHECKED_HOSTS:
                self._checked.clear()
            self._checked[host] = time.monotonic() + DNS_SECONDS

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host == self._proxy:
            return await self._names.resolve(host, port, family)
        return await self._permitted(host, port, family)

    async def _permitted(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        if known := self._table.get(host) or self._table.get("*"):
            found = [_as_result(host, port, known)]
        else:
            found = await self._names.resolve(host, port, family)
        kept = set(self._guard.permitted(host, (each["host"] for each in found)))
        return [each for each in found if each["host"] in kept]

    async def close(self) -> None:
        await self._names.close()


def _as_result(host: str, port: int, address: str) -> ResolveResult:
    six = ipaddress.ip_address(address).version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )


def agent_of(source: FetchSettings) -> str:
    """The `User-Agent` of requests."""
    from headwater import __version__

    return f"{source.user_agent}/{__version__} (+{source.contact})"


class Fetcher:
    """Sends requests. Open it in the loop that uses it."""

    def __init__(self, source: FetchSettings) -> None:
        self._source = source
        self._guard = AddressGuard(source.allow_addresses)
        self.agent = agent_of(source)
        self._proxy = proxy_of(source)
        proxy_host = (URL(self._proxy.url).host or "") if self._proxy else ""
        self._resolver = GuardedResolver(self._guard, source.resolve, proxy_host)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            ssl=tls_context(),
            limit=0,
            ttl_dns_cache=DNS_SECONDS,
            keepalive_timeout=max(15.0, 2 * source.delay_seconds),
        )
        self._room = asyncio.Semaphore(source.requests_at_once)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=source.timeout_seconds),
            proxy=self._proxy.url if self._proxy else None,
            proxy_auth=_auth(self._proxy),
            headers={
                "User-Agent": self.agent,
                "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,text/plain;q=0.8",
                "Accept-Encoding": "gzip, br, zstd",
            },
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, url: str, kind: str, headers: dict[str, str] | None = None) -> Response:
        """One request, without following redirects. `kind`: a key of TYPES, or `robots` for any type,
        cut at ERROR_BYTES.

        Raises Failure for everything but a complete response of a type that is read.
        """
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            host = URL(url, encoded=True).host or ""
            self._guard.check_host(host)
            if self._proxy and not _is_address(host):
                await self._resolver.check(host)
            async with (
                self._room,
                self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as answer,
            ):
                return await self._read(answer, url, kind, date)
        except ForbiddenAddress as error:
            raise Failure(error.reason, error.detail) from error
        except TimeoutError as error:
            raise Failure("timeout", f"more than {self._source.timeout_seconds:g} s", again=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, UnreadableFile):
                raise Failure(error.__cause__.reason, error.__cause__.detail) from error
            again = not isinstance(error, aiohttp.InvalidURL | ValueError)
            raise Failure("unreachable", f"{type(error).__name__}: {error}"[:300], again) from error

    async def _read(self, answer: aiohttp.ClientResponse, url: str, kind: str, date: str) -> Response:
        headers = [(_text(name), _text(value)) for name, value in answer.raw_headers]
        if self._proxy and answer.status == 407:
            raise Failure("unreachable", "the proxy asks for other credentials (status 407)")
        transport = answer.connection.transport if answer.connection and not self._proxy else None
        peer = transport.get_extra_info("peername") if transport else None
        page = answer.status == 200
        if (
            page
            and kind in TYPES
            and (found := media_type(answer.headers.get("Content-Type", ""))) not in TYPES[kind]
        ):
            answer.close()
            raise Failure("type", found or "no content type")
        limit = self._source.max_document_bytes if page and kind != "robots" else ERROR_BYTES
        body, truncated = bytearray(), False
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > limit:
                answer.close()
                if kind != "robots":
                    raise Failure("too_large", f"more than {limit:,} bytes")
                truncated = True
                break
        return Response(
            url,
            answer.status,
            answer.reason or "",
            headers,
            bytes(body[:limit]),
            [each for each in answer.request_info.headers.items() if each[0].lower() != PROXY_AUTHORIZATION],
            peer[0] if peer else "",
            date,
            truncated,
        )


def _auth(proxy: Proxy | None) -> aiohttp.BasicAuth | None:
    return aiohttp.BasicAuth(proxy.user, proxy.password, "utf-8") if proxy and proxy.user else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def retry_after(value: str) -> float:
    """Seconds that a `Retry-After` header (RFC 9110, 10.2.3) asks for; 0 without one."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


async def sleep_until(at: float) -> None:
    """`at`: by time.monotonic(). A sleep alone may end too early: timers of uvloop, which Ray's actors use,
    count whole milliseconds."""
    while (rest := at - time.monotonic()) > 0:
        await asyncio.sleep(max(rest, 0.001))


Headers = list[tuple[str, str]]
Row = dict[str, Any]
