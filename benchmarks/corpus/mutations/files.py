"""Valid files of every format, made by the libraries that write them. Each record has a token in its text."""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import mailbox
import random
import re
import tarfile
import tempfile
import textwrap
import uuid
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from benchmarks.corpus.mutations.accounts import (
    Base,
    array_account,
    csv_account,
    lines_account,
    mbox_account,
    parquet_account,
    tar_account,
    unpacked_bz2,
    unpacked_gzip,
    unpacked_xz,
    unpacked_zstd,
    warc_account,
    whole,
    wiki_account,
    zip_account,
)
from headwater.data_pipeline.formats.convert import MEDIA_TYPES
from tests.data_pipeline.formats.making import docx, epub, paragraph, pdf

WORDS = [
    "the",
    "river",
    "runs",
    "past",
    "old",
    "mills,",
    "“stone”",
    "bridges;",
    "Zürich",
    "—",
    "東京",
    "naïve",
    "{code}",
    "[x]",
    "<b>",
    "&",
    "100%",
    "fields",
]
PLAIN = [
    "the",
    "river",
    "runs",
    "past",
    "old",
    "mills",
    "and",
    "stone",
    "bridges",
    "to",
    "the",
    "sea",
    "where",
    "it",
    "ends",
]


def text_of(token: str, generator: random.Random, words: list[str] = WORDS) -> str:
    chosen = generator.choices(words, k=generator.randrange(8, 60))
    chosen.insert(len(chosen) // 2, token)
    return " ".join(chosen)


def tokens_of(count: int) -> list[str]:
    return [f"token{number:04d}q" for number in range(count)]


PACKS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], tuple[bytes, bool]]]] = {
    ".gz": (lambda data: gzip.compress(data, 6, mtime=0), unpacked_gzip),
    ".zst": (zstandard.compress, unpacked_zstd),
    ".bz2": (bz2.compress, unpacked_bz2),
    ".xz": (lzma.compress, unpacked_xz),
}


def jsonl(generator: random.Random) -> Base:
    rows = [
        (
            t,
            json.dumps(
                {"id": t, "text": text_of(t, generator), "n": generator.randrange(10**9)},
                ensure_ascii=generator.random() < 0.5,
            ).encode(),
        )
        for t in tokens_of(generator.randrange(3, 12))
    ]
    return Base("a.jsonl", "jsonl", b"".join(row + b"\n" for _, row in rows), rows, lines_account)


def array(generator: random.Random) -> Base:
    base = jsonl(generator)
    return Base(
        "a.json",
        "jsonl",
        b"[" + b",\n".join(row for _, row in base.parts) + b"]\n",
        base.parts,
        array_account,
    )


def table(generator: random.Random) -> Base:
    rows = []
    for token in tokens_of(generator.randrange(3, 12)):
        buffer = io.StringIO()
        text = text_of(token, generator) + generator.choice(("", '\nand "more"', ", x"))
        csv.writer(buffer, lineterminator="\n").writerow([f"https://example.org/{token}", text])
        rows.append((token, buffer.getvalue().removesuffix("\n").encode()))
    return Base("a.csv", "csv", b"url,text\n" + b"".join(row + b"\n" for _, row in rows), rows, csv_account)


def parquet(generator: random.Random) -> Base:
    tokens = tokens_of(generator.randrange(3, 40))
    rows = pa.table({"text": [text_of(token, generator) for token in tokens], "url": tokens})
    buffer = io.BytesIO()
    pq.write_table(
        rows,
        buffer,
        row_group_size=generator.choice((3, 8, 100)),
        compression=generator.choice(("none", "snappy", "zstd", "gzip")),
        use_dictionary=generator.random() < 0.5,
    )
    return Base(
        "a.parquet", "parquet", buffer.getvalue(), [(token, b"") for token in tokens], parquet_account
    )


def warc(generator: random.Random, wet: bool = False, files: bool = False) -> Base:
    parts = []
    for token in tokens_of(generator.randrange(3, 9)):
        buffer = io.BytesIO()
        writer = WARCWriter(buffer, gzip=False)
        body = text_of(token, generator).encode()
        if wet:
            record = writer.create_warc_record(
                f"https://example.org/{token}",
                "conversion",
                payload=io.BytesIO(body),
                warc_content_type="text/plain",
            )
        else:
            charset = generator.choice(("utf-8", "UTF-8", "windows-1252"))
            body = b"<html><body><p>" + body + b"</p></body></html>"
            headers = [("Content-Type", f"text/html; charset={charset}")]
            if files and (format := generator.choice(("", "pdf", "docx", "epub"))):
                kind = next(kind for kind, read in MEDIA_TYPES.items() if read == format)
                body, headers = SINGLE[f"a.{format}"](token, generator), [("Content-Type", kind)]
            if generator.random() < 0.3:
                body = gzip.compress(body, mtime=0)
                headers.append(("Content-Encoding", "gzip"))
            record = writer.create_warc_record(
                f"https://example.org/{token}",
                "response",
                payload=io.BytesIO(body),
                http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1"),
            )
        record.rec_headers.replace_header("WARC-Record-ID", f"<urn:uuid:{uuid.UUID(int=len(parts))}>")
        record.rec_headers.replace_header("WARC-Date", "2026-01-02T03:04:05Z")  # the same bytes in every run
        writer.write_record(record)
        parts.append((token, buffer.getvalue()))
    content = b"".join(part for _, part in parts)
    settings = {"formats": ("pdf", "docx", "epub")} if files else {}
    return Base("a.wet" if wet else "a.warc", "warc", content, parts, warc_account, settings)


def wet(generator: random.Random) -> Base:
    return warc(generator, wet=True)


def warc_files(generator: random.Random) -> Base:
    """Pages, and documents of other formats."""
    return warc(generator, files=True)


def _members(generator: random.Random, files: bool) -> list[tuple[str, str, bytes]]:
    ends = (".pdf", ".docx", ".epub", ".rst") if files else (".txt", ".md", ".html", ".txt", ".txt.gz")
    found = []
    for token in tokens_of(generator.randrange(3, 9)):
        end, content = generator.choice(ends), text_of(token, generator).encode()
        if f"a{end}" in SINGLE:
            content = SINGLE[f"a{end}"](token, generator) if files else content
        found.append(
            (token, f"d/{token}{end}", gzip.compress(content, mtime=0) if end.endswith("gz") else content)
        )
    return found


def zipped(generator: random.Random, files: bool = False) -> Base:
    buffer = io.BytesIO()
    members = _members(generator, files)
    with zipfile.ZipFile(
        buffer, "w", generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for _, name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    parts = [(token, content) for token, _, content in members]
    return Base("a.zip", "archive", buffer.getvalue(), parts, zip_account)


def tarred(generator: random.Random, files: bool = False) -> Base:
    buffer, parts = io.BytesIO(), []
    kind = generator.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for token, name, content in _members(generator, files):
            info, start = tarfile.TarInfo(name + "x" * 0), buffer.tell()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            parts.append((token, buffer.getvalue()[start : buffer.tell()]))
    return Base("a.tar", "archive", buffer.getvalue(), parts, tar_account)


def wiki(generator: random.Random) -> Base:
    parts = []
    for token in tokens_of(generator.randrange(3, 9)):
        text = escape(" ".join(generator.choices(PLAIN, k=30)) + f" {token} [[link|label]] '''bold'''")
        parts.append(
            (
                token,
                f"<page><title>{token}</title><ns>0</ns><id>1</id><revision><timestamp>2026-01-01T00:00:00Z"
                f'</timestamp><text xml:space="preserve">{text}</text></revision></page>'.encode(),
            )
        )
    head = b"<mediawiki><siteinfo><base>https://en.example.org/wiki/Main</base></siteinfo>\n"
    content = head + b"".join(b"  " + part + b"\n" for _, part in parts) + b"</mediawiki>\n"
    return Base("a.xml", "mediawiki", content, parts, wiki_account)


def mbox(generator: random.Random) -> Base:
    with tempfile.TemporaryDirectory() as folder:
        box = mailbox.mbox(Path(folder) / "a")
        for token in tokens_of(generator.randrange(3, 9)):
            mail = EmailMessage()
            mail["Subject"], mail["From"], mail["Message-ID"] = (
                "Zürich",
                "a@example.org",
                f"<{token}@example.org>",
            )
            mail.set_content(
                text_of(token, generator),
                charset=generator.choice(("utf-8", "us-ascii", "iso-8859-15"))
                if generator.random() < 0
                else "utf-8",
                cte=generator.choice(("8bit", "base64", "quoted-printable")),
            )
            box.add(mail)
        box.close()
        content = (Path(folder) / "a").read_bytes()
    pieces = re.split(rb"(?<=\n\n)(?=From )", content)
    tokens = tokens_of(len(pieces))
    return Base("a.mbox", "mbox", content, list(zip(tokens, pieces, strict=True)), mbox_account)


def single(name: str, make: Callable[[str, random.Random], bytes]) -> Callable[[random.Random], Base]:
    def base(generator: random.Random) -> Base:
        content = make("token0000q", generator)
        return Base(name, "folder", content, [("token0000q", content)], whole)

    return base


def _page(text: str) -> list[tuple[float, float, float, str]]:
    return [(60.0, 780.0 - 14 * n, 11.0, line) for n, line in enumerate(textwrap.wrap(text, 80))]


SINGLE: dict[str, Callable[[str, random.Random], bytes]] = {
    "a.txt": lambda token, g: text_of(token, g).encode(),
    "a.md": lambda token, g: f"# Title\n\n- {text_of(token, g)}\n\n```\ncode\n```\n".encode(),
    "a.html": lambda token, g: f"<!doctype html><meta charset=utf-8><p>{escape(text_of(token, g))}".encode(),
    "a.pdf": lambda token, g: pdf([_page(text_of(token, g, PLAIN))] * g.randrange(1, 3)),
    "a.docx": lambda token, g: docx("".join(paragraph(text_of(token, g, PLAIN)) for _ in range(3))),
    "a.epub": lambda token, g: epub([f"<h1>One</h1><p>{text_of(token, g, PLAIN)}</p>"] * 3),
}
MAKERS: dict[str, Callable[[random.Random], Base]] = {
    "jsonl": jsonl,
    "json": array,
    "csv": table,
    "parquet": parquet,
    "warc": warc,
    "wet": wet,
    "zip": zipped,
    "tar": tarred,
    "mediawiki": wiki,
    "mbox": mbox,
    **{name.removeprefix("a."): single(name, make) for name, make in SINGLE.items()},
}


def packed(maker: Callable[[random.Random], Base], end: str) -> Callable[[random.Random], Base]:
    def base(generator: random.Random) -> Base:
        found = maker(generator)
        found.name += end
        found.pack, found.unpack = PACKS[end]
        return found

    return base


def members(maker: Callable[[random.Random], Base]) -> Callable[[random.Random], Base]:
    """An archive whose records are gzip members of their own."""

    def base(generator: random.Random) -> Base:
        found = packed(maker, ".gz")(generator)
        pack = PACKS[".gz"][0]
        starts = [found.content.find(part) for _, part in found.parts]
        found.pack = lambda data: b"".join(
            pack(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True) if a < len(data)
        )
        return found

    return base


def set_to(maker: Callable[[random.Random], Base], **settings: Any) -> Callable[[random.Random], Base]:
    def base(generator: random.Random) -> Base:
        found = maker(generator)
        found.settings = settings
        return found

    return base


MAKERS |= {
    "warc of files": warc_files,
    "zip of files": functools.partial(zipped, files=True),
    "tar of files": functools.partial(tarred, files=True),
    "mbox with quotes": set_to(mbox, quotes="keep"),
    "xhtml": single("a.xhtml", SINGLE["a.html"]),
    "rst": single("a.rst", SINGLE["a.txt"]),
    "docm": single("a.docm", SINGLE["a.docx"]),
    "pdf.gz": packed(MAKERS["pdf"], ".gz"),
    "docx.xz": packed(MAKERS["docx"], ".xz"),
    "epub.zst": packed(MAKERS["epub"], ".zst"),
}
for _name in ("jsonl", "json", "csv", "mediawiki", "mbox", "tar", "wet", "txt"):
    for _end in PACKS:
        MAKERS[f"{_name}{_end}"] = packed(MAKERS[_name], _end)
MAKERS["warc.gz"], MAKERS["warc.zst"] = members(warc), packed(warc, ".zst")
