"""A web of one's own on loopback: one server process that answers for many host names."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from headwater.data_pipeline.sources.spec import CrawlSource

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


FILES = ("/robots.txt", "/sitemap.xml", "/ai.txt", "/.well-known/tdmrep.json")


def page(*links: str, text: str = "A page about rivers.", head: str = "") -> str:
    anchors = "".join(f'<a href="{link}">link</a> ' for link in links)
    return f"<html><head><title>Page</title>{head}</head><body><p>{text}</p>{anchors}</body></html>"


def response(body: str | bytes = "", status: int = 200, **headers: str) -> web.Response:
    """`headers`: names with underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Type", "text/html; charset=utf-8")
    content = body.encode() if isinstance(body, str) else body
    return web.Response(body=content, status=status, headers=named)


@dataclass
class Web:
    """Pages by (host, path); a value is a body, a response's function, or an async function."""

    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[float, str, str, dict[str, str]]] = field(default_factory=list)
    """Time, host, path and headers of each request."""
    port: int = 0
    awaited: set[str] = field(default_factory=set)
    """Hosts with paths that must be asked for before `all_asked` is set."""
    all_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, host: str, path: str = "/") -> str:
        return f"http://{host}:{self.port}{path}"

    def site(self, host: str, **pages: Any) -> dict[str, Any]:
        return self.sites.setdefault(host, {"/robots.txt": lambda request: response(status=404)} | pages)

    def paths(self, host: str) -> list[str]:
        """Paths asked for, in this order, without the files that say what may be visited."""
        return [p for _, h, p, _ in self.requests if h == host and p not in FILES]

    def times(self, host: str) -> list[float]:
        return [at for at, name, _, _ in self.requests if name == host]

    def asked(self) -> Counter[str]:
        return Counter(host + path for _, host, path, _ in self.requests)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0]
        self.requests.append((time.monotonic(), host, request.path_qs, dict(request.headers)))
        self.awaited.discard(host + request.path_qs)
        if not self.awaited:
            self.all_asked.set()
        pages = self.sites.get(host, {})
        found = pages.get(request.path_qs, pages.get(request.path, pages.get("*")))
        if callable(found):
            found = found(request)
        if asyncio.iscoroutine(found):
            found = await found
        if isinstance(found, str | bytes):
            kind = "text/plain" if request.path == "/robots.txt" else "text/html; charset=utf-8"
            return response(found, Content_Type=kind)
        return found if found is not None else response("not here", 404)


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """A server in a thread of this process."""
    state = Web()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{rest:.*}", state.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        state.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield state
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def source(*seeds: str, **settings: Any) -> CrawlSource:
    """A crawl of the web on loopback, without pauses."""
    quick = {
        "delay_seconds": 0,
        "segment_seconds": 0.5,
        "retries": 1,
        "timeout_seconds": 20,
        "contact": "crawl@example.org",
        "allow_addresses": ["127.0.0.1"],
        "resolve": {"*": "127.0.0.1"},
    }
    return CrawlSource.model_validate({"kind": "crawl", "seeds": seeds} | quick | settings)


def packed_zeros(size: int) -> bytes:
    return gzip.compress(bytes(size))
