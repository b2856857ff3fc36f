"""Damaged files of every format: nothing escapes, and each record is a document or has a reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from headwater.data_pipeline.sources.items import UnreadableFile
from tests.data_pipeline.corpora import article
from tests.data_pipeline.formats.making import docx, epub, paragraph, pdf, zipped
from tests.data_pipeline.formats.test_pdf import column
from tests.data_pipeline.reading import read_all
from tests.data_pipeline.sources.test_document_files import tarred
from tests.data_pipeline.sources.test_dumps import HEAD, MAILS, PAGES, ROWS
from tests.data_pipeline.sources.test_sources_files import warc_record

TABLE = f"<w:tbl><w:tr><w:tc>{paragraph('cell')}</w:tc></w:tr></w:tbl>"
DOCX, EPUB = docx(paragraph(article(1)) + TABLE), epub([f"<h1>One</h1><p>{article(2)}</p>"] * 3)
PDF = pdf([column(article(n), 60, 700, 300) for n in range(3)], title="A title")
DUMP = f"{HEAD}{''.join(PAGES)}</mediawiki>".encode()
MEMBERS: dict[str, str | bytes] = {"a.txt": article(1), "b.html": "<p>x</p>", "c.pdf": PDF, "d.docx": DOCX}
TYPE = "Content-Type: application/pdf"
FILES: dict[str, tuple[str, bytes]] = {
    "a.pdf": ("folder", PDF),
    "a.docx": ("folder", DOCX),
    "a.epub": ("folder", EPUB),
    "a.txt.bz2": ("folder", bz2.compress(article(1).encode())),
    "a.zip": ("archive", zipped(MEMBERS)),
    "a.tar": ("archive", tarred(MEMBERS)),
    "a.tar.gz": ("archive", gzip.compress(tarred(MEMBERS))),
    "a.xml": ("mediawiki", DUMP),
    "a.xml.bz2": ("mediawiki", bz2.compress(DUMP)),
    "a.mbox": ("mbox", MAILS),
    "a.json": ("jsonl", json.dumps(ROWS).encode()),
    "a.csv": ("csv", b"text,url\na,b\n" * 20),
    "a.warc": ("warc", warc_record("https://example.org/a", PDF, TYPE)),
}


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The file with some bytes changed, cut out, put in twice or cut off."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8, 40))):
        place = generator.randrange(len(data) + 1)
        length = generator.choice((1, 1, 4, 64, 1000))
        match generator.randrange(6):
            case 0:
                data[place : place + length] = generator.randbytes(min(length, len(data) - place))
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length]
            case 3 if len(data) > place:
                data[place] ^= 1 << generator.randrange(8)
            case 4:
                data[place : place + 4] = generator.choice(
                    (b"\xff" * 4, b"\0" * 4, b"<<<<", b"9999", b"((((")
                )
            case _ if generator.random() < 0.2:
                del data[place:]
    return bytes(data)


def damaged_member(content: bytes, generator: random.Random) -> bytes:
    """A zip file, whole but for one member, whose content is damaged."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    name = generator.choice(list(members))
    members[name] = damaged(bytes(members[name]), generator)  # type: ignore[arg-type]
    return zipped(members, stored=["mimetype"])


def outcome(path: Path, kind: str) -> str:
    more = {"formats": ["pdf", "docx", "epub"]} if kind == "warc" else {}
    documents, unread, error = read_all(kind, str(path), max_document_bytes=200_000, **more)
    assert all(document.text.encode() or document.html for document in documents)
    assert all(problem.reason and problem.position for problem in unread)
    assert error is None or (isinstance(error, UnreadableFile) and error.reason)
    assert (
        documents or unread or error is not None or kind in ("jsonl", "csv", "archive", "mediawiki", "warc")
    )
    return "document" if documents else error.reason if error is not None else "unread"


def fuzz(name: str, times: int, folder: Path, seed: int = 0) -> Counter[str]:
    kind, content = FILES[name]
    generator = random.Random(f"{name} {seed}")
    found: Counter[str] = Counter()
    for _ in range(times):
        inside = content.startswith(b"PK") and generator.random() < 0.7
        damage = damaged_member if inside else damaged
        (folder / name).write_bytes(damage(content, generator))
        found[outcome(folder / name, kind)] += 1
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_gives_documents_or_reasons(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name][1])
    assert outcome(tmp_path / name, FILES[name][0]) == "document"
    assert fuzz(name, 12, tmp_path).total() == 12


@pytest.mark.soak
@pytest.mark.parametrize("name", FILES)
def test_thousands_of_damaged_files_give_documents_or_reasons(name: str, tmp_path: Path) -> None:
    found = fuzz(name, 1000, tmp_path, seed=1)
    print(name, dict(found))
    assert found.total() == 1000 and len(found) > 1
