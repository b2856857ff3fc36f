"""A web of hundreds of hosts of all kinds on loopback: exactly the pages that may be had, each once."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from headwater.data_pipeline.crawl.hosts import Task
from headwater.data_pipeline.crawl.worker import OWNER, CrawlWorker
from tests.data_pipeline.crawl.conftest import Crawl
from tests.data_pipeline.crawl.many_hosts import ASKED_AGAIN, KINDS, PER_PATTERN, made
from tests.data_pipeline.crawl.web import Web, page, source

DELAY, LONGER = 0.02, 0.3
SETTINGS: dict[str, Any] = {
    "delay_seconds": DELAY,
    "timeout_seconds": 300,  # a stuck host waits for all others, on a busy machine a while
    "max_per_pattern": PER_PATTERN,
    "max_document_bytes": 1_000_000,
}


def check_pauses(net: Web, hosts: set[str]) -> None:
    """No request to a host comes sooner than its pause after the one before."""
    for host in hosts:
        times, pause = net.times(host), DELAY
        if host.startswith("unhurried"):
            times, pause = times[1:], LONGER  # known once robots.txt is read
        assert min(b - a for a, b in itertools.pairwise(times)) >= pause, host


@pytest.mark.parametrize("hosts", [300, pytest.param(1_500, marks=pytest.mark.soak)])
def test_a_web_of_all_kinds_gives_the_golden_pages_each_once(net: Web, run: Crawl, hosts: int) -> None:
    assert hosts >= 10 * len(KINDS)
    golden = made(net, hosts)
    counts = run(*map(net.url, golden), **SETTINGS)
    pages = {url for url, row in run.log().items() if row["outcome"] == "page"}
    assert not pages ^ {net.url(host, path) for host in golden for path in golden[host]}
    assert counts["page"] == len(pages)
    assert max(run.stored().values()) == 1
    again = {host + path for host in golden for path in ASKED_AGAIN.get(host.rpartition("-")[0], ())}
    assert not {name for name, count in net.asked().items() if count != 1 + (name in again)}
    check_pauses(net, set(golden))


@pytest.mark.soak
def test_a_refresh_of_all_kinds_stores_what_has_changed(net: Web, run: Crawl) -> None:
    golden = made(net, 300)
    run(*map(net.url, golden), **SETTINGS)
    counts = run(*map(net.url, golden), refresh=True, **SETTINGS)
    known = {url: row["outcome"] for url, row in run.log().items()}
    same = {net.url(host, "/same") for host in golden if host.startswith("changing")}
    assert not {url for url, outcome in known.items() if outcome == "unchanged"} ^ same
    pages = {net.url(host, path) for host in golden for path in golden[host]}
    assert not {url for url, outcome in known.items() if outcome == "page"} ^ (pages - same)
    assert (counts["page"], counts["unchanged"]) == (len(pages - same), len(same))
    confirmed = [head.get_header("WARC-Target-URI") for head, _, _ in run.records("revisit")]
    assert len(confirmed) == len(same) and not set(confirmed) ^ same
    stored = run.stored()
    assert {stored[url] for url in same} == {1} and {stored[url] for url in pages - same} == {2}
    check_pauses(net, set(golden))


def test_a_host_whose_last_page_came_as_an_exchange_ended_is_served_on(net: Web, run: Crawl) -> None:
    net.site("a.test", **{"/": page(), "/1": page()})
    run.output.write_bytes(OWNER, b"token")
    worker = CrawlWorker(source(net.url("a.test")), run.output, "token", 1)

    async def two_exchanges() -> list[str]:
        try:
            await worker.exchange([("a.test", 0, [Task(net.url("a.test"), "page", 0, 0)])])
            worker._tasks["a.test"] = asyncio.create_task(asyncio.sleep(0))
            await worker._tasks["a.test"]
            _, rows = await worker.exchange([("a.test", 0, [Task(net.url("a.test", "/1"), "page", 0, 0)])])
            return [row["url"] for row in rows]
        finally:
            await worker.close()

    assert asyncio.run(two_exchanges()) == [net.url("a.test", "/1")]
