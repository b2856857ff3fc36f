"""What the files of a site say about machine learning: `/ai.txt` and `/.well-known/tdmrep.json`.

ai.txt (Spawning, https://site.spawning.ai/spawning-ai-txt) has the grammar of robots.txt and names file types
(`Disallow: *.html`) or all (`Disallow: /`). tdmrep.json (TDM Reservation Protocol, section 6.1) is a list of
patterns with a reservation of 1 or 0, of which the first that matches a path counts.
"""

from __future__ import annotations

import json
from typing import Any

from protego import Protego

from headwater.data_pipeline.crawl.robots import ROBOTS_BYTES, Robots, read
from headwater.data_pipeline.crawl.urls import Place
from headwater.data_pipeline.sources.opt_outs import AI_TXT, TDM

AI_PATH, TDM_PATH = "/ai.txt", "/.well-known/tdmrep.json"
MAX_RULES = 1_000
"""Rules of a tdmrep.json that are read."""


class SiteRules:
    """Rules of one origin, from the contents of its files; None for one that is not there."""

    def __init__(self, ai: bytes | None, tdm: bytes | None, agent: str) -> None:
        self._ai: Robots | None = read(ai, agent) if ai is not None else None
        self._reservations = _reservations(tdm) if tdm is not None else []

    def of(self, found: Place) -> frozenset[str]:
        """Opt-outs of a page: `ai.txt`, `tdm-reservation`."""
        marks = set()
        if self._ai is not None and not all(map(self._ai.allows, _names(found))):
            marks.add(AI_TXT)
        for pattern, reserved in self._reservations:
            if not pattern.can_fetch(found.url, "*"):
                if reserved:
                    marks.add(TDM)
                break
        return frozenset(marks)


def _names(found: Place) -> list[str]:
    """A page whose path has no file type is of the type `.html` as well."""
    path = found.path.partition("?")[0]
    if "." in path.rpartition("/")[2]:
        return [found.url]
    return [found.url, f"{found.origin}{path}.html"]


def _reservations(content: bytes) -> list[tuple[Protego, bool]]:
    """Patterns, as rules of a robots.txt, and whether rights are reserved. A file or rule that the protocol
    does not know counts as not there."""
    try:
        rules: Any = json.loads(content[:ROBOTS_BYTES].decode("utf-8-sig"))
    except ValueError:
        return []
    found = []
    for rule in rules[:MAX_RULES] if isinstance(rules, list) else ():
        location = rule.get("location") if isinstance(rule, dict) else None
        reserved = rule.get(TDM) if isinstance(rule, dict) else None
        if isinstance(location, str) and location.isprintable() and str(reserved) in ("0", "1"):
            pattern = Protego.parse(f"user-agent: *\ndisallow: {location}")
            found.append((pattern, str(reserved) == "1"))
    return found
