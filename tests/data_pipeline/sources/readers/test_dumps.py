"""MediaWiki dumps, mailboxes, CSV tables and JSON arrays: a bad record costs only itself."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.guess import sources_of
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.readers import mediawiki
from headwater.data_pipeline.sources.spec import Columns
from tests.data_pipeline.reading import read_all, source_of

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de"><siteinfo>'
    "<base>https://de.wikipedia.org/wiki/Haupt</base><namespaces>"
    '<namespace key="6" case="first-letter">Datei</namespace></namespaces></siteinfo>\n'
)


def wiki_page(title: str, text: str, ns: str = "0", more: str = "") -> str:
    old = "<revision><timestamp>2001-01-01T00:00:00Z</timestamp><text>old</text></revision>"
    new = f"<revision><timestamp>2026-01-02T00:00:00Z</timestamp><text bytes='1'>{text}</text></revision>"
    return f"<page><title>{title}</title><ns>{ns}</ns>{more}{old}{new}</page>\n"


PAGES = [
    wiki_page("Der Fluss", "Ein '''Fluss''' &amp; [[Datei:a.jpg]]mehr."),
    wiki_page("Strom", "#REDIRECT [[Fluss]]", more='<redirect title="Der Fluss" />'),
    wiki_page("Diskussion:Fluss", "Ich finde", ns="1"),
    wiki_page("Kaputt", "a <b"),
    wiki_page("Entities", "&bomb;"),
    wiki_page("Groß", "x" * 9000),
    wiki_page("See", "Ein See."),
]
MAILS = b"""From a@example.org Thu Jan  1 00:00:00 2026
From: a@example.org
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Message-ID: <1@example.org>
Date: Thu, 01 Jan 2026 10:00:00 +0000

First words.
>From the start.

On Monday B wrote:
> older words
> and more

Last words.
--\x20
A signature
From the middle of a text

From b@example.org Thu Jan  1 00:00:00 2026
Subject: both
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Sch=F6ne Worte
--x
Content-Type: application/pdf
Content-Disposition: attachment

%PDF
--x--

From c@example.org Thu Jan  1 00:00:00 2026
Content-Type: text/html

<p>Words of a <b>page</b></p>

From d@example.org Thu Jan  1 00:00:00 2026
Subject: empty

"""
ROWS = [{"text": f'a "quoted" }}] {n}', "url": f"u:{n}"} for n in range(4)]


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_a_dump_gives_its_articles_and_names_the_other_pages(tmp_path: Path) -> None:
    dump = bz2.compress(HEAD.encode()) + bz2.compress("".join(PAGES).encode()) + bz2.compress(b"</mediawiki>")
    path = written(tmp_path / "dewiki-pages-articles.xml.bz2", dump)
    documents, unread, error = read_all("mediawiki", path, max_document_bytes=5000)
    assert error is None
    assert [(d.title, d.text) for d in documents] == [("Der Fluss", "Ein Fluss & mehr."), ("See", "Ein See.")]
    assert documents[0].url == "https://de.wikipedia.org/wiki/Der_Fluss"
    assert documents[0].fetched_at == "2026-01-02T00:00:00Z"
    assert [u.reason for u in unread] == [
        "redirect",
        "other_namespace",
        "broken_page",
        "broken_page",
        "too_large",
    ]
    assert len(read_all("mediawiki", path, namespaces=[0, 1])[0]) == 4
    assert [type(s).__name__ for s in sources_of([path], Columns())] == ["MediaWikiSource"]


@pytest.mark.parametrize("chunk", [1, 5, 7, 100])
def test_pages_are_cut_anywhere_in_the_stream(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediawiki, "CHUNK_BYTES", chunk)
    path = written(tmp_path / "a.xml", f"{HEAD}{''.join(PAGES)}</mediawiki>".encode())
    documents, unread, error = read_all("mediawiki", path, max_document_bytes=3000)
    assert ([d.title for d in documents], len(unread), error) == (["Der Fluss", "See"], 5, None)


def test_a_dump_whose_base_is_no_url_keeps_its_articles(tmp_path: Path) -> None:
    whole = f"{HEAD}{''.join(PAGES)}</mediawiki>".replace("//de.wiki", "//[de.wiki").encode()
    documents, _, error = read_all("mediawiki", written(tmp_path / "a.xml", whole), max_document_bytes=5000)
    assert [(d.title, d.url) for d in documents] == [("Der Fluss", ""), ("See", "")] and error is None


def test_a_dump_that_is_cut_or_is_none_says_so(tmp_path: Path) -> None:
    whole = f"{HEAD}{''.join(PAGES)}</mediawiki>".encode()
    documents, _, error = read_all("mediawiki", written(tmp_path / "a.xml", whole[:-30]))
    assert (
        [d.title for d in documents] == ["Der Fluss", "Groß"]
        and error is not None
        and error.reason == "truncated"
    )
    _, _, error = read_all("mediawiki", written(tmp_path / "b.xml", b"<html></html>"))
    assert error is not None and error.reason == "unreadable"


def test_a_mailbox_gives_its_messages_without_quotes_and_signatures(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mbox", MAILS)
    documents, unread, error = read_all("mbox", path)
    assert error is None
    assert [d.text.split() for d in documents] == [
        ["First", "words.", "From", "the", "start.", "Last", "words."],
        ["Schöne", "Worte"],
        ["Words", "of", "a", "page"],
    ]
    assert (documents[0].title, documents[0].url) == ("Grüße", "mid:1@example.org")
    assert documents[0].fetched_at == "2026-01-01T10:00:00+00:00"
    assert [u.reason for u in unread] == ["no_text"]
    kept, _, _ = read_all("mbox", path, quotes="keep")
    assert "> older words" in kept[0].text and "A signature" in kept[0].text
    _, _, error = read_all("mbox", written(tmp_path / "b.mbox", b"no mailbox\n"))
    assert error is not None and error.reason == "unreadable"


def test_a_message_that_is_too_large_costs_only_itself(tmp_path: Path) -> None:
    large = b"From x\nSubject: large\n\n" + b"words of it\n" * 200 + b"\n"
    documents, unread, _ = read_all(
        "mbox", written(tmp_path / "a.mbox", large + MAILS), max_document_bytes=2000
    )
    assert len(documents) == 3 and [u.reason for u in unread] == ["too_large", "no_text"]


def test_a_json_array_is_read_element_by_element(tmp_path: Path) -> None:
    elements = [
        json.dumps(ROWS[0]),
        "{'no': json}",
        json.dumps(ROWS[1]),
        json.dumps({"text": "x" * 9000}),
        "[1]",
    ]
    elements += [json.dumps(ROWS[2], indent=2)]
    path = written(tmp_path / "a.json.gz", gzip.compress(f" [ {' , '.join(elements)} ]\n".encode()))
    documents, unread, error = read_all("jsonl", path, max_document_bytes=500)
    assert error is None
    assert [d.text for d in documents] == [row["text"] for row in ROWS[:3]]
    assert [u.reason for u in unread] == ["broken_line", "too_large", "broken_line"]
    assert unread[0].position.startswith("element 2, byte ")
    _, _, error = read_all("jsonl", written(tmp_path / "b.json", b'[{"text": "a"}, {"text": "b"'))
    assert error is not None and error.reason == "truncated"
    assert read_all("jsonl", written(tmp_path / "c.json", b"[]"))[0] == []


def test_csv_tables_are_a_source(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'text;url\n"two\nlines";u:1\nb;u:2\n')
    documents, _, _ = read_all("csv", path, delimiter=";")
    assert [(d.text, d.url) for d in documents] == [("two\nlines", "u:1"), ("b", "u:2")]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("mediawiki", f"{HEAD}{''.join(PAGES)}</mediawiki>".encode()),
        ("mbox", MAILS),
        ("jsonl", json.dumps(ROWS).encode()),
    ],
    ids=["mediawiki", "mbox", "array"],
)
def test_reading_goes_on_at_any_record(tmp_path: Path, kind: str, content: bytes) -> None:
    path = written(tmp_path / "a.gz", gzip.compress(content))
    source, position = source_of(kind, paths=[path]), Position()
    whole: list[tuple[Any, Any]] = [(item, position.mark) for item in read_source(source, path, position)]
    for place, (_, mark) in enumerate(whole):
        assert list(read_source(source, path, Position(mark))) == [item for item, _ in whole[place:]]
    assert any(isinstance(item, Document) for item, _ in whole)
