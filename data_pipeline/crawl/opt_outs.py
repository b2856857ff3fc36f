"""What a page says about its use: robots directives, TDM reservation, licence.

Robots directives: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag; `noai` and
`noimageai`: DeviantArt's proposal of 2022; reservations for text and data mining: the TDM Reservation
Protocol (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/).
"""

from __future__ import annotations

from collections.abc import Iterable

RECORDED = frozenset({"noai", "noimageai", "noindex", "nofollow", "noarchive"})
TDM = "tdm-reservation"
REFUSING = frozenset({"noai", "noindex", TDM})
"""Opt-outs for which a page is not stored."""
VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def opt_outs(
    headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]], agent: str
) -> frozenset[str]:
    """Opt-outs in a response's headers and in the `<meta>` tags (name, content) of its page."""
    found: set[str] = set()
    for name, value in headers:
        lower = name.lower()
        if lower == "x-robots-tag":
            found |= _directives(value, agent.lower())
        elif lower == TDM and value.strip() == "1":
            found.add(TDM)
    for name, content in metas:
        lower = name.strip().lower()
        if lower in ("robots", agent.lower()):
            found |= _directives(content, agent.lower())
        elif lower == TDM and content.strip() == "1":
            found.add(TDM)
    return frozenset(found)


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
