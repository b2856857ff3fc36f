"""One host in a worker: its queue, its pace and its robots.txt."""

from __future__ import annotations

import collections
import contextlib
import time
from dataclasses import dataclass, field

import zstandard

from headwater.data_pipeline.crawl.fetch import Failure, Fetcher, Response, retry_after, sleep_until
from headwater.data_pipeline.crawl.robots import (
    ROBOTS_BYTES,
    ROBOTS_REDIRECTS,
    ROBOTS_SECONDS,
    Robots,
    allow_all,
    read,
)
from headwater.data_pipeline.crawl.site_rules import AI_PATH, TDM_PATH, SiteRules
from headwater.data_pipeline.crawl.urls import Place, place
from headwater.data_pipeline.sources.readers.warc import unpacked
from headwater.data_pipeline.sources.spec import FetchSettings

FIRST_PAUSE_SECONDS = 1.0
"""Pause before the second attempt, doubled after each further one."""
RETRIED = (429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
FAILURES = 3
"""URLs of a host that fail one after another, with all their attempts, after which it is given up."""


@dataclass
class Task:
    """One URL to fetch."""

    url: str
    kind: str
    """`page`, or `links`: a sitemap or feed."""
    depth: int
    hops: int
    """Redirects that led here."""
    known: dict[str, str] = field(default_factory=dict)
    """Of an earlier crawl: etag, last_modified, date, digest."""


class Host:
    """Requests of a host follow one another, with its pause after each."""

    def __init__(self, name: str, source: FetchSettings, fetcher: Fetcher) -> None:
        self.name = name
        self.queue: collections.deque[Task] = collections.deque()
        self.delay = source.delay_seconds
        self.failures = 0
        self._source, self._fetcher = source, fetcher
        self._free_at = 0.0
        self._robots: dict[str, tuple[float, Robots]] = {}
        self._site_rules: dict[str, tuple[float, SiteRules]] = {}

    @property
    def down(self) -> bool:
        return self.failures >= FAILURES

    def pause(self, seconds: float) -> None:
        """No request before `seconds` from now."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)

    async def get(self, url: str, kind: str, headers: dict[str, str] | None = None) -> Response:
        """A request in this host's turn, with further attempts where they may help. Raises Failure."""
        problem = Failure("unreachable", "")
        for attempt in range(self._source.retries + 1):
            await sleep_until(self._free_at)
            wait = 0.0
            try:
                response = await self._fetcher.get(url, kind, headers)
                if response.status not in RETRIED:
                    return response
                wait = retry_after(response.header("retry-after"))
                problem = Failure("http_status", f"status {response.status}", again=True)
            except Failure as error:
                if not error.again:
                    raise
                problem = error
            finally:
                self.pause(self.delay)
            if wait > self._source.max_delay_seconds:
                raise Failure("retry_after", f"asks to wait for {wait:,.0f} s")
            self.pause(max(wait, FIRST_PAUSE_SECONDS * 2**attempt))
        raise problem

    async def robots(self, found: Place) -> tuple[Robots, list[Response]]:
        """Rules for a URL, and the responses that were needed to know them.

        Raises Failure("robots_unreachable") if the server fails, which forbids all (RFC 9309, 2.3.1.4).
        """
        at, rules = self._robots.get(found.origin, (0.0, None))
        if rules is not None and time.monotonic() - at < ROBOTS_SECONDS:
            return rules, []
        rules, seen = await self._read_robots(found.origin)
        self._robots[found.origin] = (time.monotonic(), rules)
        self.delay = max(self._source.delay_seconds, rules.delay)
        self.pause(min(self.delay, self._source.max_delay_seconds))
        return rules, seen

    async def site_rules(self, found: Place) -> tuple[SiteRules, list[Response]]:
        """What the site of a URL says about machine learning, and the responses that were needed to know it.
        A file that the server does not give says nothing."""
        at, rules = self._site_rules.get(found.origin, (0.0, None))
        if rules is not None and time.monotonic() - at < ROBOTS_SECONDS:
            return rules, []
        contents: list[bytes | None] = []
        seen: list[Response] = []
        for path in (AI_PATH, TDM_PATH):
            content: bytes | None = None
            with contextlib.suppress(Failure):
                content, answers = await self.file(found.origin + path)
                seen += answers
            contents.append(content)
        rules = SiteRules(contents[0], contents[1], self._source.user_agent)
        self._site_rules[found.origin] = (time.monotonic(), rules)
        return rules, seen

    async def _read_robots(self, origin: str) -> tuple[Robots, list[Response]]:
        agent = self._source.user_agent
        try:
            content, seen = await self.file(f"{origin}/robots.txt")
        except Failure as error:
            raise Failure("robots_unreachable", f"{error.reason}: {error.detail}") from error
        if seen[-1].status >= 500:
            raise Failure("robots_unreachable", f"status {seen[-1].status}")
        return allow_all(agent) if content is None else read(content, agent), seen

    async def file(self, url: str) -> tuple[bytes | None, list[Response]]:
        """Content of a small file, None without a status 200, and the responses from its URL to the end of
        its redirects. Raises Failure."""
        seen: list[Response] = []
        for _ in range(ROBOTS_REDIRECTS + 1):
            seen.append(await self.get(url, "robots"))
            following = place(seen[-1].header("location"), url)
            if seen[-1].status not in REDIRECTS or following is None:
                break
            url = following.url
        return _unpacked(seen[-1]) if seen[-1].status == 200 else None, seen


def _unpacked(response: Response) -> bytes:
    try:
        return unpacked(response.body, {k.lower(): v for k, v in response.headers}, ROBOTS_BYTES)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise Failure("broken_body", str(error)) from error
