"""Rules of the crawler on plain values: URLs, scopes, opt-outs, the guard of its resolver."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from headwater.data_pipeline.crawl.archive import surt
from headwater.data_pipeline.crawl.fetch import GuardedResolver, retry_after
from headwater.data_pipeline.crawl.frontier import Frontier
from headwater.data_pipeline.crawl.links import page_links, xml_links
from headwater.data_pipeline.crawl.urls import Scope, pattern, place, trap
from headwater.data_pipeline.sources.guard import AddressGuard, ForbiddenAddress
from headwater.data_pipeline.sources.spec import CrawlSource
from tests.data_pipeline.crawl.web import source


@pytest.mark.parametrize(
    ("url", "base", "expected"),
    [
        ("HTTP://WWW.Example.org:80/a/./b/../c?q=1#part", None, "http://www.example.org/a/c?q=1"),
        ("https://example.org?", None, "https://example.org/"),
        ("//cdn.example.org/x", "https://a.org/y", "https://cdn.example.org/x"),
        (" ../x y\n", "http://a.org/b/c/d", "http://a.org/b/x%20y"),
        ("?page=2&utm_source=mail&fbclid=3", "http://a.org/list?page=1", "http://a.org/list?page=2"),
        ("http://bücher.example/ü", None, "http://xn--bcher-kva.example/%C3%BC"),
        ("http://0x7f.1/", None, "http://127.0.0.1/"),
        ("http://user:secret@a.org/", None, None),
        ("mailto:a@b.org", "http://a.org/", None),
        ("javascript:alert(1)", "http://a.org/", None),
        ("http://", "http://a.org/", None),
        ("http://a.org:99999/", None, None),
    ],
)
def test_urls_have_one_form(url: str, base: str | None, expected: str | None) -> None:
    found = place(url, base)
    assert (found.url if found else None) == expected


@pytest.mark.parametrize(
    ("url", "base", "expected"),
    [
        ("https:example.org", None, "https://example.org/"),
        ("https://////example.com///", None, "https://example.com///"),
        ("https://example.com/././foo", None, "https://example.com/foo"),
        ("hello:world", "https://example.com/", None),
        ("https:example.org", "https://example.com/", "https://example.com/example.org"),
        ("\\example\\..\\demo/.\\", "https://example.com/", "https://example.com/demo/"),
        ("example", "https://example.com/demo", "https://example.com/example"),
        ("file:///C|/demo", None, None),
        ("https://example.org//", None, "https://example.org//"),
        ("https://example.com/[]?[]#[]", None, "https://example.com/[]?[]"),
        ("https://example/%?%#%", None, "https://example/%?%"),
        ("https://example/%25?%25#%25", None, "https://example/%25?%25"),
        ("https://ex ample.org/", None, None),
        ("example", None, None),
        ("https://example.com:demo", None, None),
        ("http://[www.example.com]/", None, None),
        ("http://EXAMPLE.COM", None, "http://example.com/"),
        ("http://example%2Ecom", None, "http://example.com/"),
        ("http://faß.example", None, "http://xn--fa-hia.example/"),
        ("http://%30", None, "http://0.0.0.0/"),
        ("http://0x", None, "http://0.0.0.0/"),
        ("http://0xffffffff", None, "http://255.255.255.255/"),
        ("http://[0:0::1]", None, "http://[::1]/"),
        ("http://[0:0::1%5D", None, None),
        ("http://[0:0::%31]", None, None),
        ("http://09", None, None),
        ("http://example.255", None, None),
        ("http://example^example", None, None),
    ],
)
def test_urls_are_parsed_as_the_url_standard_shows(url: str, base: str | None, expected: str | None) -> None:
    """The examples of https://url.spec.whatwg.org, "URL writing" and "host parsing", without fragments."""
    found = place(url, base)
    assert (found.url if found else None) == expected


@pytest.mark.parametrize(
    "url", ["http://a.org:8080/x?y=1", "https://[2001:db8::1]:8080/", "https://[2001:db8::1]/x"]
)
def test_parts_of_a_url(url: str) -> None:
    found = place(url)
    assert found is not None
    assert found.origin + found.path == found.url == url
    assert found.host == url.split("//")[1].split("/")[0].removesuffix(":8080")


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        ("host", "http://example.org/other", "http://sub.example.org/"),
        ("host", "https://www.example.org/", "http://badexample.org/"),
        ("domain", "http://a.b.example.org/", "http://badexample.org/"),
        ("prefix", "http://www.example.org/docs/a", "http://www.example.org/doc"),
    ],
)
def test_scopes(scope: str, inside: str, outside: str) -> None:
    made = Scope(source("http://www.example.org/docs/index.html", scope=scope, block=["spam.example.org"]))
    places = [place(inside), place(outside)]
    assert [made.refusal(found) for found in places if found] == ["", "scope"]


def test_blocked_domains_and_prefixes_are_refused() -> None:
    scope = Scope(source("http://a.org/", scope="domain", block=["spam.a.org", "http://a.org/private"]))
    urls = ("http://a.org/x", "http://deep.spam.a.org/", "http://a.org/private/x")
    assert [scope.refusal(found) for url in urls if (found := place(url))] == ["", "blocked", "blocked"]


def test_traps_and_patterns() -> None:
    endless = [
        "/a" * 4,
        "/x" + "y" * 2000,
        "/q?" + "&".join(f"p{n}=1" for n in range(9)),
        "".join(f"/{n}" for n in range(21)),
    ]
    assert all(trap(found) for path in endless if (found := place("http://a.org" + path)))
    days = [place(f"http://a.org/cal/2026/{n}?view=day&t={n}") for n in range(3)]
    assert len({pattern(found) for found in days if found}) == 1
    assert not any(trap(found) for found in days if found)


def test_links_of_hard_pages() -> None:
    deep = b"<div>" * 100_000 + b'<a href="/deep">x</a>'
    page_links(deep, None, nofollow=False)  # neither hangs nor crashes
    page = '<?xml version="1.0" encoding="koi8-r"?><a href="/é">x</a><!-- <a href="/no">x</a> -->'
    page += "<a href>x</a><a href='#part'>x</a><area href=q>"
    assert page_links(page.encode(), "utf-8", nofollow=False).links == ["/é", "q"]
    second = b"<html><body><a href=/1></a></body></HTML ><html><body><a href=/2></a></body></html>"
    assert page_links(second, None, nofollow=False).links == ["/1", "/2"]
    assert page_links(b"", None, nofollow=False).links == []
    many = b"<a href=x>" * 5_000
    assert len(page_links(many, None, nofollow=False).links) == 2_000


def test_entities_of_a_sitemap_are_not_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("http://a.org/secret")
    entities = f'<!ENTITY f SYSTEM "{secret.as_uri()}"><!ENTITY a "{"a" * 100}"><!ENTITY b "{"&a;" * 100}">'
    urls = "".join(f"<url><loc>{loc}</loc></url>" for loc in ("&f;", "&b;", "http://a.org/1"))
    pages, maps = xml_links(f"<!DOCTYPE x [{entities}]><urlset>{urls}</urlset>".encode())
    assert (pages, maps) == (["http://a.org/1"], [])


def test_retry_after_takes_seconds_and_dates() -> None:
    assert [retry_after(value) for value in ("120", "", "soon", "-1", "²")] == [120, 0, 0, 0, 0]
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert retry_after("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9


def test_the_resolver_gives_permitted_addresses_only() -> None:
    async def looked_up(allowed: list[str], table: dict[str, str]) -> list[str]:
        resolver = GuardedResolver(AddressGuard(allowed), table)
        try:
            return [each["host"] for each in await resolver.resolve("localhost", 80)]
        finally:
            await resolver.close()

    assert "127.0.0.1" in asyncio.run(looked_up(["127.0.0.0/8", "::1"], {}))
    for table in ({}, {"localhost": "10.0.0.1"}, {"*": "169.254.169.254"}):
        with pytest.raises(ForbiddenAddress):
            asyncio.run(looked_up([], table))


@pytest.mark.parametrize(
    "wrong",
    [
        {"contact": ""},
        {"contact": "nobody"},
        {"seeds": []},
        {"seeds": ["ftp://a.org"]},
        {"user_agent": "a b/1"},
    ],
)
def test_a_crawl_without_contact_or_seeds_is_refused(wrong: dict[str, object]) -> None:
    given = {"kind": "crawl", "seeds": ["http://a.org/"], "contact": "me@a.org"}
    assert CrawlSource.model_validate(given)
    with pytest.raises(ValidationError):
        CrawlSource.model_validate(given | wrong)


def test_keys_of_the_index_sort_by_domain() -> None:
    assert surt("https://www.Example.co.uk:8080/A%20b?b=2&a=1") == "uk,co,example:8080)/a%20b?a=1&b=2"


def test_a_segment_is_applied_once_and_hosts_keep_to_one_worker(tmp_path: Path) -> None:
    seeds = [f"http://host{n}.test/" for n in range(40)]
    frontier = Frontier(tmp_path / "f.sqlite3", source(*seeds))
    taken = [{host for host, _, _ in frontier.take(worker, 4)} for worker in range(4)]
    assert sum(map(len, taken)) == len(set().union(*taken)) == 40
    assert frontier.take(0, 4) == []
    row = {"url": seeds[0], "kind": "page", "depth": 0, "outcome": "page", "fetched": True}
    row["links"] = [["http://host0.test/x", "page", 1, 0]]
    for _ in range(2):
        frontier.apply("001-a", [row])
    assert frontier.counts() == {"page": 1}
    assert frontier.left() == {"budget": 1, "host_down": 0}
    frontier.lost(0, 4)
    again = {host: wait for host, wait, _ in frontier.take(0, 4)}
    assert again.keys() == taken[0]
    frontier.close()
