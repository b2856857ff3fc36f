"""SearXNG and Brave by their protocols, and what goes wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web as aiohttp_web
from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.serving.web.provider import key_of
from tests.data_pipeline.crawl.web import Web, response
from tests.ports import free_ports
from tests.serving.web.conftest import BRIDGE, Reader, brave, config, plain, searxng

Make = Callable[..., Reader]
QUERY = "Who opened the bridge?"


def instance(web: Web) -> dict[str, Any]:
    return {"kind": "searxng", "url": f"http://127.0.0.1:{web.port}"}


def test_searxng_is_asked_for_json_and_its_best_pages_are_read(web: Web, reader: Make) -> None:
    web.site("alder.example", **{f"/{n}": plain(f"{BRIDGE} Part {n}.") for n in range(3)})
    urls = [web.url("alder.example", f"/{n}") for n in range(3)]
    web.sites["127.0.0.1"] = {"/search": searxng(urls[2], urls[2], urls[0], urls[1])}
    read = reader(search=instance(web), results=2)
    found = read(query=QUERY)
    assert [each.url for each in found.pages] == [urls[2], urls[0]] and not found.failures
    asked = [path for _, host, path, _ in web.requests if host == "127.0.0.1"]
    assert asked == ["/search?q=Who+opened+the+bridge?&format=json"]
    read(query=QUERY)
    assert len([host for _, host, _, _ in web.requests if host == "127.0.0.1"]) == 1  # kept for some minutes


def test_brave_gets_its_key_in_its_header(web: Web, reader: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    web.site("alder.example", **{"/": plain()})
    web.sites["127.0.0.1"] = {"/res/v1/web/search": brave(web.url("alder.example"))}
    monkeypatch.setenv("SOME_KEY", "a-secret")
    provider = {"kind": "brave", "url": f"http://127.0.0.1:{web.port}", "key_env": "SOME_KEY"}
    read = reader(search=provider, results=3)
    assert [each.url for each in read(query=QUERY).pages] == [web.url("alder.example")]
    ((_, _, path, headers),) = [each for each in web.requests if each[1] == "127.0.0.1"]
    assert headers["X-Subscription-Token"] == "a-secret" and "count=3" in path and "a-secret" not in path
    web.sites["127.0.0.1"] = {"/res/v1/web/search": brave()}  # without `web`: nothing was found
    found = read(query="Another question?")
    assert (found.pages, found.failures) == ((), ())


def test_without_its_key_brave_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    with pytest.raises(HeadwaterError, match="BRAVE_API_KEY has no key"):
        key_of(config(search={"kind": "brave"}).search)


async def _slow(request: Any) -> Any:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda r: response(status=429, Retry_After="30"), "search_rate_limited"),
        (lambda r: response(status=403), "search_status"),
        (lambda r: response("<html>not JSON</html>"), "search_invalid"),
        (lambda r: response('{"results": 3}'), "search_invalid"),
        (lambda r: response('["results"]'), "search_invalid"),
        (lambda r: response("[" * 200_000), "search_invalid"),
        (lambda r: response(status=302, Location="http://alder.example/"), "search_status"),
        (_slow, "search_timeout"),
    ],
)
def test_a_search_that_fails_is_told_and_named_pages_are_read(
    web: Web, reader: Make, answer: Callable[[aiohttp_web.Request], Any], reason: str
) -> None:
    web.sites["127.0.0.1"] = {"/search": answer}
    web.site("alder.example", **{"/": plain()})
    read = reader(search=instance(web), seconds=0.8 if answer is _slow else 20)(query=QUERY)
    assert [(each.url, each.reason) for each in read.failures] == [("", reason)]
    assert "alder.example/" not in web.asked()


def test_a_search_that_is_not_there_is_told(reader: Make) -> None:
    (unused_port,) = free_ports(1)
    read = reader(search={"kind": "searxng", "url": f"http://127.0.0.1:{unused_port}"})(query=QUERY)
    assert [each.reason for each in read.failures] == ["search_unreachable"]
    assert str(unused_port) not in read.failures[0].detail


def test_results_of_a_search_are_no_way_around_the_guard(web: Web, reader: Make) -> None:
    inner = "http://127.0.0.9/admin"
    web.sites["127.0.0.1"] = {"/search": searxng(inner, "file:///etc/passwd")}
    read = reader(search=instance(web))(query=QUERY)
    assert {each.url: each.reason for each in read.failures} == {
        inner: "forbidden_address",
        "file:///etc/passwd": "bad_url",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"contact": "nobody"},
        {"contact": ""},
        {"urls": False},
        {"search": {"kind": "searxng"}},
        {"search": {"kind": "searxng", "url": "ftp://host"}},
        {"search": {"kind": "bing", "url": "https://host"}},
        {"seconds": 0},
        {"allow_addresses": ["somewhere"]},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)
