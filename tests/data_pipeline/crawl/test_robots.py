"""robots.txt: the cases of Google's parser, and the limits of RFC 9309."""

from __future__ import annotations

import pytest

from headwater.data_pipeline.crawl.robots import ROBOTS_BYTES, read

GROUPS = (
    "allow: /foo/bar/||user-agent: FooBot|disallow: /|allow: /x/|user-agent: BarBot|disallow: /|allow: /y/"
    "|||allow: /w/|user-agent: BazBot||user-agent: FooBot|allow: /z/|disallow: /"
)
FOO = "user-agent: FooBot|"
GOOGLE = [
    ("", "FooBot", "/", ""),
    (FOO + "disallow: /", "FooBot", "", "/ /x/y"),
    ("foo: FooBot|bar: /", "FooBot", "/x/y", ""),
    ("user-agent FooBot|disallow /", "FooBot", "", "/x/y"),
    (GROUPS, "FooBot", "/x/b /z/d", "/y/c /foo/bar/"),
    (GROUPS, "BarBot", "/y/c /w/a", "/z/d /foo/bar/"),
    (GROUPS, "BazBot", "/z/d", "/foo/bar/"),
    ("user-agent: BarBot|sitemap: https://foo.bar/s|user-agent: *|disallow: /", "BarBot", "", "/"),
    (FOO + "Invalid-Unknown-Line: unknown|user-agent: *|disallow: /", "FooBot", "", "/"),
    ("USER-AGENT: FooBot|ALLOW: /x/|DISALLOW: /", "FooBot", "/x/y", "/a/b"),
    ("uSeR-aGeNt: foobot|AlLoW: /x/|dIsAlLoW: /", "FooBot", "/x/y", "/a/b"),
    ("user-agent: FOO BAR|allow: /x/|disallow: /", "Foo", "/x/y", "/a/b"),
    ("user-agent: *|allow: /|user-agent: FooBot|disallow: /", "FooBot", "", "/x/y"),
    (FOO + "allow: /|user-agent: BarBot|disallow: /", "QuxBot", "/x/y", ""),
    (FOO + "disallow: /X/", "FooBot", "/x/y", "/X/y"),
    (FOO + "disallow: /x/page.html|allow: /x/", "FooBot", "/x/", "/x/page.html"),
    (FOO + "allow: /x/page.html|disallow: /x/", "FooBot", "/x/page.html", "/x/"),
    (FOO + "disallow: |allow: ", "FooBot", "/x/page.html", ""),
    (FOO + "disallow: /|allow: /", "FooBot", "/x/page.html", ""),
    (FOO + "disallow: /x|allow: /x/", "FooBot", "/x/", "/x"),
    (FOO + "disallow: /x/page.html|allow: /x/page.html", "FooBot", "/x/page.html", ""),
    (FOO + "allow: /page|disallow: /*.html", "FooBot", "/page", "/page.html"),
    (FOO + "allow: /x/page.|disallow: /*.html", "FooBot", "/x/page.html", "/x/y.html"),
    ("user-agent: *|disallow: /x/|" + FOO + "disallow: /y/", "FooBot", "/x/page", "/y/page"),
    (FOO + "disallow: /|allow: /foo?a=b&c=http://f?t&p", "FooBot", "/foo?a=b&c=http://f?t&p", "/foo"),
    (FOO + "disallow: /|allow: /foo/bar/ツ", "FooBot", "/foo/bar/%E3%83%84", "/foo/bar/"),
    (FOO + "disallow: /|allow: /foo/bar/%E3%83%84", "FooBot", "/foo/bar/%E3%83%84", "/foo/bar/"),
    (FOO + "disallow: /|allow: /foo/%62%61%7A", "FooBot", "/foo/%62%61%7A", "/foo/"),
    (FOO + "disallow: /foo/bar/quz|allow: /foo/*/qux", "FooBot", "/foo/quz /foo//quz", "/foo/bar/quz"),
    (FOO + "disallow: /foo/bar$|allow: /foo/bar/qux", "FooBot", "/foo/bar/qux /foo/bar/", "/foo/bar"),
    (FOO + "# disallow: /|disallow: /foo/quz#qux|allow: /", "FooBot", "/foo/bar", "/foo/quz"),
    ("user-agent: *|allow: /a/index.html|disallow: /", "FooBot", "/a/index.html /a/", "/a/index.htm /b"),
    ("\ufeffuser-agent: foo|allow: /AnyValue|disallow: /", "foo", "/AnyValue", "/x"),
    *(
        (f"user agent: FooBot|{typo}: /a/", "FooBot", "/", "/a/b")
        for typo in ("dissallow", "dissalow", "disalow", "diasllow", "disallaw")
    ),
]
"""Cases of robots_test.cc (github.com/google/robotstxt): lines, agent, allowed and refused paths. Left out:
`/%62%61%7A` must not match `/baz` there, and must after RFC 9309, 2.2.2."""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_robots_txt_is_read_as_google_reads_it(end: str) -> None:
    for lines, agent, allowed, refused in GOOGLE:
        robots = read((lines.replace("|", end) + end).encode(), agent)
        decided = {path: robots.allows(f"http://foo.bar{path}") for path in f"{allowed} {refused}".split()}
        expected = dict.fromkeys(allowed.split(), True) | dict.fromkeys(refused.split(), False)
        assert decided == expected, lines


FISH = "/fish /fish.html /fish/salmon.html /fishheads /fishheads/yummy.html /fish.php?id=anything"
NO_FISH = "/Fish.asp /catfish /?id=fish /desert/fish"
DOCUMENTED = [
    ("disallow: /fish", NO_FISH, FISH),
    ("disallow: /fish*", NO_FISH, FISH),
    (
        "disallow: /fish/",
        "/fish /fish.html /animals/fish/ /Fish/Salmon.asp",
        "/fish/ /fish/?id=x /fish/salmon.htm",
    ),
    ("disallow: /*.php", "/ /windows.PHP", "/index.php /folder/any.php.file.html /filename.php/ /f/a.php?p"),
    (
        "disallow: /*.php$",
        "/filename.php?p /filename.php/ /filename.php5 /windows.PHP",
        "/f.php /folder/f.php",
    ),
    ("disallow: /fish*.php", "/Fish.PHP", "/fish.php /fishheads/catfish.php?parameters"),
    ("allow: /p|disallow: /", "/page", "/x"),
    ("allow: /folder|disallow: /folder", "/folder/page", ""),
    ("allow: /page|disallow: /*.htm", "/page", "/page.htm"),
    ("allow: /page|disallow: /*.ph", "/page.php5", "/x.php5"),
    ("allow: /$|disallow: /", "/", "/page.htm"),
]
"""Examples of https://developers.google.com/search/docs/crawling-indexing/robots/robots_txt, on path values
and on precedence: rules, allowed and refused paths. TDMRep matches in the same way."""


def test_patterns_match_as_google_documents_it() -> None:
    for rules, allowed, refused in DOCUMENTED:
        robots = read(("user-agent: *\n" + rules.replace("|", "\n")).encode(), "headwater")
        decided = {path: robots.allows(f"http://a{path}") for path in f"{allowed} {refused}".split()}
        assert decided == dict.fromkeys(allowed.split(), True) | dict.fromkeys(refused.split(), False), rules


def test_a_robots_txt_is_read_up_to_its_limit() -> None:
    filler = b"# x\n" * (ROBOTS_BYTES // 4)
    assert not read(b"user-agent: *\ndisallow: /\n" + filler, "a").allows("http://a/")
    assert read(filler + b"user-agent: *\ndisallow: /\n", "a").allows("http://a/")
    robots = read(b"User-agent: *\nCrawl-delay: 2.5\nSitemap: http://a/s.xml\nSitemap: /t.xml", "a")
    assert (robots.delay, robots.sitemaps) == (2.5, ["http://a/s.xml", "/t.xml"])
