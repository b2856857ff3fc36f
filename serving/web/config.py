"""Settings of the live web."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from headwater.cluster.runtime.stage import NonEmpty, StageConfig
from headwater.data_pipeline.sources.spec import MEGABYTE, FetchSettings, Networks

Address = Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")]


class SearxngProvider(StageConfig):
    """A SearXNG instance, with `json` among the `search.formats` of its settings."""

    kind: Literal["searxng"]
    url: Address
    """Address of the instance, to which `/search` is added. It may be a private one."""


class BraveProvider(StageConfig):
    """The Brave Search API."""

    kind: Literal["brave"]
    url: Address = "https://api.search.brave.com"
    """Address of the API, to which `/res/v1/web/search` is added."""
    key_env: NonEmpty = "BRAVE_API_KEY"
    """Environment variable with the key, on the machines where the endpoint runs."""


SearchProvider = Annotated[SearxngProvider | BraveProvider, Field(discriminator="kind")]


class WebConfig(StageConfig):
    """Live web: pages that questions name, and pages that a search provider finds. robots.txt, `noai` and
    reservations for text and data mining are always obeyed."""

    contact: str = Field(pattern=r"^(https?://\S+\.\S+|[^\s@()<>]+@[^\s@()<>]+)$")
    """E-mail address or URL, sent with each request, so that owners of sites can reach you."""
    user_agent: str = Field(default="headwater", pattern=r"^[A-Za-z_-]+$")
    """Product name sent with each request. robots.txt names it."""
    urls: bool = True
    """Fetch the URLs that a request or its question names."""
    search: SearchProvider | None = None
    """The provider that is asked for pages. It is sent the question. Default: none."""
    by_default: bool = False
    """Use the web for requests that do not say `retrieval.web`."""
    results: int = Field(4, ge=1, le=20)
    """Pages read per question of those that the provider finds."""
    seconds: float = Field(8.0, gt=0)
    """Maximum time per question, for the search and all pages. The answer goes on with what has come."""
    max_bytes: int = Field(2 * MEGABYTE, gt=0)
    """Maximum bytes of a page, as sent and unpacked."""
    max_characters: int = Field(200_000, gt=0)
    """Characters of a page's text that are read."""
    max_redirects: int = Field(5, ge=0)
    """Redirects that are followed per page."""
    requests_at_once: int = Field(32, ge=1)
    """Maximum number of simultaneous requests per replica. Requests to one host follow one another."""
    questions_at_once: int = Field(16, ge=1)
    """Questions that one replica reads pages for at the same time."""
    cache_seconds: float = Field(300.0, ge=0)
    """How long a page and the results of a search are kept in memory. 0 keeps nothing."""
    cache_pages: int = Field(200, ge=1)
    """Maximum number of pages that are kept."""
    languages: tuple[NonEmpty, ...] = ()
    """ISO 639-1 codes of the languages that are read. Default: all."""
    allow_addresses: Networks = ()
    """For tests: addresses or networks that pages may be fetched from besides public ones."""
    resolve: dict[str, str] = {}
    """For tests: host name, or `*`, → address to use instead of asking the name server."""

    @model_validator(mode="after")
    def _does_something(self) -> WebConfig:
        if not self.urls and self.search is None:
            raise ValueError("with `urls: false` and no `search` nothing is read: leave out `web`")
        return self

    @property
    def fetching(self) -> FetchSettings:
        """How the crawler's parts send requests for a question: at once, and each only once."""
        return FetchSettings(
            contact=self.contact,
            user_agent=self.user_agent,
            delay_seconds=0,
            max_delay_seconds=self.seconds,
            timeout_seconds=self.seconds,
            retries=0,
            requests_at_once=self.requests_at_once,
            max_document_bytes=self.max_bytes,
            allow_addresses=self.allow_addresses,
            resolve=self.resolve,
        )
