"""Search providers: SearXNG (https://docs.searxng.org/dev/search_api.html) and the Brave Search API
(https://api-dashboard.search.brave.com/app/documentation/web-search)."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import aiohttp

from headwater.cluster.errors import HeadwaterError
from headwater.serving.web.config import BraveProvider, SearchProvider

log = logging.getLogger("headwater")

RESPONSE_BYTES = 4 << 20
BRAVE_COUNT = 20
"""Most results of one request to Brave."""
_HINTS = {
    "searxng": {403: "add `json` to `search.formats` in the instance's settings.yml"},
    "brave": {401: "the key is wrong", 403: "the key is wrong", 422: "the key or the query is wrong"},
}


class SearchFailed(Exception):
    """The provider has given no results. `reason`: a word for clients, `detail`: a sentence for them."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def key_of(provider: SearchProvider | None) -> str:
    """The provider's key, empty if it needs none. Raises HeadwaterError if the variable is not set."""
    if not isinstance(provider, BraveProvider):
        return ""
    if not (key := os.environ.get(provider.key_env, "").strip()):
        raise HeadwaterError(
            f"the environment variable {provider.key_env} has no key",
            where="serve.web.search.key_env",
            fix="set it where the endpoint runs, or name another variable",
        )
    return key


class Provider:
    """Asks for pages. The operator names the address, so it may be private; no redirect is followed. Open it
    in the loop that uses it."""

    def __init__(self, provider: SearchProvider, key: str, agent: str, seconds: float) -> None:
        self._provider, self._key = provider, key
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": agent, "Accept": "application/json"},
        )

    async def close(self) -> None:
        await self._session.close()

    async def find(self, query: str, count: int) -> list[str]:
        """The URLs of up to `count` results, best first. Raises SearchFailed."""
        address, parameters, headers = self._request(query, count)
        try:
            async with self._session.get(
                address, params=parameters, headers=headers, allow_redirects=False
            ) as answer:
                self._check(answer)
                content = b""
                while len(content) <= RESPONSE_BYTES and (more := await answer.content.read(1 << 16)):
                    content += more
        except TimeoutError as error:
            raise SearchFailed("search_timeout", "The search took too long.") from error
        except (aiohttp.ClientError, OSError) as error:
            log.warning("web search: %s: %s", type(error).__name__, error)
            raise SearchFailed("search_unreachable", "The search cannot be reached.") from error
        return self._urls(content, count)

    def _request(self, query: str, count: int) -> tuple[str, dict[str, str], dict[str, str]]:
        base = self._provider.url.rstrip("/")
        if isinstance(self._provider, BraveProvider):
            parameters = {"q": query, "count": str(min(count, BRAVE_COUNT)), "result_filter": "web"}
            return f"{base}/res/v1/web/search", parameters, {"X-Subscription-Token": self._key}
        return f"{base}/search", {"q": query, "format": "json"}, {}

    def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 200:
            return
        hint = _HINTS[self._provider.kind].get(answer.status, "")
        log.warning("web search: status %s%s", answer.status, f": {hint}" if hint else "")
        if answer.status == 429:
            raise SearchFailed("search_rate_limited", "The search has had too many requests.")
        raise SearchFailed("search_status", f"The search answered with status {answer.status}.")

    def _urls(self, content: bytes, count: int) -> list[str]:
        try:
            body: Any = json.loads(content)
            # Brave leaves out `web` where it finds nothing.
            holder = body.get("web") or {"results": []} if self._provider.kind == "brave" else body
            urls = [each["url"] for each in holder["results"] if isinstance(each.get("url"), str)]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning("web search: not the JSON of %s: %s", self._provider.kind, error)
            raise SearchFailed("search_invalid", "The search gave no valid results.") from error
        return list(dict.fromkeys(urls))[:count]
