"""Kinds of hosts of a web of one's own. Each function makes a host and returns the paths of pages to get."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.data_pipeline.crawl.web import Web, packed_zeros, page, response

Kind = Callable[[Web, str], set[str]]
KINDS: dict[str, Kind] = {}
PER_PATTERN = 12
"""`max_per_pattern` of the crawl."""
BOMB = packed_zeros(60_000_000)


def kind(make: Kind) -> Kind:
    KINDS[make.__name__] = make
    return make


def made(net: Web, hosts: int) -> dict[str, set[str]]:
    """`hosts` hosts, as many of each kind as of any other but for one: host → paths that a crawl gets."""
    golden = {}
    for number, name in zip(range(hosts), itertools.cycle(KINDS), strict=False):
        host = f"{name}-{number}.test".replace("_", "-")
        net.site(host)
        golden[host] = KINDS[name](net, host)
        if name == "plain":
            net.awaited |= {host + path for path in golden[host]}
    return golden


def once(answer: web.Response) -> Callable[[web.Request], web.Response]:
    """The first request for a path gets `answer`, later ones a page."""
    seen: Counter[str] = Counter()

    def reply(request: web.Request) -> web.Response:
        seen[request.path] += 1
        if seen[request.path] > 1:
            return response(page())
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    return reply


@kind
def plain(net: Web, host: str) -> set[str]:
    """Pages that link to each other and to other sites."""
    net.sites[host] |= {
        "/": page("/1", "/2", "mailto:a@b.test", "http://elsewhere.test/"),
        "/1": page("/", "/2", "/3"),
        "/2": page("3", net.url(host, "/1")),
        "/3": page("/1", "//elsewhere.test/x"),
    }
    return {"/", "/1", "/2", "/3"}


@kind
def duplicates(net: Web, host: str) -> set[str]:
    """One page under many spellings, and by redirects."""
    spellings = (
        "/a#x",
        "./a",
        "/b/../a",
        "/a?utm_source=mail",
        "/a?",
        "/%61",
        f"http://{host.upper()}:{net.port}/a",
    )
    net.sites[host] |= {"/": page(*spellings, "/to"), "/a": page("/a", "/")}
    net.sites[host]["/to"] = lambda request: response(status=302, Location="/a")
    # A percent-encoded letter is another URL after the WHATWG standard.
    net.sites[host]["/%61"] = page()
    return {"/", "/a", "/%61"}


@kind
def rules(net: Web, host: str) -> set[str]:
    """A robots.txt that allows a part, for this crawler alone."""
    robots = "User-agent: *\nDisallow: /\n\nUser-agent: headwater\nDisallow: /no\nAllow: /no/yes\n"
    net.sites[host] |= {"/robots.txt": robots, "/": page("/no/1", "/no/yes", "/1"), "*": page()}
    return {"/", "/no/yes", "/1"}


@kind
def closed(net: Web, host: str) -> set[str]:
    """A server whose robots.txt fails is not visited."""
    net.sites[host] |= {"/robots.txt": lambda request: response(status=503), "*": page()}
    return set()


@kind
def forbidden_rules(net: Web, host: str) -> set[str]:
    """A robots.txt that is forbidden forbids nothing."""
    net.sites[host] |= {"/robots.txt": lambda request: response(status=403), "/": page("/1"), "/1": page()}
    return {"/", "/1"}


@kind
def unhurried(net: Web, host: str) -> set[str]:
    """A host that asks for longer pauses."""
    net.sites[host] |= {"/robots.txt": "User-agent: *\nCrawl-delay: 0.3\n", "/": page("/1"), "/1": page()}
    return {"/", "/1"}


@kind
def mapped(net: Web, host: str) -> set[str]:
    """Pages that only sitemaps name: an index, packed, cut off, with copies."""

    def urls(*paths: str) -> str:
        return "".join(f"<url><loc>{net.url(host, path)}</loc></url>" for path in paths)

    maps = "".join(
        f"<sitemap><loc>{net.url(host, path)}</loc></sitemap>" for path in ("/m1", "/m2", "/index")
    )
    files = {
        "/index": f"<sitemapindex>{maps}</sitemapindex>".encode(),
        "/m1": gzip.compress(f"<urlset>{urls('/1', '/2', '/1')}</urlset>".encode()),
        "/m2": f"<urlset>{urls('/3', '/')}<url><loc>http://cut".encode(),
    }
    for path, body in files.items():
        net.sites[host][path] = lambda request, body=body: response(body, Content_Type="application/xml")
    net.sites[host] |= {"/robots.txt": f"Sitemap: {net.url(host, '/index')}\n", "*": page()}
    return {"/", "/1", "/2", "/3"}


@kind
def fed(net: Web, host: str) -> set[str]:
    """A feed."""
    feed = f"<rss><channel><item><link>{net.url(host, '/new')}</link></item></channel></rss>"
    net.sites[host] |= {
        "/": page(head='<link rel="alternate" type="application/rss+xml" href="/feed">'),
        "/feed": lambda request: response(feed, Content_Type="application/rss+xml"),
        "/new": page(),
    }
    return {"/", "/new"}


@kind
def loops(net: Web, host: str) -> set[str]:
    """Redirects in a circle, without end, and to nowhere."""

    def onwards(request: web.Request) -> web.Response:
        return response(status=301, Location=f"/on{int(request.path[3:]) + 1}")

    net.sites[host] |= {
        "/": page("/round", "/on0", "/nowhere"),
        "/round": lambda request: response(status=302, Location="/trip"),
        "/trip": lambda request: response(status=307, Location="/round"),
        "/nowhere": lambda request: response(status=302),
    } | {f"/on{n}": onwards for n in range(20)}
    return {"/"}


@kind
def calendar(net: Web, host: str) -> set[str]:
    """Days without end."""

    def day(request: web.Request) -> web.Response:
        number = int(request.query["day"])
        return response(page(f"/c?day={number + 1}", f"/c?day={number + 2}"))

    net.sites[host] |= {"/": page("/c?day=0"), "/c": day}
    return {"/"} | {f"/c?day={n}" for n in range(PER_PATTERN)}


@kind
def growing(net: Web, host: str) -> set[str]:
    """Paths that repeat themselves, sessions and parameters without end."""
    many = "/q?" + "&".join(f"p{n}=1" for n in range(9))
    net.sites[host] |= {"/": page("/x/", many, "/s/" * 21), "*": page("x/")}
    return {"/", "/x/", "/x/x/", "/x/x/x/"}


@kind
def stuck(net: Web, host: str) -> set[str]:
    """A host that answers only after all pages of the plain hosts were asked for."""

    async def late(request: web.Request) -> web.Response:
        await net.all_asked.wait()
        return response(page("/1"))

    net.sites[host] |= {"/": late, "/1": page()}
    return {"/", "/1"}


@kind
def cut_off(net: Web, host: str) -> set[str]:
    """Connections that break off in the middle of a page."""

    async def half(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "text/html"})
        await answer.prepare(request)
        await answer.write(b"<a href='/no'>half")
        assert request.transport is not None
        request.transport.close()
        return answer

    net.sites[host] |= {"/": page("/half", "/1"), "/half": half, "/1": page()}
    return {"/", "/1"}


@kind
def charsets(net: Web, host: str) -> set[str]:
    """Charsets that are named wrongly, twice or not at all; links are read all the same."""
    koi8 = page("/да").encode("koi8-r")
    net.sites[host] |= {
        "/": page("/latin", "/lies", "/koi8", "/none"),
        "/latin": lambda request: response(
            page("/caf\xe9").encode("latin-1"), Content_Type="text/html; charset=iso-8859-1"
        ),
        "/lies": lambda request: response(page("/1") + "é", Content_Type="text/html; charset=no-such"),
        "/koi8": lambda request: response(koi8, Content_Type="text/html; charset=koi8-r"),
        "/none": lambda request: response(b"\xef\xbb\xbf" + page("/2").encode(), Content_Type="text/html"),
        "*": page(),
    }
    return {"/", "/latin", "/lies", "/koi8", "/none", "/caf%C3%A9", "/1", "/%D0%B4%D0%B0", "/2"}


@kind
def busy(net: Web, host: str) -> set[str]:
    """A server that asks to come again, and one page that asks for a day."""
    net.sites[host] |= {
        "/": once(response("later", 503, Retry_After="0")),
        "/robots.txt": f"Sitemap: {net.url(host, '/map')}",
        "/map": lambda request: response(
            "\n".join(net.url(host, path) for path in ("/1", "/day", "/500")), Content_Type="text/plain"
        ),
        "/1": once(response("later", 429)),
        "/day": lambda request: response("", 429, Retry_After="86400"),
        "/500": lambda request: response("", 500),
    }
    return {"/", "/1"}


@kind
def bombs(net: Web, host: str) -> set[str]:
    """Bodies that unpack without end, too large ones, other types, other statuses."""
    net.sites[host] |= {
        "/": page("/bomb", "/big", "/pdf", "/gone", "/broken", "/1"),
        "/bomb": lambda request: response(BOMB, Content_Encoding="gzip"),
        "/big": lambda request: response(b"<p>" + bytes(1_500_000)),
        "/pdf": lambda request: response(b"%PDF", Content_Type="application/pdf"),
        "/gone": lambda request: response(page("/no"), status=410),
        "/broken": lambda request: response(b"\x1f\x8b broken", Content_Encoding="gzip"),
        "/1": page(),
    }
    return {"/", "/1"}


@kind
def reserved(net: Web, host: str) -> set[str]:
    """Every way to opt out."""
    tdm = [{"location": "/free/", "tdm-reservation": 0}, {"location": "/*/tdm", "tdm-reservation": 1}]
    net.sites[host] |= {
        "/ai.txt": "User-Agent: *\nDisallow: /ai\n",
        "/.well-known/tdmrep.json": json.dumps(tdm),
        "/": page("/ai/1", "/x/tdm", "/free/tdm", "/head", "/noai", "/unfollowed"),
        "/head": lambda request: response(page(), X_Robots_Tag="noindex"),
        "/noai": page(head='<meta name="robots" content="noai">'),
        "/unfollowed": page("/no", head='<meta name="robots" content="nofollow">'),
        "*": page(),
    }
    return {"/", "/free/tdm", "/unfollowed"}


@kind
def changing(net: Web, host: str) -> set[str]:
    """A page that is another one each time, and one that is known to be the same."""
    seen: Counter[str] = Counter()

    def answer(request: web.Request) -> web.Response:
        seen[request.path] += 1
        tag = '"same"' if request.path == "/same" else f'"{seen[request.path]}"'
        if request.headers.get("If-None-Match") == tag:
            return response(status=304, ETag=tag)
        return response(page("/same", text=f"version {tag}"), ETag=tag)

    net.sites[host] |= {"/": answer, "/same": answer}
    return {"/", "/same"}


ASKED_AGAIN: dict[str, Any] = {
    "closed": ("/robots.txt",),
    "cut-off": ("/half",),
    "busy": ("/", "/1", "/500"),
}
"""Paths that are asked for again by kind, because another attempt may succeed."""
