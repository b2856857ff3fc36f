"""Files that are documents: in folders, in zip and tar archives, in web archives, plain and compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.guess import sources_of
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.readers import archive
from headwater.data_pipeline.sources.spec import Columns, WarcSource
from tests.data_pipeline.formats.making import docx, epub, paragraph, pdf, zipped
from tests.data_pipeline.reading import read_all, source_of
from tests.data_pipeline.sources.readers.test_sources_files import warc_record

PDF = pdf([[(60.0, 700.0, 10.0, "Words of a PDF file.")]], title="On rivers")
MEMBERS: dict[str, str | bytes] = {
    "notes/a.txt": "Words of a note.",
    "b.md": "# Heading\n\n    code\n",
    "c.html": "<p>Words of a page.</p>",
    "d.pdf": PDF,
    "e.docx": docx(paragraph("Words of a document.")),
    "f.epub": epub(["<p>Words of a book.</p>"]),
    "g.txt.gz": gzip.compress(b"Words that were packed."),
    "h.png": b"\x89PNG",
    "i.txt": b"\xff not UTF-8",
    "j.pdf": PDF[:200],
}
TEXTS = {
    "notes/a.txt": "Words of a note.",
    "b.md": "# Heading\n\n    code\n",
    "c.html": "",
    "d.pdf": "Words of a PDF file.",
    "e.docx": "Words of a document.",
    "f.epub": "Words of a book.",
    "g.txt.gz": "Words that were packed.",
}
UNREAD = {"h.png": "not_a_document", "i.txt": "invalid_utf8", "j.pdf": "truncated_pdf"}


def tarred(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_folder_has_documents_of_all_formats(tmp_path: Path) -> None:
    texts, problems = {}, {}
    for name, content in MEMBERS.items():
        path = tmp_path / Path(name).name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        for item in read_source(source_of("folder", paths=[str(path)]), str(path)):
            if isinstance(item, Document):
                texts[name] = item.text
            else:
                problems[name] = item.reason
    assert texts == TEXTS
    assert problems == UNREAD | {"h.png": "invalid_utf8"}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz", "tar.bz2", "tar.xz", "tar.zst"])
def test_an_archive_has_the_documents_of_its_members_and_names_the_others(
    tmp_path: Path, suffix: str
) -> None:
    packing: dict[str, Callable[[bytes], bytes]] = {
        "tgz": gzip.compress,
        "tar.bz2": bz2.compress,
        "tar.xz": lzma.compress,
        "tar.zst": zstandard.compress,
    }
    content = zipped(MEMBERS) if suffix == "zip" else packing.get(suffix, bytes)(tarred(MEMBERS))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    documents, unread, error = read_all("archive", str(path))
    assert error is None
    assert {d.url.partition("#")[2]: d.text for d in documents} == TEXTS
    assert {u.position.split(", ")[1]: u.reason for u in unread} == UNREAD
    assert documents[3].title == "On rivers" and documents[3].source == f"{path}:member 4, d.pdf"
    assert [type(s).__name__ for s in sources_of([str(path)], Columns())] == ["ArchiveSource"]


def test_reading_an_archive_goes_on_at_a_member(tmp_path: Path) -> None:
    for name, content in (("a.zip", zipped(MEMBERS)), ("a.tar.gz", gzip.compress(tarred(MEMBERS)))):
        path = tmp_path / name
        path.write_bytes(content)
        source, position = source_of("archive", paths=[str(path)]), Position()
        whole = [(item, position.mark) for item in read_source(source, str(path), position)]
        item, mark = whole[4]
        rest = list(read_source(source, str(path), Position(mark)))
        assert rest == [each for each, _ in whole[4:]] and rest[0] == item


def test_an_archive_that_is_cut_keeps_what_was_read_before(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tarred({"a.txt": "one", "b.txt": "two" * 1000})[:2500])
    documents, _, error = read_all("archive", str(path))
    assert [d.text for d in documents] == ["one"] and error is not None and error.reason == "truncated"


def test_archives_that_unpack_without_end_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 1000)
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a.txt": "good", **{f"{n}.txt": " a" * 100_000 for n in range(9)}}))
    documents, _, error = read_all("archive", str(path))
    assert documents[0].text == "good" and error is not None and error.reason == "archive_bomb"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "b.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    _, _, error = read_all("archive", str(tmp_path / "b.tar"))
    assert error is not None and error.reason == "unreadable"


def test_a_damaged_or_locked_member_costs_only_itself(tmp_path: Path) -> None:
    content = bytearray(
        zipped({"a.txt": "the first one", "b.txt": "the second one", "c.txt": "the third"}, ["b.txt"])
    )
    content[content.index(b"the second")] ^= 1
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    documents, unread, _ = read_all("archive", str(path))
    assert [d.text for d in documents] == ["the first one", "the third"]
    assert [u.reason for u in unread] == ["broken_member"]
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a.txt", "secret")
    locked = bytearray(path.read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    assert [u.reason for u in read_all("archive", str(path))[1]] == ["encrypted"]


def test_documents_of_a_web_archive_are_read_where_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    records = [
        warc_record("https://example.org/a", PDF, "Content-Type: application/pdf"),
        warc_record("https://example.org/b", docx(paragraph("Words.")), f"Content-Type: {word}"),
        warc_record("https://example.org/c", PDF[:300], "Content-Type: application/pdf"),
    ]
    path.write_bytes(b"".join(records))
    documents, unread, _ = read_all("warc", str(path), formats=["pdf", "docx"])
    assert [(d.url[-1], d.title, d.text) for d in documents] == [
        ("a", "On rivers", "Words of a PDF file."),
        ("b", "The title", "Words."),
    ]
    assert documents[0].fetched_at and [u.reason for u in unread] == ["truncated_pdf"]
    assert [u.reason for u in read_all("warc", str(path))[1]] == ["not_a_page"] * 3
    assert "formats" not in WarcSource(kind="warc", paths=("a",)).model_dump()


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_lines_of_bzip2_and_xz_are_read_from_any_member_on(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.jsonl.packed"
    path.write_bytes(
        pack(b'{"text": "one"}\n{"text": "two"}\n') + pack(b'{"text": "three"}\n{"text": "four"}\n')
    )
    source, position = source_of("jsonl", paths=[str(path)]), Position()
    items = [(item, position.mark) for item in read_source(source, str(path), position)]
    assert [item.text for item, _ in items if isinstance(item, Document)] == ["one", "two", "three", "four"]
    mark = items[3][1]
    assert mark is not None and mark.packed > 0
    rest = read_source(source, str(path), Position(mark))
    assert [item.text for item in rest if isinstance(item, Document)] == ["four"]
    path.write_bytes(path.read_bytes()[:-9])
    _, _, error = read_all("jsonl", str(path))
    assert error is not None and error.reason == "truncated"
