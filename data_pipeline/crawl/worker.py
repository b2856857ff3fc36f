"""A worker of a crawl: fetches the pages of its hosts, and stores them as segments.

All hosts of a worker run in one event loop, each in its own task, so that a slow host delays nobody else. The
driver (`run.py`) hands out URLs and takes the log of each segment.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.crawl.archive import Segment
from headwater.data_pipeline.crawl.fetch import Failure, Fetcher, Response, Row
from headwater.data_pipeline.crawl.hosts import REDIRECTS, Host, Task
from headwater.data_pipeline.crawl.links import PageLinks, page_links, xml_links
from headwater.data_pipeline.crawl.urls import Place, Scope, place, split
from headwater.data_pipeline.sources.opt_outs import REFUSING, opt_outs
from headwater.data_pipeline.sources.readers.warc import PAGE_TYPES, charset_of, media_type
from headwater.data_pipeline.sources.spec import CrawlSource

SEGMENT_BYTES = 256 << 20
MAX_HOPS = 10
OWNER = "owner"
"""File with the token of the crawl's driver; empty when that driver has ended its workers."""
OWNER_SECONDS = 1.0
"""How often a worker checks that its driver still owns the crawl."""


class Superseded(Exception):
    """Another driver has taken over the crawl."""


class CrawlWorker:
    """Call `exchange` again and again; between two calls no new request begins."""

    def __init__(self, source: CrawlSource, output: Artifact, token: str, edition: int) -> None:
        self._source, self._output, self._token, self._edition = source, output, token, edition
        self._scope = Scope(source)
        self._hosts: dict[str, Host] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._fetcher: Fetcher | None = None
        self._segment: Segment | None = None
        self._open = asyncio.Event()
        self._checked = 0.0

    async def exchange(self, work: Sequence[tuple[str, float, list[Task]]]) -> tuple[str, list[Row]]:
        """Take URLs (host, seconds to wait first, tasks), fetch for a while, store a segment.

        Returns the segment's name and rows; an empty name if nothing was fetched. Raises Superseded.
        """
        self._fetcher = self._fetcher or Fetcher(self._source)
        self._open.set()
        self._drop_ended()
        for name, wait, tasks in work:
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = Host(name, self._source, self._fetcher)
            host.pause(wait)
            host.queue.extend(tasks)
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._serve(host))
        end = time.monotonic() + self._source.segment_seconds
        soon = end - 0.9 * self._source.segment_seconds
        while self._tasks and time.monotonic() < end and self._size() < SEGMENT_BYTES:
            self._check_owner()
            rest = max(0.0, min(OWNER_SECONDS, end - time.monotonic()))
            await asyncio.wait(self._tasks.values(), timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            self._drop_ended()
            if time.monotonic() > soon and len(self._tasks) * 4 < len(work) and self._segment:
                break  # most hosts need new URLs, which the driver has
        self._open.clear()
        return self._store()

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._fetcher is not None:
            await self._fetcher.close()

    def _drop_ended(self) -> None:
        """Forget tasks that ended, for want of URLs: some do so in the last moment of an exchange."""
        for name in [name for name, task in self._tasks.items() if task.done()]:
            self._tasks.pop(name).result()

    def _size(self) -> int:
        return self._segment.size if self._segment else 0

    def _check_owner(self) -> None:
        if self._output.read_bytes(OWNER).decode() != self._token:
            raise Superseded

    def _current(self) -> Segment:
        if self._segment is None:
            assert self._fetcher is not None
            stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime())
            name = f"{self._edition:03d}-{stamp}-{secrets.token_hex(4)}"
            self._segment = Segment(name, self._fetcher.agent)
        return self._segment

    def _store(self) -> tuple[str, list[Row]]:
        segment, self._segment = self._segment, None
        if segment is None:
            return "", []
        segment.store(self._output, self._check_owner)
        return segment.name, segment.rows

    async def _serve(self, host: Host) -> None:
        while host.queue:
            await self._open.wait()
            task = host.queue.popleft()
            row = await self._fetched(host, task)
            row |= {"url": task.url, "kind": task.kind, "depth": task.depth, "delay": host.delay}
            self._current().rows.append(row)

    async def _fetched(self, host: Host, task: Task) -> Row:
        """The log's row of a URL: outcome and links."""
        found = split(task.url)
        if host.down:
            return {"outcome": "host_down"}
        links: list[tuple[str, str, int, int]] = []
        row: Row = {"links": links}
        try:
            rules, seen = await host.robots(found)
            for response in seen:
                self._current().add(response, page=False)
            if seen and self._source.sitemaps:
                named = rules.sitemaps or [f"{found.origin}/sitemap.xml"]
                links += [(url, "links", 1, 0) for url in self._kept(named, found.url, row)]
            if not rules.allows(found.url):
                return row | {"outcome": "robots"}
            if host.delay > self._source.max_delay_seconds:
                return row | {"outcome": "crawl_delay"}
            site = await self._said_by_site(host, found) if task.kind == "page" else frozenset()
            if self._source.obey_opt_outs and site & REFUSING:
                return row | {"outcome": "opt_out", "opt_outs": sorted(site)}
            response = await host.get(task.url, task.kind, _conditions(task))
            host.failures = 0
        except Failure as error:
            if error.again or error.reason == "robots_unreachable":
                host.failures += 1
            return row | {"outcome": error.reason, "detail": error.detail}
        return row | self._result(response, task, links, row, site)

    async def _said_by_site(self, host: Host, found: Place) -> frozenset[str]:
        """Opt-outs of a page in the files of its site."""
        rules, seen = await host.site_rules(found)
        for response in seen:
            self._current().add(response, page=False)
        return rules.of(found)

    def _result(
        self,
        response: Response,
        task: Task,
        links: list[tuple[str, str, int, int]],
        row: Row,
        site: frozenset[str],
    ) -> Row:
        found: Row = {"status": response.status, "date": response.date, "fetched": True}
        page = task.kind == "page"
        if response.status == 304 and task.known:
            self._current().add(response, page=page, revisit=task.known | {"url": task.url})
            return found | {"outcome": "unchanged", "known": task.known}
        if response.status in REDIRECTS:
            self._current().add(response, page=page)
            if task.hops >= MAX_HOPS:
                return found | {"outcome": "too_many_redirects"}
            target = self._kept([response.header("location")], task.url, row)
            links += [(url, task.kind, task.depth, task.hops + 1) for url in target]
            return found | {"outcome": "redirect"}
        if response.status != 200:
            self._current().add(response, page=page)
            return found | {"outcome": "http_status"}
        try:
            content = response.content(self._source.max_document_bytes)
        except Failure as error:
            return found | {"outcome": error.reason, "detail": error.detail}
        if not page:
            pages, maps = xml_links(content)
            links += [(url, "page", task.depth, 0) for url in self._kept(pages, task.url, row)]
            links += [(url, "links", task.depth, 0) for url in self._kept(maps, task.url, row)]
            self._current().add(response, page=False)
            return found | {"outcome": "links"}
        return found | self._page(response, content, task, links, row, site)

    def _page(
        self,
        response: Response,
        content: bytes,
        task: Task,
        links: list[tuple[str, str, int, int]],
        row: Row,
        site: frozenset[str],
    ) -> Row:
        kind = response.header("content-type")
        html = PageLinks()
        if media_type(kind) in PAGE_TYPES:
            nofollow = self._source.follow_nofollow
            html = page_links(content, charset_of(kind), nofollow=nofollow)
        said = opt_outs(response.headers, html.metas, self._source.user_agent, site)
        obey = self._source.obey_opt_outs
        if not (obey and "nofollow" in said):
            base = place(html.base, task.url) if html.base else None
            start = base.url if base else task.url
            links += [(url, "page", task.depth + 1, 0) for url in self._kept(html.links, start, row)]
            if self._source.feeds:
                links += [(url, "links", 1, 0) for url in self._kept(html.feeds, start, row)]
        found: Row = {"opt_outs": sorted(said)} if said else {}
        if html.licence:
            found["licence"] = html.licence[:500]
        if obey and said & REFUSING:
            return found | {"outcome": "opt_out"}
        digest = self._current().add(response, page=True, said=said)
        found |= {"outcome": "page", "bytes": len(response.body), "digest": digest}
        marks = {"etag": response.header("etag"), "last_modified": response.header("last-modified")}
        if any(marks.values()):
            found["known"] = marks | {"date": response.date, "digest": digest}
        return found

    def _kept(self, urls: Sequence[str], base: str, row: Row) -> list[str]:
        """Canonical URLs within the scope, each once. The others are counted in the row."""
        kept: dict[str, None] = {}
        for url in dict.fromkeys(urls):
            found: Place | None = place(url, base)
            if found is None or found.url in kept:
                continue
            if refusal := self._scope.refusal(found):
                refused: dict[str, int] = row.setdefault("refused", {})
                refused[refusal] = refused.get(refusal, 0) + 1
            else:
                kept[found.url] = None
        return list(kept)


def _conditions(task: Task) -> dict[str, str]:
    """Headers of a conditional request (RFC 9110, 13.1)."""
    pairs = (("If-None-Match", "etag"), ("If-Modified-Since", "last_modified"))
    return {name: task.known[key] for name, key in pairs if task.known.get(key)}
