"""URLs by the WHATWG URL standard: the test data of web-platform-tests (`urltestdata.json` beside this)."""

from __future__ import annotations

import collections
import json
from pathlib import Path

from ada_url import join_url, normalize_url

from headwater.data_pipeline.crawl.urls import place

CASES: list[tuple[str, str | None, str | None]] = json.loads(
    (Path(__file__).parent / "urltestdata.json").read_text()
)["cases"]
"""Input, base, and the URL that is meant; None for input that is no URL."""
DIFFERENT = {"user name": 31, "empty query": 4, "host of dots": 2}
"""Cases that a crawl treats in its own way. A user name is not sent, so the page is not asked for; an empty
query asks for the same page as none; a host of dots alone is no name that can be looked up."""


def difference(href: str) -> str:
    origin, _, rest = href.partition("://")[2].partition("/")
    if "@" in origin:
        return "user name"
    if rest.partition("#")[0].endswith("?"):
        return "empty query"
    return "host of dots" if not origin.strip(".") else ""


def test_the_parser_passes_the_whatwg_test_data() -> None:
    wrong = []
    for url, base, href in CASES:
        try:
            found = join_url(base, url) if base else normalize_url(url)
        except ValueError:
            found = None
        if found != href:
            wrong.append((url, base, href, found))
    assert not wrong and len(CASES) > 850


def test_the_crawler_differs_from_the_whatwg_test_data_for_three_reasons() -> None:
    found: collections.Counter[str] = collections.Counter()
    for url, base, href in CASES:
        got, reason = place(url, base), ""
        if href is None or not href.startswith(("http://", "https://")):
            assert got is None, (url, base)
            continue
        if reason := difference(href):
            found[reason] += 1
        expected = href.partition("#")[0].removesuffix("?") if reason in ("", "empty query") else None
        assert (got.url if got else None) == expected, (url, base)
    assert found == DIFFERENT
