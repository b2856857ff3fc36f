"""Damage that hid whole records: each is read, or told."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import AcquireConfig, ReadWorker
from headwater.data_pipeline.sources import opening
from tests.data_pipeline.corpora import article
from tests.data_pipeline.formats.making import zipped
from tests.data_pipeline.reading import read_all, source_of
from tests.data_pipeline.sources.readers.test_dumps import HEAD, MAILS, wiki_page
from tests.data_pipeline.sources.readers.test_sources_files import warc_record

PAGE = b"<html><body><p>hello</p></body></html>"


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("length", [b"0", b"200", b"300", b"400", b"1000", b"99999999", b"x"])
@pytest.mark.parametrize("limit", [100, 20_000_000])
def test_a_wrong_length_costs_one_record_of_an_archive(tmp_path: Path, length: bytes, limit: int) -> None:
    records = [warc_record(f"https://example.org/{n}", PAGE) for n in range(6)]
    said = b"Content-Length: " + records[2].partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    records[2] = records[2].replace(said, b"Content-Length: " + length, 1)
    limit = max(limit, len(records[1]))
    documents, unread, error = read_all(
        "warc", written(tmp_path / "a.warc", b"".join(records)), max_document_bytes=limit
    )
    assert [document.url[-1] for document in documents] == ["0", "1", "3", "4", "5"]
    assert [(problem.reason, problem.position.split(",")[0]) for problem in unread] == [
        ("broken_record", "record 3")
    ]
    assert error is None


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bz2.compress, lzma.compress])
def test_a_wrong_length_costs_one_record_of_a_compressed_archive(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    records = [warc_record(f"https://example.org/{n}", PAGE) for n in range(6)]
    said = b"Content-Length: " + records[2].partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    records[2] = records[2].replace(said, b"Content-Length: 99999999", 1)
    content = pack(b"".join(records[:1])) + pack(b"".join(records[1:])) if pack is gzip.compress else None
    documents, unread, error = read_all(
        "warc", written(tmp_path / "a.warc", content or pack(b"".join(records)))
    )
    assert [document.url[-1] for document in documents] == ["0", "1", "3", "4", "5"]
    assert ([problem.reason for problem in unread], error) == (["broken_record"], None)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (b"text/html: response", "broken_record"),
        (b"WARC-Type: x", "broken_record"),
        (b"WARC-Type: continuation", "continuation"),
    ],
)
def test_a_record_that_does_not_say_what_it_is_is_unread(tmp_path: Path, kind: bytes, reason: str) -> None:
    records = [warc_record(f"https://example.org/{n}", PAGE) for n in range(5)]
    for number in (1, 2):  # neighbours are two
        records[number] = records[number].replace(b"WARC-Type: response", kind, 1)
    documents, unread, error = read_all("warc", written(tmp_path / "a.warc", b"".join(records)))
    assert ([document.url[-1] for document in documents], error) == (["0", "3", "4"], None)
    starts = [len(b"".join(records[:number])) for number in (1, 2)]
    assert [(problem.reason, problem.position) for problem in unread] == [
        (reason, f"record {n}, byte {start} uncompressed") for n, start in zip((2, 3), starts, strict=True)
    ]


def test_a_page_that_holds_an_archive_is_one_page(tmp_path: Path) -> None:
    inner = b"<p>\r\n\r\n" + warc_record("https://example.org/inner", PAGE) * 3 + b"</p>"
    records = [warc_record(f"https://example.org/{n}", body) for n, body in enumerate((PAGE, inner, PAGE))]
    path = written(tmp_path / "a.warc", b"".join(records))
    documents, unread, error = read_all("warc", path)
    assert ([document.url[-1] for document in documents], unread, error) == (["0", "1", "2"], [], None)
    documents, unread, error = read_all("warc", path, max_document_bytes=len(inner) - 1)
    assert [document.url[-1] for document in documents] == ["0", "2"]
    assert ([problem.reason for problem in unread], error) == (["too_large"], None)


def tarred(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            info, content = tarfile.TarInfo(name), article(1).encode()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [b"\xff", bytes(512)])
def test_a_damaged_header_costs_one_member_of_a_tar_archive(tmp_path: Path, damage: bytes) -> None:
    content = bytearray(tarred([f"{n}.txt" for n in range(5)]))
    place = content.find(b"2.txt")
    content[place : place + len(damage)] = damage
    documents, unread, error = read_all("archive", written(tmp_path / "a.tar", bytes(content)))
    assert [document.url[-5] for document in documents] == ["0", "1", "3", "4"]
    assert ([problem.reason for problem in unread], error) == (["broken_member"], None)


def test_a_tar_archive_without_its_end_and_two_in_one_file(tmp_path: Path) -> None:
    content = tarred(["0.txt", "1.txt"])
    documents, _, error = read_all("archive", written(tmp_path / "a.tar", content.rstrip(b"\0") + bytes(100)))
    assert len(documents) == 2 and error is not None and error.reason == "truncated"
    broken = b"\xff" + content[1:512] + bytes(2048)
    _, _, error = read_all("archive", written(tmp_path / "c.tar", broken))
    assert error is not None and error.reason == "unreadable"
    documents, _, error = read_all("archive", written(tmp_path / "b.tar", 2 * content))
    assert (len(documents), error) == (4, None)


def test_a_member_without_a_name_costs_only_itself(tmp_path: Path) -> None:
    content = zipped({"a.txt": article(1), "b.txt": article(2), "c.txt": article(3)})
    content = content.replace(b"b.txt", b"\0.txt")  # a name ends at its first zero byte
    documents, unread, error = read_all("archive", written(tmp_path / "a.zip", content))
    assert [document.text for document in documents] == [article(1), article(3)]
    assert ([problem.reason for problem in unread], error) == (["not_a_document"], None)


def test_members_missing_from_the_directory_of_a_zip_file_are_told(tmp_path: Path) -> None:
    content = bytearray(zipped({f"{n}.txt": article(n) for n in range(3)}))
    end = content.rfind(b"PK\x05\x06")
    content[end + 10] = 4
    documents, _, error = read_all("archive", written(tmp_path / "a.zip", bytes(content)))
    assert len(documents) == 3 and error is not None and error.reason == "truncated"


def test_a_quoted_field_that_does_not_end_costs_one_row(tmp_path: Path) -> None:
    rows = ["text,url"] + [f"a {n},b" for n in range(5)]
    rows[3] = '"a 2'
    documents, unread, error = read_all("csv", written(tmp_path / "a.csv", "\n".join(rows).encode()))
    assert [document.text for document in documents] == ["a 0", "a 1", "a 3", "a 4"]
    assert [(problem.reason, problem.position) for problem in unread] == [("broken_line", "line 4")]
    assert error is None


def test_a_row_that_is_too_long_costs_only_itself(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"text\na\n" + b"x" * 500 + b"\nb\n")
    documents, unread, error = read_all("csv", path, max_document_bytes=100)
    assert [document.text for document in documents] == ["a", "b"]
    assert ([(problem.reason, problem.position) for problem in unread], error) == (
        [("too_large", "line 3")],
        None,
    )


def test_what_follows_an_array_is_told(tmp_path: Path) -> None:
    content = json.dumps([{"text": "a"}, {"text": "b"}]).encode()
    path = written(tmp_path / "a.json", content + b"\n" * 600_000 + b'{"text": "c"}')
    documents, _, error = read_all("jsonl", path)
    assert len(documents) == 2 and error is not None and "follows the end of the array" in error.detail


def test_a_damaged_row_group_costs_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{n} {article(n)}" for n in range(40)]})
    pq.write_table(table, path, row_group_size=10, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    documents, unread, error = read_all("parquet", str(path))
    assert [int(document.text.split()[0]) for document in documents] == [*range(10), *range(20, 40)]
    assert ([(problem.reason, problem.records) for problem in unread], error) == ([("broken_rows", 10)], None)
    output = Artifact(str(tmp_path / "out"))
    worker = ReadWorker(AcquireConfig(sources=(source_of("parquet", paths=[str(path)]),)), output)
    result = worker({"unit": "u", "source": 0, "paths": [str(path)]})
    assert (result["documents"], result["rejected"]) == (30, {"broken_rows": 10})


@pytest.mark.parametrize(("mark", "lost", "problems"), [(b"<page>", 1, 1), (b"</page>", 1, 1)])
def test_a_damaged_mark_costs_one_page_of_a_dump(
    tmp_path: Path, mark: bytes, lost: int, problems: int
) -> None:
    pages = [wiki_page(f"P{n}", article(n)).encode() for n in range(5)]
    pages[2] = pages[2].replace(mark, b"<pbge>")
    content = HEAD.encode() + b"".join(pages) + b"</mediawiki>"
    documents, unread, error = read_all("mediawiki", written(tmp_path / "a.xml", content))
    assert [document.title for document in documents] == ["P0", "P1", "P3", "P4"]
    assert ([problem.reason for problem in unread], error) == (["broken_page"], None)


@pytest.mark.parametrize("length", [20, 200, 300_000])
def test_what_follows_the_end_of_a_dump_is_one_broken_page(tmp_path: Path, length: int) -> None:
    content = HEAD.encode() + wiki_page("P", article(0)).encode() + b"</mediawiki>\n"
    documents, unread, error = read_all("mediawiki", written(tmp_path / "a.xml", content + b"x" * length))
    assert ([document.title for document in documents], error) == (["P"], None)
    assert [problem.reason for problem in unread] == ["broken_page"]
    documents, unread, error = read_all("mediawiki", written(tmp_path / "b.xml", content + b"\n" * length))
    assert (len(documents), unread, error) == (1, [], None)


@pytest.mark.parametrize(
    ("name", "kind", "head"),
    [
        ("a.jsonl", "jsonl", b'{"text": "a"}\n'),
        ("a.json", "jsonl", b'[{"text": "a"},'),
        ("a.csv", "csv", b"text\na\n"),
        ("a.xml", "mediawiki", HEAD.encode() + wiki_page("P", article(0)).encode()),
        ("a.mbox", "mbox", b"From a@example.org\n\nText.\n\nFrom b@example.org\n\nText.\n"),
    ],
)
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_file_that_unpacks_to_far_more_than_text_is_read_to_there(
    tmp_path: Path,
    name: str,
    kind: str,
    head: bytes,
    pack: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path / f"{name}.packed", pack(head + b"\n" * (1 << 18)))
    monkeypatch.setattr(opening, "FREE_BYTES", 1 << 12)
    documents, unread, error = read_all(kind, path)
    assert (len(documents), unread) == (1, [])
    assert error is not None and (error.reason, bool(error.position)) == ("archive_bomb", True)


def test_a_file_that_packs_well_is_read_to_its_end(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%d %s"}\n' % (n * n * 7919, b"the river " * 40) for n in range(5000))
    packed = gzip.compress(lines)
    assert len(lines) > 30 * len(packed) and len(lines) > 1 << 20
    documents, unread, error = read_all("jsonl", written(tmp_path / "a.jsonl.gz", packed))
    assert (len(documents), unread, error) == (5000, [], None)


def test_a_damaged_first_line_costs_one_message_of_a_mailbox(tmp_path: Path) -> None:
    whole, no_text, _ = read_all("mbox", written(tmp_path / "a.mbox", MAILS))
    documents, unread, error = read_all("mbox", written(tmp_path / "b.mbox", b"X" + MAILS[1:]))
    assert [document.text for document in documents] == [document.text for document in whole[1:]]
    assert ([problem.reason for problem in unread], error) == (
        ["broken_message", *(problem.reason for problem in no_text)],
        None,
    )
