"""Opt-outs: of pages, of sites, of stored responses; from the crawl to the corpus and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.stage import Clean, CleanConfig
from headwater.data_pipeline.crawl.run import warc_files
from headwater.data_pipeline.crawl.site_rules import SiteRules
from headwater.data_pipeline.crawl.urls import place
from headwater.data_pipeline.sources.opt_outs import metas_of, opt_outs
from headwater.data_pipeline.tables import read_table
from tests.data_pipeline.corpora import article
from tests.data_pipeline.crawl.conftest import Crawl
from tests.data_pipeline.crawl.web import Web, page, response
from tests.data_pipeline.sources.readers.test_sources_files import warc_record


@pytest.mark.parametrize(
    ("headers", "metas", "expected"),
    [
        ([("X-Robots-Tag", "noai, NOIMAGEAI")], [], {"noai", "noimageai"}),
        ([("x-robots-tag", "otherbot: noindex, nofollow")], [], set()),
        ([("X-Robots-Tag", "otherbot: noindex, headwater: nofollow")], [], {"nofollow"}),
        ([("X-Robots-Tag", "unavailable_after: 25 Jun 2027 15:00:00 GMT, noindex")], [], {"noindex"}),
        ([], [("Robots", "none")], {"noindex", "nofollow"}),
        ([], [("googlebot", "noindex"), ("headwater", "noai")], {"noai"}),
        ([("TDM-Reservation", " 1 ")], [], {"tdm-reservation"}),
        ([("TDM-Reservation", "0")], [("tdm-reservation", "0")], set()),
        ([("TDM-Reservation", "1")], [("tdm-reservation", "0")], set()),  # the tag has the last word
        ([("TDM-Reservation", "0")], [("tdm-reservation", "1")], {"tdm-reservation"}),
        ([("TDM-Reservation", "1")], [("tdm-reservation", "yes")], {"tdm-reservation"}),
        ([], [("description", "noai"), ("robots", "index, follow, max-snippet:-1")], set()),
    ],
)
def test_opt_outs_of_headers_and_tags(
    headers: list[tuple[str, str]], metas: list[tuple[str, str]], expected: set[str]
) -> None:
    assert opt_outs(headers, metas, "Headwater") == expected


def test_tags_are_found_without_parsing_the_page() -> None:
    html = b"""<META content='noai, x' name="Robots"><meta name=tdm-reservation content=1 />
    <!-- <meta name="robots" content="noindex"> --><meta name="description" content="robots">
    <meta property="og:robots" content="none"><meta charset=utf-8><meta name="headwater" content="noindex">"""
    assert metas_of(html) == [("robots", "noai, x"), ("tdm-reservation", "1"), ("headwater", "noindex")]


AI_TYPES = "# Spawning AI\n# Prevent datasets from using the following file types\n\nUser-Agent: *\n"


@pytest.mark.parametrize(
    ("ai", "tdm", "expected"),
    [
        ("", "", ""),
        (AI_TYPES + "Disallow: /\nDisallow: *\n", "", "/:ai /a:ai /p/x.html?q:ai /x.txt:ai"),
        (AI_TYPES + "Disallow: *.txt\nDisallow: *.jpg\n", "", "/x.txt:ai"),
        (AI_TYPES + "Disallow: *.html\nAllow: /a\n", "", "/:ai /a:ai /p/x.html?q:ai"),
        ("User-Agent: otherbot\nDisallow: /\n", "", ""),
        ("User-Agent: headwater\nDisallow: /p/\n", "", "/p/x.html?q:ai"),
        ("# A site about rivers\n\nWrite about us.", "", ""),
        ("", [{"location": "/", "tdm-reservation": 1}], "/:tdm /a:tdm /p/x.html?q:tdm /x.txt:tdm"),
        ("", [{"location": "/p/", "tdm-reservation": 0}, {"location": "/*.html", "tdm-reservation": 1}], ""),
        ("", [{"location": "/*.html", "tdm-reservation": 1}, {"location": "/p/", "tdm-reservation": 0}],
         "/p/x.html?q:tdm"),
        ("", [{"location": "/a$", "tdm-reservation": "1"}], "/a:tdm"),
        ("", [{"location": "/", "tdm-reservation": 2}, {"location": "/"}, 3], ""),
        ("", [{"location": "/x\ndisallow: /", "tdm-reservation": 1}], ""),
        ("", {"location": "/", "tdm-reservation": 1}, ""),
        (AI_TYPES + "Disallow: /a\n", [{"location": "/a", "tdm-reservation": 1}], "/a:ai,tdm"),
    ],
)  # fmt: skip
def test_files_of_a_site_exclude_its_pages(ai: str, tdm: Any, expected: str) -> None:
    rules = SiteRules(ai.encode(), json.dumps(tdm).encode() if tdm else b"<html>", "headwater")
    short = {"ai.txt": "ai", "tdm-reservation": "tdm"}
    found = {}
    for path in ("/", "/a", "/p/x.html?q", "/x.txt"):
        where = place(f"https://a.org{path}")
        assert where is not None
        found[path] = ",".join(sorted(short[mark] for mark in rules.of(where)))
    assert " ".join(f"{path}:{marks}" for path, marks in found.items() if marks) == expected


def site(net: Web) -> str:
    """A page that may be used, and one for each way to say no."""
    net.site("a.test", **{"/": page("/ai/1", "/tdm/1", "/tdm/2", "/head", "/free"), "*": page()})
    net.site("a.test")["/ai.txt"] = "User-Agent: *\nDisallow: /ai/\n"
    rules = [{"location": "/tdm/", "tdm-reservation": 1}]
    net.site("a.test")["/.well-known/tdmrep.json"] = json.dumps(rules)
    net.site("a.test")["/head"] = lambda request: response(page(), TDM_Reservation="1")
    net.site("a.test")["/tdm/2"] = page(head='<meta name="tdm-reservation" content="0">')
    return net.url("a.test")


def test_pages_that_their_site_excludes_are_not_asked_for(net: Web, run: Crawl) -> None:
    counts = run(site(net), sitemaps=False)
    assert sorted(net.paths("a.test")) == ["/", "/free", "/head"]
    assert {url.rpartition("a.test")[2].partition("/")[2] for url in run.stored()} == {"", "free"}
    assert counts["opt_out"] == 4
    log = {url.rpartition(str(net.port))[2]: row.get("opt_outs") for url, row in run.log().items()}
    assert (log["/ai/1"], log["/tdm/1"], log["/head"]) == (
        ["ai.txt"],
        ["tdm-reservation"],
        ["tdm-reservation"],
    )
    for path in ("/ai.txt", "/.well-known/tdmrep.json"):
        assert net.asked()[f"a.test{path}"] == 1
    assert run(net.url("a.test"), sitemaps=False) == counts


def rows_of(acquired: Artifact, folder: str) -> list[dict[str, Any]]:
    names = acquired.files(folder, ".parquet")
    return [row for name in names for row in read_table(acquired, name).to_pylist()]


def test_opt_outs_that_are_not_obeyed_go_with_the_documents(net: Web, run: Crawl, here: Session) -> None:
    run(site(net), sitemaps=False, obey_opt_outs=False)
    files = warc_files(run.output)
    settings: dict[str, Any] = {"kind": "warc", "paths": files}
    acquired, _ = execute(Acquire(AcquireConfig.model_validate({"sources": [settings]})), {}, here)
    rows = rows_of(acquired, "documents")
    known = {row["url"].rpartition(str(net.port))[2]: row.get("metadata") for row in rows}
    assert known == {
        "/": None,
        "/ai/1": '{"opt_outs": ["ai.txt"]}',
        "/tdm/1": '{"opt_outs": ["tdm-reservation"]}',
        "/tdm/2": None,  # the page's own word is above the file's
        "/head": '{"opt_outs": ["tdm-reservation"]}',
        "/free": None,
    }
    settings["obey_opt_outs"] = True
    acquired, _ = execute(Acquire(AcquireConfig.model_validate({"sources": [settings]})), {}, here)
    assert len(rows_of(acquired, "documents")) == 3
    assert acquired.finished().metrics["rejected"]["opt_out"] == 3


def test_opt_outs_of_an_archive_are_recorded_up_to_the_card(tmp_path: Path, here: Session) -> None:
    def record(number: int, head: str, headers: str = "") -> bytes:
        paragraphs = "".join(f"<p>{part}.</p>" for part in article(number).removesuffix(".").split(". "))
        body = f"<html><head>{head}</head><body><article>{paragraphs}</article></body></html>"
        return warc_record(f"https://a.org/{number}", body.encode(), f"Content-Type: text/html{headers}")

    robots = '<meta name="robots" content="%s">'
    records = [
        record(0, robots % "index, follow"),
        record(1, robots % "noai"),
        record(2, "", "\r\nX-Robots-Tag: noarchive\r\nX-Robots-Tag: noindex"),
        record(3, robots % "nofollow"),
    ]
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    sources = {"sources": [{"kind": "warc", "paths": [str(path)]}]}
    acquired, _ = execute(Acquire(AcquireConfig.model_validate(sources)), {}, here)
    corpus, _ = execute(Clean(CleanConfig()), {"acquire": acquired}, here)
    known = {row["url"][-1]: row["metadata"] for row in rows_of(corpus, "kept")}
    assert known == {
        "0": None,
        "1": '{"opt_outs": ["noai"]}',
        "2": '{"opt_outs": ["noarchive", "noindex"]}',
        "3": '{"opt_outs": ["nofollow"]}',
    }
    assert corpus.read_json("card.json")["opt_outs"] == dict.fromkeys(
        ("noai", "noarchive", "nofollow", "noindex"), 1
    )
    assert "| noai | 1 |" in corpus.read_bytes("card.md").decode()
