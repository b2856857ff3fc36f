"""Pages of the live web: what is read, what is refused, and in which time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from headwater.serving.web import live
from headwater.serving.web.pages import Read
from tests.data_pipeline.crawl.web import Web, packed_zeros, page, response
from tests.serving.web.conftest import BRIDGE, Reader, plain

Make = Callable[..., Reader]


def reasons(read: Read) -> dict[str, str]:
    return {each.url: each.reason for each in read.failures}


def to(location: str) -> Callable[..., Any]:
    return lambda request: response(status=302, Location=location)


class Waiting:
    """asyncio with another `wait`."""

    def __init__(self, wait: Callable[..., Any]) -> None:
        self.wait = wait

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def never(request: Any) -> Any:
    await asyncio.sleep(60)


def test_a_page_is_its_main_text_with_title_and_places(web: Web, reader: Make) -> None:
    menu = "".join(f'<li><a href="/{n}">Menu entry {n}</a></li>' for n in range(30))
    web.site(
        "alder.example",
        **{
            "/bridge": f"<html><head><title>Bridge opened</title></head><body><nav><ul>{menu}</ul></nav>"
            f"<article><h1>Bridge opened</h1><p>{BRIDGE}</p></article></body></html>"
        },
    )
    read = reader()(web.url("alder.example", "/bridge?utm_source=mail#top"))
    (found,) = read.pages
    assert (found.url, found.title) == (web.url("alder.example", "/bridge"), "Bridge opened")
    text = " ".join(each.text for each in found.passages)
    assert BRIDGE in text and "Menu entry" not in text
    first = found.passages[0]
    assert len(first.text) == first.end - first.start and len(found.vectors) == len(found.passages)
    agent = web.requests[-1][3]["User-Agent"]
    assert agent.startswith("headwater/") and "(+live@example.org)" in agent


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.9/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://2130706441/",  # 127.0.0.9
        "http://metadata.example/",
    ],
)
def test_no_redirect_leads_into_the_own_network(web: Web, reader: Make, target: str) -> None:
    web.site("alder.example", **{"/": to(target)})
    read = reader(resolve={"alder.example": "127.0.0.1", "metadata.example": "169.254.169.254"})
    url = web.url("alder.example")
    told = read(url, target)
    assert reasons(told) == {url: "forbidden_address", target: "forbidden_address"} and not told.pages
    assert all(each.detail == "" for each in told.failures)  # nothing of the network is told


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://alder.example/", "javascript:alert(1)", ""])
def test_a_redirect_leads_to_web_pages_alone(web: Web, reader: Make, target: str) -> None:
    web.site("alder.example", **{"/": to(target)})
    url = web.url("alder.example")
    assert reasons(reader(max_redirects=1)(url))[url] in ("bad_redirect", "too_many_redirects")


def test_redirects_are_followed_as_often_as_set_with_the_robots_txt_of_each_host(
    web: Web, reader: Make
) -> None:
    web.site("a.example", **{"/1": to(web.url("b.example", "/2"))})
    web.site("b.example", **{"/2": to(web.url("c.example", "/3"))})
    web.site("c.example", **{"/3": plain()})
    start = web.url("a.example", "/1")
    assert reader(max_redirects=2)(start).pages[0].url == web.url("c.example", "/3")
    assert reasons(reader(max_redirects=1)(start)) == {start: "too_many_redirects"}
    web.sites["c.example"]["/robots.txt"] = "User-agent: headwater\nDisallow: /3"
    assert reasons(reader()(start)) == {start: "robots"}


def test_a_name_that_changes_its_address_reaches_nothing_new(
    web: Web, reader: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name server says an allowed address first, and the metadata address from then on."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    web.site("rebind.example", **{"/": plain()})
    url = web.url("rebind.example")
    first = reader(resolve={})
    assert first(url).pages and len(asked) == 1  # robots.txt and page by the address that was checked
    assert reasons(reader(resolve={})(url)) == {url: "forbidden_address"}
    assert web.asked() == {"rebind.example/robots.txt": 1, "rebind.example/": 1}


def test_robots_txt_and_opt_outs_are_obeyed(web: Web, reader: Make) -> None:
    web.site(
        "alder.example",
        **{
            "/robots.txt": "User-agent: *\nDisallow: /private",
            "/private": plain(),
            "/noai": plain(X_Robots_Tag="noai"),
            "/tdm": plain(TDM_Reservation="1"),
            "/meta": page(text=BRIDGE, head='<meta name="robots" content="noai">'),
            "/noindex": plain(X_Robots_Tag="noindex"),
        },
    )
    web.site("broken.example", **{"/robots.txt": lambda r: response(status=500), "/": plain()})
    urls = [web.url("alder.example", p) for p in ("/private", "/noai", "/tdm", "/meta", "/noindex")]
    down = web.url("broken.example")
    read = reader()(*urls, down)
    assert reasons(read) == dict.fromkeys(urls[1:4], "opt_out") | {
        urls[0]: "robots",
        down: "robots_unreachable",
    }
    assert [each.url for each in read.pages] == urls[4:]  # nothing is indexed
    assert "/private" not in web.paths("alder.example") and web.paths("broken.example") == []


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(web: Web, reader: Make) -> None:
    zeros = packed_zeros(50_000_000)
    web.site(
        "alder.example",
        **{
            "/good": plain(),
            "/gone": lambda r: response(status=404),
            "/pdf": lambda r: response(b"%PDF", Content_Type="application/pdf"),
            "/bomb": lambda r: response(zeros, Content_Encoding="gzip"),
            "/large": plain("word " * 1_000_000),
            "/empty": plain("  "),
            "/busy": lambda r: response(status=429),
        },
    )
    names = ("good", "gone", "pdf", "bomb", "large", "empty")
    urls = {name: web.url("alder.example", f"/{name}") for name in names}
    read = reader()(*urls.values(), "gopher://alder.example/", "http://user:word@alder.example/")
    assert [each.url for each in read.pages] == [urls["good"]]
    assert reasons(read) == {
        urls["gone"]: "http_status",
        urls["pdf"]: "type",
        urls["bomb"]: "too_large",
        urls["large"]: "too_large",
        urls["empty"]: "no_text",
        "gopher://alder.example/": "bad_url",
        "http://user:word@alder.example/": "bad_url",
    }


def test_a_slow_host_costs_only_its_own_page(web: Web, reader: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(pages: Iterable[asyncio.Task[Any]], timeout: float) -> None:
        """The time is up once a page has come, however slow this machine is."""
        assert 0 < timeout <= 60
        await asyncio.wait(pages, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    monkeypatch.setattr(live, "asyncio", Waiting(wait))
    web.site("slow.example", **{"/": never})
    web.site("mute.example", **{"/robots.txt": never, "/": plain()})
    web.site("alder.example", **{"/": plain()})
    slow, mute, good = (web.url(f"{name}.example") for name in ("slow", "mute", "alder"))
    read = reader(seconds=60)(slow, mute, good)
    assert [each.url for each in read.pages] == [good]
    assert reasons(read) == {slow: "timeout", mute: "timeout"}


def test_a_host_that_wants_longer_pauses_than_a_question_takes_is_left_alone(web: Web, reader: Make) -> None:
    web.site("calm.example", **{"/robots.txt": "User-agent: *\nCrawl-delay: 30", "/": plain()})
    url = web.url("calm.example")
    assert reasons(reader()(url)) == {url: "crawl_delay"} and web.paths("calm.example") == []


def test_two_questions_fetch_a_page_once_until_its_time_is_over(web: Web, reader: Make) -> None:
    web.site("alder.example", **{"/": plain(), "/private": plain(Cache_Control="private, no-store")})
    url, private = web.url("alder.example"), web.url("alder.example", "/private")
    kept = reader()
    assert kept(url, private).pages == kept(url, private).pages
    assert web.paths("alder.example") == ["/", "/private", "/private"]
    none = reader(cache_seconds=0)
    assert none(url).pages == none(url).pages
    assert web.paths("alder.example").count("/") == 3


def test_questions_at_the_same_time_fetch_a_page_once_and_one_that_goes_does_not_end_it(
    web: Web, reader: Make
) -> None:
    release = asyncio.Event()
    asked = asyncio.Event()

    async def held(request: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(release.wait(), loop))
        return plain()(request)

    web.site("alder.example", **{"/": held})
    url, read = web.url("alder.example"), reader()

    async def both() -> Read:
        gone, stays = (asyncio.create_task(read.live.read([url])) for _ in range(2))
        await asked.wait()
        gone.cancel()
        await asyncio.wait([gone])
        release.set()
        return await stays

    loop = read.runner.get_loop()
    assert read.runner.run(both()).pages
    assert web.paths("alder.example") == ["/"]


def test_a_client_that_goes_ends_its_requests(web: Web, reader: Make) -> None:
    asked = asyncio.Event()

    async def held(request: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        await asyncio.sleep(60)

    web.site("alder.example", **{"/": held})
    read = reader(seconds=60)

    async def leave() -> int:
        gone = asyncio.create_task(read.live.read([web.url("alder.example")]))
        await asked.wait()
        gone.cancel()
        await asyncio.wait([gone])
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=10) if others else None
        return sum(not each.done() for each in others)

    loop = read.runner.get_loop()
    assert read.runner.run(leave()) == 0


def test_only_the_languages_that_are_set_are_read(web: Web, reader: Make) -> None:
    german = "Die Stadt Erlau hat ihre alte Holzbrücke wieder aufgebaut. Sie wurde am Sonntag eröffnet."
    web.site("alder.example", **{"/de": plain(german), "/en": plain()})
    urls = [web.url("alder.example", path) for path in ("/de", "/en")]
    read = reader(languages=["en"])(*urls)
    assert reasons(read) == {urls[0]: "other_language"} and [each.url for each in read.pages] == urls[1:]


def test_long_pages_are_cut_and_pages_alone_are_ranked_by_the_question(web: Web, reader: Make) -> None:
    filler = "Nothing of note happened in the valley on any of these long and quiet days of the year. " * 400
    web.site(
        "alder.example",
        **{"/a": plain(f"{filler}\n\n{BRIDGE}"), "/b": plain("Rain fell on the hills all week.")},
    )
    urls = [web.url("alder.example", path) for path in ("/a", "/b")]
    read = reader()
    pages = read(*urls).pages
    (best, *_) = read.live.rank("Who opened the wooden bridge of Alder?", 3, 2, 0.5, pages)
    assert BRIDGE[:20] in best.text and best.url == urls[0]
    assert read.live.rank("How do submarines dive?", 3, 2, 0.6, pages) == []
    assert read.live.rank("anything", 3, 2, 0.0, []) == []
    cut = reader(max_characters=1000)(urls[0]).pages[0]
    assert max(each.end for each in cut.passages) <= 1000
