"""Canonical URLs, the scope of a crawl, and URLs that look like traps.

URLs are parsed by ada, a parser of the WHATWG URL standard (https://url.spec.whatwg.org).
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from ada_url import join_url, normalize_url

from headwater.data_pipeline.sources.spec import CrawlSource

TRACKING = re.compile(
    r"(?:utm_[a-z]+|fbclid|gclid|dclid|msclkid|mc_eid|phpsessid|jsessionid)=", re.IGNORECASE
)
MAX_URL, MAX_SEGMENTS, MAX_REPEATS, MAX_PARAMETERS = 2_000, 20, 3, 8
NUMBER = re.compile(r"\d+")
VALUE = re.compile(r"=[^&]*")


class Place(NamedTuple):
    """A canonical URL and its parts."""

    url: str
    origin: str
    """Scheme, host and port: what a robots.txt is valid for."""
    host: str
    """Host without a port: what a delay is kept for."""
    path: str
    """Path and query: what robots.txt is matched with."""


def place(url: str, base: str | None = None) -> Place | None:
    """Canonical form of an http(s) URL, relative to `base`: no fragment, no tracking parameter, no empty
    query. None for anything else, and for URLs with a user name."""
    try:
        href = join_url(base, url.strip()) if base else normalize_url(url.strip())
    except ValueError:
        return None
    if not href.startswith(("http://", "https://")):
        return None
    before, question, query = href.partition("#")[0].partition("?")
    if question:
        query = "&".join(part for part in query.split("&") if part and not TRACKING.match(part))
        before = f"{before}?{query}" if query else before
    found = split(before)
    return None if "@" in found.origin or not found.host else found


def split(url: str) -> Place:
    """Parts of a URL that `place` made."""
    scheme, _, host, path = url.split("/", 3)
    origin = f"{scheme}//{host}"
    if ":" in host and not host.endswith("]"):
        host = host.rpartition(":")[0]
    return Place(url, origin, host.rstrip("."), f"/{path}")


def url_hash(url: str) -> int:
    """64-bit hash as a signed integer, as SQLite stores it."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "big", signed=True)


def pattern(found: Place) -> str:
    """The host and the URL's form without numbers and values: equal for all days of a calendar."""
    path, _, query = found.path.partition("?")
    names = "&".join(sorted(VALUE.sub("", part) for part in query.split("&"))) if query else ""
    return f"{found.host}{NUMBER.sub('0', path)}?{NUMBER.sub('0', names)}"


def trap(found: Place) -> bool:
    """Whether a URL's form alone says that software made it without end: too long, too deep, a path that
    repeats itself, too many parameters."""
    path, _, query = found.path.partition("?")
    segments = [segment for segment in path.split("/") if segment]
    repeats = max((segments.count(segment) for segment in set(segments)), default=0)
    return (
        len(found.url) > MAX_URL
        or len(segments) > MAX_SEGMENTS
        or repeats > MAX_REPEATS
        or query.count("&") >= MAX_PARAMETERS
    )


def _bare(host: str) -> str:
    return host.removeprefix("www.")


class Scope:
    """Which URLs a crawl may visit."""

    def __init__(self, source: CrawlSource) -> None:
        seeds = [found for seed in source.seeds if (found := place(seed)) is not None]
        self._kind = source.scope
        self._hosts = {_bare(seed.host) for seed in seeds}
        self._prefixes = tuple(seed.url.partition("?")[0].rpartition("/")[0] + "/" for seed in seeds)
        self._blocked = {_bare(entry.lower()) for entry in source.block if "://" not in entry}
        self._blocked_urls = tuple(entry for entry in source.block if "://" in entry)

    def refusal(self, found: Place) -> str:
        """`scope`, `blocked` or `trap`; empty if the URL may be visited."""
        if not self._within(found):
            return "scope"
        if not self._blocked.isdisjoint(domains_of(found.host)) or found.url.startswith(self._blocked_urls):
            return "blocked"
        return "trap" if trap(found) else ""

    def _within(self, found: Place) -> bool:
        if self._kind == "host":
            return _bare(found.host) in self._hosts
        if self._kind == "domain":
            return not self._hosts.isdisjoint(domains_of(found.host))
        return found.url.startswith(self._prefixes)


def domains_of(host: str) -> list[str]:
    """The host and the domains that it belongs to."""
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]
