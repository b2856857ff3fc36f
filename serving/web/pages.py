"""What was read for a question, and which URLs a question names. Pure functions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from headwater.data_pipeline.crawl.urls import MAX_URL
from headwater.llm.grounding.sentences import content_stems
from headwater.serving.retrieval.passages import Collected, WebPassage, collected
from headwater.serving.retrieval.search import REQUEST_WORDS

MAX_URLS = 8
"""URLs of a request, or of its question, that are read."""
NAMED = 64
"""URLs of a text that are looked at."""
MAX_QUERY_WORDS, MAX_QUERY_CHARACTERS = 50, 400
"""Limits of Brave's parameter `q`; SearXNG has none of its own."""
_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^]+", re.IGNORECASE)
_AFTER = ".,;:!?…*_~"
_ABOUT_PAGES = (
    f"{REQUEST_WORDS} article content link page read say said site summarise summarize summary website"
)


@dataclass(frozen=True)
class Unread:
    """A page, or a search, that could not be used."""

    url: str
    """Empty for the search."""
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Page:
    """A page that was read, as passages of its main text."""

    url: str
    """After redirects."""
    title: str
    passages: tuple[WebPassage, ...]
    vectors: np.ndarray = field(repr=False, compare=False)
    """float32 [passages, dimensions]."""


@dataclass(frozen=True)
class Read:
    """What was read for one question."""

    pages: tuple[Page, ...]
    failures: tuple[Unread, ...] = ()


def named_urls(text: str) -> list[str]:
    """The http(s) URLs in a text, each once, without the punctuation of the sentence around them."""
    found = (match.group() for match in itertools.islice(_URL.finditer(text), NAMED))
    return list(dict.fromkeys(_trimmed(url) for url in found if len(url) <= MAX_URL))


def _trimmed(url: str) -> str:
    while True:
        shorter = url.rstrip(_AFTER)
        for opening, closing in ("()", "[]"):
            unopened = shorter.count(closing) - shorter.count(opening)
            last = len(shorter) - len(shorter.rstrip(closing))
            shorter = shorter[: len(shorter) - max(0, min(unopened, last))]
        if shorter == url:
            return url
        url = shorter


def without_urls(text: str) -> str:
    return " ".join(_URL.sub(" ", text).split())


def provider_query(question: str) -> str:
    """A question as providers take it."""
    return " ".join(without_urls(question).split()[:MAX_QUERY_WORDS])[:MAX_QUERY_CHARACTERS].strip()


def query_among(question: str, pages: Iterable[Page]) -> str:
    """What passages of the pages are ranked by: the question, or if it only asks for a page ("Summarise
    https://…"), the pages' titles."""
    plain = without_urls(question)
    if content_stems(plain) - content_stems(_ABOUT_PAGES):
        return plain
    return " ".join(page.title for page in pages) or plain


def segment_of(pages: Sequence[Page]) -> Collected:
    """The passages of pages, ready to be searched."""
    rows = [passage for page in pages for passage in page.passages]
    return collected(rows, np.concatenate([page.vectors for page in pages]))
