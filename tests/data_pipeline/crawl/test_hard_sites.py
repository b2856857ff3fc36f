"""Sites that are slow, broken, endless, or do not want to be crawled."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
from collections import Counter
from typing import Any

from aiohttp import web

from tests.data_pipeline.crawl.conftest import Crawl
from tests.data_pipeline.crawl.web import Web, packed_zeros, page, response


def test_a_host_is_asked_no_sooner_than_its_delay_and_slows_no_other(net: Web, run: Crawl) -> None:
    net.site("slow.test", **{"/": page(*map(str, range(4))), "*": page()})
    net.site("slow.test")["/robots.txt"] = "User-agent: headwater\nCrawl-delay: 0.4\n"
    net.site("fast.test", **{"/": page(*map(str, range(30))), "*": page()})
    run(net.url("slow.test"), net.url("fast.test"), sitemaps=False)
    times = net.times("slow.test")
    assert len(times) == 8  # robots.txt, ai.txt, tdmrep.json, five pages
    assert min(after - before for before, after in itertools.pairwise(times)) >= 0.4
    assert max(net.times("fast.test")) < times[-1]


def test_robots_of_all_kinds_decide(net: Web, run: Crawl) -> None:
    bomb = packed_zeros(60_000_000)

    def redirected(request: web.Request) -> web.Response:
        return response(status=302, Location=net.url("rules.test", "/theirs.txt"))

    answers: dict[str, Any] = {
        "none.test": lambda request: response(status=404),
        "forbidden.test": lambda request: response(status=403),
        "broken.test": lambda request: response(status=503),
        "sent.test": redirected,
        "huge.test": "User-agent: *\nDisallow: /1\n" + "# filler\n" * 500_000,
        "bomb.test": lambda request: response(bomb, Content_Encoding="gzip"),
        "loop.test": lambda request: response(status=302, Location="/robots.txt"),
        "other.test": "User-agent: otherbot\nDisallow: /\n",
        "ours.test": "User-agent: *\nAllow: /\nUser-agent: HEADWATER/2.0\nDisallow: /1\n",
    }
    for host, robots in answers.items():
        net.site(host, **{"/": page("/1"), "/1": page(), "/robots.txt": robots})
    net.site(
        "rules.test",
        **{"/theirs.txt": lambda request: response("User-agent: *\nDisallow: /1", Content_Type="text/plain")},
    )
    counts = run(*map(net.url, answers), sitemaps=False)
    both, first = (
        ["none.test", "forbidden.test", "loop.test", "other.test", "bomb.test"],
        ["sent.test", "huge.test", "ours.test"],
    )
    assert {host: net.paths(host) for host in answers} == (
        {host: ["/", "/1"] for host in both} | {host: ["/"] for host in first} | {"broken.test": []}
    )
    assert counts["robots_unreachable"] == 1
    assert counts["robots"] == 3


def test_errors_of_servers_are_bounded_and_counted(net: Web, run: Crawl) -> None:
    tries: Counter[str] = Counter()
    bomb = packed_zeros(60_000_000)

    def sometimes(status: int, **headers: Any) -> Any:
        def answer(request: web.Request) -> web.Response:
            tries[request.path] += 1
            return response("later", status, **headers) if tries[request.path] == 1 else response(page())

        return answer

    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return response()

    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "text/html"})
        await answer.prepare(request)
        await answer.write(b"<p>half")
        assert request.transport is not None
        request.transport.close()
        return answer

    async def drips(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/html"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b"x")
                await asyncio.sleep(0.1)
        return answer

    kinds: dict[str, Any] = {
        "/busy": sometimes(503, Retry_After="1"),
        "/limited": sometimes(429),
        "/long": lambda request: response("", 429, Retry_After="99999"),
        "/cut": cut,
        "/never": never,
        "/drips": drips,
        "/bomb": lambda request: response(bomb, Content_Encoding="gzip"),
        "/big": lambda request: response(b"<p>" + bytes(3_000_000)),
        "/pdf": lambda request: response(b"%PDF", Content_Type="application/pdf"),
        "/away": lambda request: response(status=302, Location="http://127.0.0.2/"),
        "/round": lambda request: response(status=302, Location="/trip"),
        "/trip": lambda request: response(status=302, Location="/round"),
        "/gone": lambda request: response(status=410),
    }
    hosts_of = {path: f"{path[1:]}.test" for path in kinds}
    for path, host in hosts_of.items():
        net.site(host, **{path: kinds[path], "/trip": kinds["/trip"], "/round": kinds["/round"]})
    seeds = [net.url(host, path) for path, host in hosts_of.items()]
    counts = run(
        *seeds,
        net.url("inside.test"),
        "http://10.0.0.1/",
        sitemaps=False,
        max_document_bytes=2_000_000,
        timeout_seconds=4,
    )
    outcomes = {row["url"].partition(f":{net.port}")[2]: row["outcome"] for row in run.log().values()}
    assert outcomes == {
        "/busy": "page", "/limited": "page", "/long": "retry_after", "/cut": "unreachable",
        "/never": "timeout", "/drips": "timeout", "/bomb": "too_large", "/big": "too_large",
        "/pdf": "type", "/away": "redirect",
        "/round": "redirect", "/trip": "redirect", "/gone": "http_status", "/": "http_status",
        "": "robots_unreachable",
    }  # fmt: skip
    assert counts["refused: scope"] == 1
    times = net.times("busy.test")
    assert times[-1] - times[-2] >= 1


def test_a_calendar_without_end_and_growing_paths_are_bounded(net: Web, run: Crawl) -> None:
    def calendar(request: web.Request) -> web.Response:
        day = int(request.query.get("day", "0"))
        return response(page(f"/calendar?day={day + 1}", f"/calendar?day={day + 2}"))

    net.site("a.test", **{"/": page("/calendar?day=0", "/loop/"), "/calendar": calendar, "*": page("loop/")})
    counts = run(net.url("a.test"), max_per_pattern=40, sitemaps=False)
    assert counts["refused: pattern"] > 0
    assert counts["refused: trap"] > 0
    paths = net.paths("a.test")
    assert sum("calendar" in path for path in paths) == 40
    assert sum("loop" in path for path in paths) == 3


def test_opt_outs_are_obeyed_and_recorded(net: Web, run: Crawl) -> None:
    def marked(head: str = "", **headers: Any) -> Any:
        return lambda request: response(page("/from" + request.path[1:], head=head), **headers)

    net.site(
        "a.test",
        **{
            "/": page(*"abcdefg"),
            "/a": marked('<meta name="robots" content="noai, noimageai">'),
            "/b": marked(X_Robots_Tag="otherbot: noindex"),
            "/c": marked(X_Robots_Tag="headwater: noindex"),
            "/d": marked('<META NAME=ROBOTS CONTENT="NOFOLLOW">'),
            "/e": marked(TDM_Reservation="1"),
            "/f": marked('<meta name="tdm-reservation" content="1"><link rel=license href=/by>'),
            "/g": marked('<meta name="headwater" content="none">'),
            "*": page(),
        },
    )
    counts = run(net.url("a.test"), sitemaps=False)
    log = run.log()
    letters = {letter: log[net.url("a.test", f"/{letter}")] for letter in "abcdefg"}
    assert "".join(letter for letter, row in letters.items() if row["outcome"] == "opt_out") == "acefg"
    assert counts["opt_out"] == 5
    assert (letters["a"]["opt_outs"], letters["e"]["opt_outs"]) == (
        ["noai", "noimageai"],
        ["tdm-reservation"],
    )
    assert letters["f"]["licence"] == "/by"
    followed = {path for path in net.paths("a.test") if path.startswith("/from")}
    assert followed == {"/froma", "/fromb", "/fromc", "/frome", "/fromf"}
    stored = {url.rpartition("/")[2] for url in run.stored()}
    assert stored & set("abcdefg") == {"b", "d"}


def test_a_sitemap_index_with_packed_and_broken_sitemaps_is_read(net: Web, run: Crawl) -> None:
    def at(path: str) -> str:
        return net.url("a.test", path)

    index = "".join(
        f"<sitemap><loc>{at(f'/{n}.xml')}</loc></sitemap>" for n in ("gz", "bomb", "cut", "loop", "text")
    )
    kinds: dict[str, Any] = {
        "/gz.xml": gzip.compress(f"<urlset><url><loc>{at('/1')}</loc></url></urlset>".encode()),
        "/bomb.xml": packed_zeros(100_000_000),
        "/cut.xml": f"<urlset><url><loc>{at('/2')}</loc></url><url><loc>{at('/no')}".encode(),
        "/loop.xml": f"<sitemapindex><sitemap><loc>{at('/loop.xml')}</loc></sitemap></sitemapindex>".encode(),
        "/text.xml": f"{at('/3')}\n{at('/4')}\n".encode(),
        "/sitemap.xml": f"<sitemapindex>{index}</sitemapindex>".encode(),
    }
    site = net.site("a.test", **{name: page() for name in ("/", "/1", "/2", "/3", "/4")})
    for path, body in kinds.items():
        site[path] = lambda request, body=body: response(body, Content_Type="application/xml")
    counts = run(at("/"))
    assert sorted(run.stored()) == [at("/"), *(at(f"/{n}") for n in range(1, 5))]
    assert counts["sitemap or feed: too_large"] == 1
