"""A web and a search provider on loopback, and what reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headwater.serving.web.config import WebConfig
from headwater.serving.web.live import LiveWeb
from headwater.serving.web.pages import Read
from tests.data_pipeline.crawl.web import Web, response, serving

BRIDGE = (
    "The town of Alder has rebuilt its wooden bridge. The mayor opened it on Sunday, and 300 people came."
)
HARBOUR = (
    "The ferry to Skellig Island sails twice a day from the new harbour. "
    "A return ticket for the ferry costs 24 euros, the harbour master Nuala Byrne said."
)
QUESTION = "What does a return ticket for the ferry to Skellig Island cost?"


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


def config(**changes: Any) -> WebConfig:
    """The web on loopback: every host name leads there; no other address of this machine may be reached."""
    settings = {
        "contact": "live@example.org",
        "allow_addresses": ["127.0.0.1"],
        "resolve": {"*": "127.0.0.1"},
        "seconds": 20,
    }
    return WebConfig.model_validate(settings | changes)


class Reader:
    """Reads pages in an event loop of its own."""

    def __init__(self, **changes: Any) -> None:
        self.live = LiveWeb(config(**changes), "wordllama", 40, 10)
        self.runner = asyncio.Runner()

    def __call__(self, *urls: str, query: str = "") -> Read:
        return self.runner.run(self.live.read(urls, query))

    def close(self) -> None:
        self.runner.run(self.live.close())
        self.runner.close()


@pytest.fixture
def reader() -> Iterator[Callable[..., Reader]]:
    made: list[Reader] = []

    def make(**changes: Any) -> Reader:
        made.append(Reader(**changes))
        return made[-1]

    yield make
    for each in made:
        each.close()


def plain(text: str = BRIDGE, **headers: str) -> Callable[..., Any]:
    """A page of plain text."""
    return lambda request: response(text, 200, Content_Type="text/plain; charset=utf-8", **headers)


def searxng(*urls: str) -> Callable[..., Any]:
    """What SearXNG answers to `/search?q=…&format=json` (searx/webutils.py, get_json_response)."""
    results = [
        {
            "template": "default.html",
            "url": url,
            "title": "A title of the search",
            "content": "A snippet of the search.",
            "engine": "wikipedia",
            "parsed_url": ["http", "host", "/", "", "", ""],
            "engines": ["wikipedia"],
            "positions": [1],
            "score": 1.0,
            "category": "general",
        }
        for url in urls
    ]
    body = {
        "query": "q",
        "number_of_results": 0,
        "results": results,
        "answers": [],
        "corrections": [],
        "infoboxes": [],
        "suggestions": [],
        "unresponsive_engines": [["bing", "timeout"]],
    }
    return _as_json(body)


def brave(*urls: str) -> Callable[..., Any]:
    """What Brave answers to `/res/v1/web/search` (WebSearchApiResponse)."""
    results = [
        {
            "type": "search_result",
            "title": "A title of the search",
            "url": url,
            "is_source_local": False,
            "is_source_both": False,
            "description": "A <strong>snippet</strong> of the search.",
            "language": "en",
            "family_friendly": True,
            "meta_url": {"scheme": "http", "netloc": "host", "hostname": "host", "path": ""},
        }
        for url in urls
    ]
    body: dict[str, Any] = {
        "type": "search",
        "query": {"original": "q"},
        "mixed": {"type": "mixed", "main": []},
    }
    if results:
        body["web"] = {"type": "search", "results": results, "family_friendly": True}
    return _as_json(body)


def _as_json(body: Any) -> Callable[..., Any]:
    return lambda request: response(json.dumps(body), Content_Type="application/json")
