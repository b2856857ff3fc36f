"""A web of hundreds of hosts of all kinds on loopback: exactly the pages that may be had, each once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from tests.data_pipeline.crawl.conftest import Crawl
from tests.data_pipeline.crawl.many_hosts import ASKED_AGAIN, KINDS, PER_PATTERN, made
from tests.data_pipeline.crawl.web import Web

DELAY = 0.02


def pages(net: Web, golden: dict[str, set[str]], hosts: Iterable[str]) -> set[str]:
    return {net.url(host, path) for host in hosts for path in golden[host]}


@pytest.mark.parametrize("hosts", [60, pytest.param(300, marks=pytest.mark.soak)])
def test_a_web_of_all_kinds_gives_the_golden_pages_each_once(net: Web, run: Crawl, hosts: int) -> None:
    assert hosts >= 3 * len(KINDS)
    golden = made(net, hosts)
    settings = {"delay_seconds": DELAY, "max_per_pattern": PER_PATTERN, "max_document_bytes": 1_000_000}
    counts = run(*map(net.url, golden), **settings)
    outcomes = {url: row["outcome"] for url, row in run.log().items()}
    expected = pages(net, golden, golden)
    assert {url for url, outcome in outcomes.items() if outcome == "page"} == expected
    assert counts["page"] == len(expected)
    assert max(run.stored().values()) == 1
    again = {host + path for host in golden for path in ASKED_AGAIN.get(host.rpartition("-")[0], ())}
    assert {name: n for name, n in net.asked().items() if n > 1} == dict.fromkeys(again, 2)
    for host in golden:
        pause = 0.3 if host.startswith("unhurried") else DELAY
        times = net.times(host)
        if host.startswith("unhurried"):
            times = times[1:]  # the pause that robots.txt asks for holds from its second request
        assert min(b - a for a, b in itertools.pairwise(times)) >= pause, host
