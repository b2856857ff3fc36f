"""A small Common Crawl: WARC and WET files, their columnar index, and a server with byte ranges."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.parts import DOCUMENTS
from headwater.data_pipeline.tables import read_table
from tests.data_pipeline.corpora import article
from tests.data_pipeline.sources.readers.test_sources_files import warc_record

CRAWL = "CC-MAIN-2024-10"
SEGMENT = f"crawl-data/{CRAWL}/segments/1707947473347.0"
STEM = "CC-MAIN-20240220211055-20240221001055"
TABLE = f"cc-index/table/cc-main/warc/crawl={CRAWL}/subset=warc"


@dataclass
class Page:
    url: str
    status: int = 200
    mime: str = "text/html"
    languages: str | None = "eng"
    file: int = 0
    """Number of its WARC file."""


def some_pages() -> list[Page]:
    """Pages of eight hosts, three languages and two files."""
    found = []
    hosts = (
        "example.org",
        "docs.example.org",
        "www.example.org",
        "example.org.evil.test",
        "notexample.org",
        "example.com",
        "news.example.co.uk",
        "münchen.test",
    )
    for number in range(40):
        host = hosts[number % 8].encode("idna").decode()
        url = f"https://{host}/{'docs' if number % 3 else 'blog'}/{number}?q=a.b"
        languages = ("eng", "deu,eng", "eng,fra", None)[number % 4]
        status = 404 if number == 11 else 200
        mime = "application/pdf" if number == 13 else "text/html"
        found.append(Page(url, status, mime, languages, number % 2))
    return found


PAGES = some_pages()
GOOD = [page for page in PAGES if page.status == 200 and page.mime == "text/html"]


def html(number: int) -> bytes:
    paragraphs = "".join(f"<p>{part}.</p>" for part in article(number).removesuffix(".").split(". "))
    return f"<html><body><article>{paragraphs}</article></body></html>".encode()


def wet_record(url: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-02-20T21:11:00Z\r\n"
    )
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def surt(url: str) -> str:
    host = re.sub(r"^www\d*\.", "", urlsplit(url).hostname or "")
    return f"{','.join(reversed(host.split('.')))}){urlsplit(url).path}"


def build(root: Path, pages: list[Page], *, index_files: int = 2, without: str = "") -> list[tuple[int, int]]:
    """Write a mirror; returns offset and length of each page. Between two pages is a request record, as in
    the crawl. `without`: a column that the index lacks."""
    places: list[tuple[int, int]] = []
    warcs: dict[int, bytearray] = {}
    wets: dict[int, bytearray] = {}
    for number, page in enumerate(pages):
        file = warcs.setdefault(page.file, bytearray())
        file += gzip.compress(b"WARC/1.0\r\nWARC-Type: request\r\nContent-Length: 300\r\n\r\n" + b"x" * 300)
        record = gzip.compress(warc_record(page.url, html(number), status=page.status))
        places.append((len(file), len(record)))
        file += record
        wets.setdefault(page.file, bytearray()).extend(gzip.compress(wet_record(page.url, article(number))))
    for number in warcs:
        for kind, end, content in (("warc", "warc.gz", warcs), ("wet", "warc.wet.gz", wets)):
            path = root / SEGMENT / kind / f"{STEM}-{number:05d}.{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[number])
    rows = [
        {
            "url_surtkey": surt(page.url),
            "url": page.url,
            "url_host_name": urlsplit(page.url).hostname,
            "fetch_status": page.status,
            "content_mime_detected": page.mime,
            "content_languages": page.languages,
            "warc_filename": f"{SEGMENT}/warc/{STEM}-{page.file:05d}.warc.gz",
            "warc_record_offset": offset,
            "warc_record_length": length,
        }
        for page, (offset, length) in zip(pages, places, strict=True)
    ]
    small = {"fetch_status": pa.int16(), "warc_record_offset": pa.int32(), "warc_record_length": pa.int32()}
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["url_surtkey"])))
    for name, kind in small.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    table = table.drop([without]) if without else table
    names = []
    size = -(-table.num_rows // index_files)
    for part in range(index_files):
        names.append(f"{TABLE}/part-{part:05d}-d466b69e.c000.gz.parquet")
        path = root / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(part * size, size), path, row_group_size=5, compression="gzip")
    paths = root / f"crawl-data/{CRAWL}/cc-index-table.paths.gz"
    other = f"cc-index/table/cc-main/warc/crawl={CRAWL}/subset=robotstxt/part-0.parquet"
    paths.write_bytes(gzip.compress("".join(f"{name}\n" for name in [*names, other]).encode()))
    return places


@dataclass
class Served:
    url: str
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, first byte and number of bytes sent of each answered GET."""
    faults: dict[str, list[int]] = field(default_factory=dict)
    """Part of a path → statuses of its next answers. 0: the connection breaks; 1: half of the range."""

    def of(self, part: str) -> list[tuple[str, int, int]]:
        return [each for each in self.asked if part in each[0]]


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Served]:
    """The folder over HTTP, with byte ranges."""
    state = Served("")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            fault = next(
                (faults.pop(0) for part, faults in state.faults.items() if part in self.path and faults), 200
            )
            path = root / self.path.lstrip("/")
            if fault >= 300 or not path.is_file():
                self.send_response(fault if fault >= 300 else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            start, end = 0, len(content)
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                start, end = int(wanted[1]), min(len(content), int(wanted[2]) + 1)
            if start >= end:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            sent = content[start : start + (end - start) // 2] if fault == 1 else content[start:end]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(sent)))
            self.send_header("Content-Range", f"bytes {start}-{start + len(sent) - 1}/{len(content)}")
            self.end_headers()
            if body and fault:
                state.asked.append((self.path, start, len(sent)))
                self.wfile.write(sent)
            elif body:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def config(root: object, **settings: Any) -> AcquireConfig:
    per_part = settings.pop("documents_per_part", 512)
    quick = {"retries": 2, "gap_bytes": 0, "allow_addresses": ["127.0.0.1"]}
    source = {"kind": "common_crawl", "crawl": CRAWL, "root": str(root)} | quick | settings
    return AcquireConfig.model_validate({"sources": [source], "documents_per_part": per_part})


def rows(artifact: Artifact, folder: str = DOCUMENTS) -> list[dict[str, Any]]:
    names = artifact.files(folder, ".parquet")
    return list(itertools.chain.from_iterable(read_table(artifact, name).to_pylist() for name in names))


def acquired(session: Session, root: object, **settings: Any) -> Artifact:
    return execute(Acquire(config(root, **settings)), {}, session)[0]


def urls(artifact: Artifact) -> list[str]:
    return sorted(row["url"] for row in rows(artifact))
