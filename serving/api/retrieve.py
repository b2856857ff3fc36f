"""The passages of a request: from the index, and from the live web if the request or the settings say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headwater.llm.grounding.passages import Passage
from headwater.serving.answers.events import WebReport
from headwater.serving.api.backend import Backend
from headwater.serving.api.chat_types import Message, RetrievalOptions, question
from headwater.serving.errors import ApiError
from headwater.serving.web.config import WebConfig
from headwater.serving.web.pages import (
    MAX_URLS,
    Page,
    Read,
    Unread,
    named_urls,
    provider_query,
    query_among,
)


@dataclass(frozen=True)
class Retrieved:
    """What a request is answered from."""

    question: str
    """The last question, complete without the conversation."""
    passages: list[Passage] | None
    """None: without sources."""
    report: WebReport | None = None
    """None: the web was not asked."""


class Wish(NamedTuple):
    """What is asked of the live web."""

    urls: list[str]
    query: str
    """For the provider; empty: it is not asked."""
    beyond: list[str] = []
    """URLs that are too many."""


async def retrieve(
    backend: Backend, messages: list[Message], wanted: bool | RetrievalOptions | None
) -> Retrieved:
    """Find the passages for a conversation. Raises ApiError 400 for what this server cannot search."""
    options = (
        wanted if isinstance(wanted, RetrievalOptions) else RetrievalOptions(enabled=wanted is not False)
    )
    asked = question(messages)
    wish = wish_of(backend.config.web, messages, options)
    if backend.web is None or not (wish.urls or wish.query):
        if backend.retrieval is None:
            if wanted is True or (wanted is options and options.enabled and not options.web):
                raise _unsupported("This server has no index to search.", "retrieval")
            return Retrieved(asked, None)
        return Retrieved(asked, await searched(backend, asked, options) if options.enabled else None)
    read: Read = await backend.ask(backend.web, "read", wish.urls, wish.query)
    for outcome in (*("read" for _ in read.pages), *(each.reason for each in read.failures)):
        backend.metrics.web_pages.labels(outcome).inc()
    query = query_among(asked, read.pages)
    passages = await searched(backend, query, options, read.pages, all_of_one=bool(wish.urls))
    beyond = tuple(Unread(url, "too_many_urls", f"more than {MAX_URLS}") for url in wish.beyond)
    report = WebReport(tuple((page.url, page.title) for page in read.pages), (*read.failures, *beyond))
    return Retrieved(asked, passages, report)


def wish_of(config: WebConfig | None, messages: list[Message], options: RetrievalOptions) -> Wish:
    """The pages that are read for a request: its `urls` and those that its questions name (the last one, or
    else the newest that names any), and the search if the last question and `urls` name none.

    Raises ApiError 400 for what the server's settings do not allow.
    """
    if options.web or options.urls:
        if not options.enabled or options.web is False:
            raise ApiError(
                400,
                "`web` and `urls` need sources: leave out `enabled: false` and `web: false`.",
                code="invalid_value",
                param="retrieval",
            )
        if config is None:
            raise _unsupported("This server does not read the live web.", "retrieval.web")
        if options.urls and not config.urls:
            raise _unsupported("This server reads no URLs that requests name.", "retrieval.urls")
    if config is None or not options.enabled:
        return Wish([], "")
    if not (config.by_default if options.web is None else options.web):
        return Wish(options.urls, "")
    said = [m.plain()["content"] for m in messages if m.role == "user"]
    named = [named_urls(text) for text in said] if config.urls else [[] for _ in said]
    newest = next((urls for urls in reversed(named) if urls), [])
    urls = list(dict.fromkeys([*options.urls, *newest]))
    search = config.search is not None and not options.urls and not (named and named[-1])
    query = provider_query(question(messages)) if search else ""
    return Wish(urls[:MAX_URLS], query, urls[MAX_URLS:])


async def searched(
    backend: Backend,
    query: str,
    options: RetrievalOptions,
    pages: tuple[Page, ...] = (),
    *,
    all_of_one: bool = False,
) -> list[Passage]:
    """What is found for a query in the index and in pages. `all_of_one`: all passages may be of one page,
    where the request does not say how many."""
    config = backend.config
    limit = options.passages or config.passages
    part = backend.retrieval if backend.retrieval is not None else backend.web
    assert part is not None, "there is an index, or the pages are of the live web"
    found: list[Passage] = await backend.ask(
        part,
        "search",
        query,
        limit,
        options.per_document or (limit if all_of_one else config.per_document),
        config.min_relevance if options.min_relevance is None else options.min_relevance,
        pages,
    )
    return found


def _unsupported(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="unsupported_parameter", param=param)
