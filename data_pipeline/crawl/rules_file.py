"""Rules of sites as a file: fetched at one time, applied to documents that were acquired at another.

A rules file is JSON Lines, one row per origin: `origin`, `at` (ISO 8601), and the contents of `robots`, `ai`
and `tdm` (robots.txt, ai.txt, tdmrep.json), null for a file that is not there.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.crawl.fetch import Failure, Fetcher
from headwater.data_pipeline.crawl.hosts import Host
from headwater.data_pipeline.crawl.robots import Robots, read
from headwater.data_pipeline.crawl.site_rules import AI_PATH, TDM_PATH, SiteRules
from headwater.data_pipeline.crawl.urls import Place, domains_of, place
from headwater.data_pipeline.filters.lists import read_list, read_text
from headwater.data_pipeline.sources.opt_outs import AGENT, REFUSING
from headwater.data_pipeline.sources.spec import FetchSettings

ROBOTS, BLOCKED = "robots.txt", "block list"
PATHS = {"robots": "/robots.txt", "ai": AI_PATH, "tdm": TDM_PATH}
SUFFIX = ".jsonl"


class RuleBook:
    """Rules files (`*.jsonl`) and block lists: domains with their subdomains and beginnings of URLs, one per
    line, `#` starts a comment. Raises HeadwaterError for a file that is missing or broken."""

    def __init__(self, locations: Sequence[str], agent: str = AGENT) -> None:
        self._agent = agent
        self._rows: dict[str, dict[str, Any]] = {}
        self._known: dict[str, tuple[Robots, SiteRules]] = {}
        blocked: list[str] = []
        for location in locations:
            if location.endswith(SUFFIX):
                self._rows |= {row["origin"]: row for row in _rows(location)}
            else:
                blocked += read_list(location)
        self._domains = {entry.lower().strip(".") for entry in blocked if "://" not in entry}
        self._urls = tuple(entry for entry in blocked if "://" in entry)

    def of(self, url: str) -> frozenset[str]:
        """Why a URL is excluded: `block list`, `robots.txt`, `ai.txt`, `tdm-reservation`; empty if it is
        not."""
        found = place(url)
        if found is None:
            return frozenset()
        marks = set()
        if not self._domains.isdisjoint(domains_of(found.host)) or url.startswith(self._urls):
            marks.add(BLOCKED)
        if found.origin in self._rows:
            robots, site = self._of_origin(found.origin)
            marks |= site.of(found) & REFUSING
            if not robots.allows(found.url):
                marks.add(ROBOTS)
        return frozenset(marks)

    def _of_origin(self, origin: str) -> tuple[Robots, SiteRules]:
        if origin not in self._known:
            contents = {name: text and text.encode() for name, text in self._rows[origin].items()}
            robots = read(contents.get("robots") or b"", self._agent)
            site = SiteRules(contents.get("ai"), contents.get("tdm"), self._agent)
            self._known[origin] = robots, site
        return self._known[origin]


def _rows(location: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_text(location).splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row["origin"], str):
                raise TypeError("`origin` is no text")
            if wrong := [name for name in PATHS if not isinstance(row.get(name), str | None)]:
                raise TypeError(f"`{wrong[0]}` is neither text nor null")
        except (ValueError, KeyError, TypeError) as error:
            raise HeadwaterError(
                f"line {number} is no rule of a site ({error})",
                where=location,
                fix="make the file with `headwater opt-outs`",
            ) from error
        yield row


class Fetched(NamedTuple):
    """What became of the origins of a corpus."""

    origins: int
    unreachable: int


def fetch_rules(urls: Iterable[str], settings: FetchSettings, output: Path) -> Fetched:
    """Fetch the rules of every origin among `urls` into a rules file. An origin whose robots.txt cannot be
    reached has no row. A rerun asks only for the origins that `output` does not have."""
    known = {row["origin"] for row in _rows(str(output))} if output.exists() else set()
    hosts: dict[str, dict[str, Place]] = {}
    for found in filter(None, map(place, urls)):
        if found.origin not in known:
            hosts.setdefault(found.host, {})[found.origin] = found
    written = asyncio.run(_fetch(hosts, settings, output))
    origins = sum(map(len, hosts.values()))
    return Fetched(len(known) + origins, origins - written)


async def _fetch(hosts: dict[str, dict[str, Place]], settings: FetchSettings, output: Path) -> int:
    fetcher, room = Fetcher(settings), asyncio.Semaphore(settings.requests_at_once)
    with output.open("a", encoding="utf-8") as stream:

        async def visit(name: str, places: Iterable[Place]) -> int:
            async with room:
                host, written = Host(name, settings, fetcher), 0
                for found in places:
                    if (row := await _row(host, found)) is not None:
                        stream.write(json.dumps(row) + "\n")
                        written += 1
                return written

        try:
            visits = (visit(name, origins.values()) for name, origins in hosts.items())
            return sum(await asyncio.gather(*visits))
        finally:
            await fetcher.close()


async def _row(host: Host, found: Place) -> dict[str, Any] | None:
    row: dict[str, Any] = {"origin": found.origin, "at": datetime.datetime.now(datetime.UTC).isoformat()}
    for name, path in PATHS.items():
        try:
            content, seen = await host.file(found.origin + path)
        except Failure:
            content, seen = None, []
        if name == "robots" and (not seen or seen[-1].status >= 500):
            return None
        row[name] = content and content.decode("utf-8", "replace")
    return row
