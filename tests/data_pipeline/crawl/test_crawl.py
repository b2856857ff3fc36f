"""Crawls of a web on loopback, against the list of pages that may be visited."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
from collections import Counter
from pathlib import Path

import brotli
import pytest
import zstandard
from aiohttp import web
from fastwarc.warc import ArchiveIterator as FastIterator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.crawl.run import warc_files
from headwater.data_pipeline.crawl.worker import OWNER
from headwater.data_pipeline.tables import read_table
from tests.data_pipeline.crawl.conftest import Crawl
from tests.data_pipeline.crawl.web import Web, page, response, source


def test_exactly_the_pages_within_scope_and_robots_are_stored_once(net: Web, run: Crawl) -> None:
    a, b = "a.test", "b.test"
    net.site(
        a,
        **{
            "/robots.txt": "User-agent: *\nDisallow: /private\nAllow: /private/open\nSitemap: /s.xml\n",
            "/": page("/1", "./1#part", "/1?utm_source=x", f"HTTP://A.TEST:{net.port}/2", "/private/x")
            + page("/private/open", "mailto:x@y.org", "javascript:void(0)", "http://c.test/", net.url(b)),
            "/1": page("/", "/deep/a/"),
            "/2": page("sub/3", head='<base href="/other/">'),
            "/other/sub/3": page(),
            "/deep/a/": page("../b", f"//b.test:{net.port}/x"),
            "/deep/b": page('/q?b=1&a=2" rel="nofollow'),
            "/private/open": page(),
            "/s.xml": f"<urlset><url><loc>{net.url(a, '/from-sitemap')}</loc></url>"
            "<url><loc>http://c.test/no</loc></url></urlset>",
            "/from-sitemap": page(),
        },
    )
    net.site(
        b,
        **{
            "/": page(net.url(a)),
            "/x": page(head='<link rel="alternate" type="application/rss+xml" href="/f">'),
        },
    )
    net.site(b)["/f"] = lambda request: response(
        "<rss><channel><item><link>/from-feed</link></item></channel></rss>",
        Content_Type="application/rss+xml",
    )
    net.site(b)["/from-feed"] = page()
    counts = run(net.url(a), net.url(b))
    expected = {a: "/ /1 /2 /other/sub/3 /deep/a/ /deep/b /private/open /from-sitemap", b: "/ /x /from-feed"}
    urls = {net.url(host, path) for host, paths in expected.items() for path in paths.split()}
    assert run.stored() == Counter(urls)
    assert max(net.asked().values()) == 1
    assert not any("/private/x" in path or "/q" in path for path in net.paths(a))
    assert (counts["page"], counts["robots"], counts["refused: scope"]) == (len(urls), 1, 2)
    before = len(net.requests)
    assert run(net.url(a), net.url(b)) == counts
    assert len(net.requests) == before


def test_archives_are_read_by_warcio_and_fastwarc_and_found_by_the_index(net: Web, run: Crawl) -> None:
    body = page(text="brotli, gzip and zstd " * 50)
    packed = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}
    net.site("a.test", **{"/": page("/gzip", "/br", "/zstd", "/to")})
    for name, pack in packed.items():
        net.site("a.test")[f"/{name}"] = lambda request, name=name, pack=pack: response(
            pack(body.encode()), Content_Encoding=name
        )
    net.site("a.test")["/to"] = lambda request: response(status=301, Location="/gzip")
    run(net.url("a.test"))
    kinds = Counter(
        record.headers["WARC-Type"]
        for path in warc_files(run.output)
        for record in FastIterator(io.BytesIO(Path(path).read_bytes()), verify_digests=True)
    )
    assert kinds["response"] == kinds["request"] == 5
    asked, responses = run.records("request"), {h.get_header("WARC-Record-ID") for h, _, _ in run.records()}
    assert {head.get_header("WARC-Concurrent-To") for head, _, _ in asked} == responses
    assert "crawl@example.org" in asked[0][1].get_header("User-Agent")
    indexes = [run.output.read_bytes(name).decode().splitlines() for name in run.output.files("cdxj")]
    assert all(lines == sorted(lines) for lines in indexes)
    lines = list(itertools.chain(*indexes))
    assert len(lines) == 5
    for line in lines:
        entry = json.loads(line.split(" ", 2)[2])
        with Path(run.output.path(entry["filename"])).open("rb") as stream:
            stream.seek(int(entry["offset"]))
            member = gzip.decompress(stream.read(int(entry["length"])))
        assert f"WARC-Target-URI: {entry['url']}\r\n".encode() in member
        assert f"HTTP/1.1 {entry['status']}".encode() in member


def test_the_pages_become_documents_of_a_recipe(net: Web, here: Session) -> None:
    net.site(
        "a.test",
        **{
            "/": page("/1"),
            "/1": lambda request: response(
                page(text="na\xefve").encode("latin-1"), Content_Type="text/html; charset=iso-8859-1"
            ),
        },
    )
    net.site("a.test")["/robots.txt"] = "User-agent: *\nAllow: /\n"  # plain text, and no document
    config = AcquireConfig(sources=(source(net.url("a.test")),))
    acquired, _ = execute(Acquire(config), {}, here)
    files = acquired.files("documents", ".parquet")
    rows = [row for name in files for row in read_table(acquired, name).to_pylist()]
    assert sorted(row["url"] for row in rows) == [net.url("a.test"), net.url("a.test", "/1")]
    assert any("naïve".encode() in row["html"] for row in rows)
    assert execute(Acquire(config), {}, here)[1]
    assert net.paths("a.test") == ["/", "/1"]


def test_budgets_bound_the_crawl_and_more_continues_it(net: Web, run: Crawl) -> None:
    for host in ("a.test", "b.test"):
        net.site(host, **{"/": page(*map(str, range(50))), "*": page()})
    seeds = [net.url("a.test"), net.url("b.test")]
    counts = run(*seeds, max_pages_per_host=7, sitemaps=False)
    assert (len(net.paths("a.test")), len(net.paths("b.test"))) == (7, 7)
    assert counts["left: budget"] == 2 * 51 - 14
    run(*seeds, max_pages=20, sitemaps=False)
    assert len(net.paths("a.test") + net.paths("b.test")) == 20
    assert max(run.stored().values()) == 1
    with pytest.raises(HeadwaterError, match="seeds"):
        run(seeds[0])


def test_depth_is_the_shortest_way_whatever_came_first(net: Web, run: Crawl) -> None:
    """The long way to /x is found first; /y is two links from the seed by the short one."""

    async def late(request: web.Request) -> web.Response:
        await asyncio.sleep(1.5)
        return response(page(net.url("a.test", "/x")))

    net.site(
        "a.test", **{"/": page("/1"), "/1": page("/x"), "/x": page("/y"), "/y": page("/z"), "/z": page()}
    )
    net.site("late.test", **{"/": late})
    net.site("a.test")["/"] = page("/1")
    counts = run(net.url("a.test"), net.url("late.test"), max_depth=2, sitemaps=False)
    assert sorted(net.paths("a.test")) == ["/", "/1", "/x", "/y"]
    assert counts["refused: depth"] == 1


def test_a_refresh_asks_whether_pages_have_changed(net: Web, run: Crawl) -> None:
    version = {"/": "1", "/1": "1"}

    def answer(request: web.Request) -> web.Response:
        tag = f'"{version[request.path]}"'
        if request.headers.get("If-None-Match") == tag:
            return response(status=304, ETag=tag)
        return response(page("/1", text=f"version {tag}"), ETag=tag)

    net.site("a.test", **{"/": answer, "/1": answer})
    run(net.url("a.test"), sitemaps=False)
    version["/1"] = "2"
    counts = run(net.url("a.test"), sitemaps=False, refresh=True)
    assert counts == {"page": 1, "unchanged": 1}
    assert run.stored() == {net.url("a.test"): 1, net.url("a.test", "/1"): 2}
    ((head, http, _),) = run.records("revisit")
    (first,) = [h for h, _, _ in run.records() if h.get_header("WARC-Target-URI") == net.url("a.test")]
    assert head.get_header("WARC-Profile").endswith("server-not-modified")
    assert head.get_header("WARC-Refers-To-Date") == first.get_header("WARC-Date")
    assert head.get_header("WARC-Payload-Digest") == first.get_header("WARC-Payload-Digest")
    assert http.get_statuscode() == "304"
    assert run(net.url("a.test"), sitemaps=False, refresh=True) == {"unchanged": 2}


def test_an_interrupted_refresh_goes_on(net: Web, run: Crawl) -> None:
    """Two pages of three are visited again before the budget ends it; a finished one begins anew."""
    net.site("a.test", **{"/": page("/1", "/2"), "*": page()})
    run(net.url("a.test"), sitemaps=False)
    assert run.output.read_bytes(OWNER) == b"", "the next crawl would wait for workers that have ended"
    run.output.write_json("finished.json", {"edition": 1})
    run(net.url("a.test"), sitemaps=False, refresh=True, max_pages=2)
    assert len(net.paths("a.test")) == 5
    run.output.write_json("finished.json", {"edition": 1})  # as if it had been killed
    run(net.url("a.test"), sitemaps=False, refresh=True)
    assert len(net.paths("a.test")) == 6
    run(net.url("a.test"), sitemaps=False, refresh=True)
    assert len(net.paths("a.test")) == 9


def test_a_frontier_that_is_lost_is_made_from_the_logs(net: Web, run: Crawl, tmp_path: Path) -> None:
    net.site("a.test", **{"/": page(*map(str, range(20))), "*": page("/last")})
    counts = run(net.url("a.test"))
    before = len(net.requests)
    for path in (tmp_path / "work").iterdir():
        path.unlink()
    assert run(net.url("a.test")) == counts
    assert len(net.requests) == before
