"""What a page says about its use: robots directives, reservations for text and data mining.

Robots directives: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag; `noai` and
`noimageai`: DeviantArt's proposal of 2022; reservations for text and data mining: the TDM Reservation
Protocol (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/). What the files of a site
say is in `crawl/site_rules.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

RECORDED = frozenset({"noai", "noimageai", "noindex", "nofollow", "noarchive"})
TDM, AI_TXT = "tdm-reservation", "ai.txt"
REFUSING = frozenset({"noai", "noindex", TDM, AI_TXT})
"""Opt-outs for which a page is not stored."""
VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
AGENT = "headwater"
"""Product name that readers of archives look for in directives, as the crawler does by default."""
META = re.compile(rb"<meta\b[^>]*>", re.IGNORECASE)
COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
ATTRIBUTE = re.compile(rb"""([a-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)

Pairs = Iterable[tuple[str, str]]


def opt_outs(headers: Pairs, metas: Pairs, agent: str, site: Collection[str] = ()) -> frozenset[str]:
    """Opt-outs in a response's headers and in the `<meta>` tags (name, content) of its page.

    `site`: what the files of its site say of it. A reservation or its absence (`1`, `0`) in a header takes
    the place of the file's, and one in a tag that of the header's (TDMRep, 6.4).
    """
    found = set(site)
    for name, value in headers:
        lower = name.lower()
        if lower == "x-robots-tag":
            found |= _directives(value, agent.lower())
        elif lower == TDM:
            _reserve(found, value)
    for name, content in metas:
        lower = name.strip().lower()
        if lower in ("robots", agent.lower()):
            found |= _directives(content, agent.lower())
        elif lower == TDM:
            _reserve(found, content)
    return frozenset(found)


def metas_of(html: bytes) -> list[tuple[str, str]]:
    """Names and contents of those `<meta>` tags of a page that may hold an opt-out, found without parsing
    it."""
    if b"<!--" in html:
        html = COMMENT.sub(b"", html)
    found = []
    for tag in META.findall(html):
        values = {name.lower(): b"".join(rest) for name, *rest in ATTRIBUTE.findall(tag)}
        name = values.get(b"name", b"").decode("latin-1").strip().lower()
        if name in ("robots", AGENT, TDM):
            found.append((name, values.get(b"content", b"").decode("latin-1")))
    return found


def as_metadata(marks: Collection[str]) -> str | None:
    """The column `metadata` of a document with these opt-outs: `{"opt_outs": [...]}`; None without any."""
    return json.dumps({"opt_outs": sorted(marks)}) if marks else None


def marks_in(metadata: str) -> list[str]:
    """Opt-outs in a column `metadata`."""
    found = json.loads(metadata).get("opt_outs") if '"opt_outs"' in metadata else None
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _reserve(found: set[str], value: str) -> None:
    """Another value than 1 or 0 is an error of the protocol, and counts as none (TDMRep, 5.1)."""
    if value.strip() == "1":
        found.add(TDM)
    elif value.strip() == "0":
        found.discard(TDM)


def _directives(value: str, agent: str) -> set[str]:
    """Directives of one list. `googlebot: noindex` is for that agent alone, to the end of the list."""
    found: set[str] = set()
    ours = True
    for part in value.lower().split(","):
        name, colon, rest = part.strip().partition(":")
        if colon and name.strip() not in VALUED:
            ours, part = name.strip() == agent, rest
        if ours:
            found.add(part.strip())
    if "none" in found:
        found |= {"noindex", "nofollow"}
    return found & RECORDED
