"""robots.txt after RFC 9309 (https://www.rfc-editor.org/rfc/rfc9309), parsed by Protego."""

from __future__ import annotations

import re

from protego import Protego

ROBOTS_BYTES = 500 << 10
"""Bytes of a robots.txt that are read (RFC 9309, 2.5)."""
ROBOTS_SECONDS = 24 * 3600
"""How long a robots.txt is valid (RFC 9309, 2.4)."""
ROBOTS_REDIRECTS = 5
NAMES = {
    "user-agent": "user-agent",
    "useragent": "user-agent",
    "user agent": "user-agent",
    "allow": "allow",
    "disallow": "disallow",
    "dissallow": "disallow",
    "dissalow": "disallow",
    "disalow": "disallow",
    "diasllow": "disallow",
    "disallaw": "disallow",
    "crawl-delay": "crawl-delay",
    "sitemap": "sitemap",
    "site-map": "sitemap",
}
"""Lines that count, with the misspellings that Google's parser accepts (github.com/google/robotstxt)."""
LINE = re.compile(r"\s*([A-Za-z -]*[A-Za-z])\s*(?::|\s)\s*(.*)")
PRODUCT = re.compile(r"[A-Za-z_-]+|\*")


class Robots:
    """Rules of one origin. Build it with `read`, or from `ALLOW` and `REFUSE`."""

    def __init__(self, content: str, agent: str) -> None:
        self._rules, self._agent = Protego.parse(content), agent
        self.delay = float(self._rules.crawl_delay(agent) or 0)
        """`Crawl-delay` in seconds; 0 without one."""
        self.sitemaps = list(self._rules.sitemaps)

    def allows(self, url: str) -> bool:
        return bool(self._rules.can_fetch(url, self._agent))


def read(content: bytes, agent: str) -> Robots:
    if len(content) > ROBOTS_BYTES:
        content = content[:ROBOTS_BYTES].rpartition(b"\n")[0]
    return Robots(_cleaned(content.decode("utf-8-sig", "replace")), agent)


def allow_all(agent: str) -> Robots:
    """Without a robots.txt (status 4xx)."""
    return Robots("", agent)


def _cleaned(text: str) -> str:
    """Known lines in their usual spelling. Protego ends a group at a line that it does not know, and compares
    a product's whole line; the RFC ignores such lines, and what follows a product's name."""
    kept = []
    for line in text.splitlines():
        found = LINE.match(line.partition("#")[0])
        name = NAMES.get(found.group(1).lower()) if found else None
        if not found or name is None:
            continue
        value = found.group(2).strip()
        if name == "user-agent":
            product = PRODUCT.match(value)
            value = product.group() if product else value
        kept.append(f"{name}: {value}")
    return "\n".join(kept)
