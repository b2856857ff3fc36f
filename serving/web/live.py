"""Reads, for one question, the pages that it names, or those that a search provider finds for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headwater.data_pipeline.crawl.fetch import Failure, agent_of
from headwater.data_pipeline.crawl.urls import place
from headwater.llm.grounding.passages import Passage
from headwater.serving.retrieval.embed import load_embedder
from headwater.serving.retrieval.search import ranked
from headwater.serving.web.cache import Cache
from headwater.serving.web.config import WebConfig
from headwater.serving.web.pages import Page, Read, Unread, segment_of
from headwater.serving.web.provider import Provider, SearchFailed, key_of
from headwater.serving.web.reader import PageReader

SEARCHES = 1000
"""Searches whose results are kept."""


class LiveWeb:
    """Belongs to one event loop, which opens it with its first question."""

    def __init__(self, config: WebConfig, embedding: str, passage_words: int, overlap_words: int) -> None:
        """Raises HeadwaterError without the provider's key."""
        self._config = config
        self._key = key_of(config.search)
        self._embed = load_embedder(embedding)
        self._reader = PageReader(config, self._embed, passage_words, overlap_words)
        self._pages = Cache[Page](config.cache_seconds, config.cache_pages)
        self._searches = Cache[list[str]](config.cache_seconds, SEARCHES)
        self._provider: Provider | None = None

    def warm(self) -> None:
        """Start what the first page would wait for."""
        self._reader.warm()

    async def close(self) -> None:
        if self._provider is not None:
            await self._provider.close()
        await self._reader.close()

    async def read(self, urls: Sequence[str], query: str = "") -> Read:
        """The pages of these URLs and, with a query, those that the provider finds for it.

        Takes at most the configured seconds. What has not come by then, or at all, is among the failures.
        """
        clock = asyncio.get_running_loop()
        end = clock.time() + self._config.seconds
        failures: list[Unread] = []
        if query:
            try:
                async with asyncio.timeout_at(end):
                    urls = [*urls, *await self._found(query)]
            except SearchFailed as error:
                failures.append(Unread("", error.reason, error.detail))
            except TimeoutError:
                failures.append(Unread("", "search_timeout", "The search took too long."))
        tasks = {url: asyncio.create_task(self._read(url), name="page") for url in dict.fromkeys(urls)}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=max(0.0, end - clock.time()))
            results = [
                task.result()
                if task.done()
                else Unread(url, "timeout", f"more than {self._config.seconds:g} s")
                for url, task in tasks.items()
            ]
        finally:
            for task in tasks.values():
                task.cancel()
        pages = {each.url: each for each in results if isinstance(each, Page)}  # two URLs may lead to one
        failures += [each for each in results if isinstance(each, Unread)]
        return Read(tuple(pages.values()), tuple(failures))

    def rank(
        self, query: str, limit: int, per_document: int, min_relevance: float, pages: Sequence[Page]
    ) -> list[Passage]:
        """The best passages of pages alone, where there is no index to search with them."""
        if not pages:
            return []
        segment = segment_of(pages)
        found = ranked(
            query, [(segment, None)], segment.words, self._embed, limit, per_document, min_relevance
        )
        return [each.passage for each in found]

    async def _found(self, query: str) -> list[str]:
        async def find() -> tuple[list[str], bool]:
            assert self._provider is not None
            return await self._provider.find(query, self._config.results), True

        if self._provider is None:
            assert self._config.search is not None
            agent = agent_of(self._config.fetching)
            self._provider = Provider(self._config.search, self._key, agent, self._config.seconds)
        return await self._searches.get(query, find)

    async def _read(self, url: str) -> Page | Unread:
        found = place(url)
        if found is None:
            return Unread(url, "bad_url", "no http or https URL")
        try:
            return await self._pages.get(found.url, lambda: self._reader.read(found))
        except Failure as error:
            return Unread(url, error.reason, error.detail)
