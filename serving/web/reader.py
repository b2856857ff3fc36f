"""One page of the live web: requested as the crawler does it, with its main text cut into passages."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict

from headwater.data_pipeline.crawl.fetch import Failure, Fetcher, Response
from headwater.data_pipeline.crawl.hosts import REDIRECTS, Host
from headwater.data_pipeline.crawl.links import page_links
from headwater.data_pipeline.crawl.urls import MAX_URL, Place, place
from headwater.data_pipeline.documents import document_id
from headwater.data_pipeline.filters.language import LanguageFilter
from headwater.data_pipeline.sources.opt_outs import REFUSING, opt_outs
from headwater.data_pipeline.sources.readers.warc import Problem, charset_of, page_of
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, Extractor
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.verdict import Rejection
from headwater.llm.grounding.passages import passage_spans
from headwater.serving.retrieval.embed import Embedder
from headwater.serving.retrieval.passages import WebPassage
from headwater.serving.web.config import WebConfig
from headwater.serving.web.pages import Page

OBEYED = REFUSING - {"noindex"}
"""Opt-outs for which a page is not read. `noindex` is about indexes: nothing is kept here."""
EXTRACT_SECONDS = 3.0
"""Time for one page's main text. Pages are parsed one after another in a child process."""
HOSTS = 1000
"""Hosts whose pace and robots.txt are remembered."""
OF_HOSTS = frozenset({"forbidden_address", "unreachable", "timeout"})
UNTOLD = frozenset({"forbidden_address", "unreachable", "robots_unreachable", "broken_body"})
"""Reasons without a detail: it could tell a client about the server's own network."""


class PageReader:
    """Reads pages. Open it in the loop that uses it; `close` it there."""

    def __init__(self, config: WebConfig, embed: Embedder, passage_words: int, overlap_words: int) -> None:
        self._config, self._embed = config, embed
        self._spans = (passage_words, overlap_words)
        self._fetcher: Fetcher | None = None
        self._hosts: OrderedDict[str, tuple[Host, asyncio.Lock]] = OrderedDict()
        self._extract = Extractor(
            ExtractConfig(timeout_seconds=EXTRACT_SECONDS, max_html_bytes=config.max_bytes)
        )
        self._languages = LanguageFilter() if config.languages else None
        self._one_by_one = threading.Lock()

    def warm(self) -> None:
        """Start the child process that parses pages."""
        with self._one_by_one:
            self._extract(b"<html><body><p>Ready.</p></body></html>", "")

    async def close(self) -> None:
        if self._fetcher is not None:
            await self._fetcher.close()
        self._extract.close()

    async def read(self, found: Place) -> tuple[Page, bool]:
        """The page, and whether it may be kept for other questions. Raises Failure."""
        try:
            found, response = await self._fetched(found)
        except Failure as error:
            raise _told(error) from error
        page = await asyncio.to_thread(self._page, found.url, response)
        return page, "no-store" not in response.header("cache-control").lower()

    async def _fetched(self, found: Place) -> tuple[Place, Response]:
        for _ in range(self._config.max_redirects + 1):
            if len(found.url) > MAX_URL:
                raise Failure("bad_url", f"longer than {MAX_URL:,} characters")
            host, turn = self._host(found.host)
            async with turn:
                rules, _ = await host.robots(found)
                if not rules.allows(found.url):
                    raise Failure("robots", "robots.txt does not allow it")
                if host.delay > self._config.seconds:
                    raise Failure("crawl_delay", f"robots.txt asks for {host.delay:g} s between two pages")
                response = await host.get(found.url, "page")
            if response.status not in REDIRECTS:
                break
            following = place(response.header("location"), found.url)
            if following is None:
                raise Failure("bad_redirect", "it leads to no web page")
            found = following
        else:
            raise Failure("too_many_redirects", f"more than {self._config.max_redirects}")
        if response.status != 200:
            raise Failure("http_status", f"status {response.status}")
        return found, response

    def _host(self, name: str) -> tuple[Host, asyncio.Lock]:
        """A host, and what one request to it at a time holds."""
        if self._fetcher is None:
            self._fetcher = Fetcher(self._config.fetching)
        if name not in self._hosts:
            self._hosts[name] = Host(name, self._config.fetching, self._fetcher), asyncio.Lock()
            if len(self._hosts) > HOSTS:
                self._hosts.popitem(last=False)
        self._hosts.move_to_end(name)
        return self._hosts[name]

    def _page(self, url: str, response: Response) -> Page:
        try:
            content = response.content(self._config.max_bytes)
        except Failure as error:
            raise _told(error) from error
        kind = response.header("content-type")
        said = page_of(content, kind)
        if isinstance(said, Problem):
            raise Failure(said.reason, said.detail)
        html, text = said
        metas = page_links(content, charset_of(kind), nofollow=False).metas if html else ()
        if refused := opt_outs(response.headers, metas, self._config.user_agent) & OBEYED:
            raise Failure("opt_out", ", ".join(sorted(refused)))
        title, text = self._main_text(html, url) if html is not None else ("", text)
        title = " ".join(normalise(title).split())
        text = normalise(text)[: self._config.max_characters]
        self._check_language(text)
        identifier = document_id(url, text)
        rows = [
            WebPassage(identifier, url, title, text[start:end], start, end)
            for start, end in passage_spans(text, *self._spans)
        ]
        if not rows:
            raise Failure("no_main_text", "the page has no text")
        return Page(url, title, tuple(rows), self._embed([f"{row.title}\n{row.text}" for row in rows]))

    def _main_text(self, html: bytes, url: str) -> tuple[str, str]:
        with self._one_by_one:
            found = self._extract(html, url)
        if isinstance(found, Rejection):
            raise Failure(found.reason, "the page has no main text")
        return found.title, found.text

    def _check_language(self, text: str) -> None:
        if self._languages is None:
            return
        found = self._languages.measure(text)["language"]
        if found not in self._config.languages:
            raise Failure("other_language", str(found))


def _told(error: Failure) -> Failure:
    """The failure as a client may know it: by its cause, if the host itself could not be reached."""
    cause = error.__cause__
    if error.reason == "robots_unreachable" and isinstance(cause, Failure) and cause.reason in OF_HOSTS:
        error = cause
    return Failure(error.reason, "" if error.reason in UNTOLD else error.detail, error.again)
