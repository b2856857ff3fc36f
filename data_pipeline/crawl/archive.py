"""Segments: what a worker has fetched since its last one, as WARC/1.1 files, a CDXJ index and a log.

    warc/NAME.warc.gz    pages: request, response and revisit records
    other/NAME.warc.gz   robots.txt, sitemaps, feeds
    cdxj/NAME.cdxj       index of warc/NAME.warc.gz (pywb reads a folder of them)
    log/NAME.jsonl.gz    one line for each URL: what came of it, and its links. Written last.

A segment counts once its log exists. Files of a segment without a log were left by a killed worker.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tempfile
import zlib
from collections.abc import Collection
from typing import IO, Any

from ada_url import URL
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.crawl.fetch import Headers, Response, Row
from headwater.data_pipeline.sources.readers.warc import OPT_OUTS, media_type

PAGES, OTHER, INDEX, LOG = "warc", "other", "cdxj", "log"
SPOOL_BYTES = 32 << 20
HOP_BY_HOP = ("transfer-encoding", "connection", "keep-alive")
UNCHANGED = "http://netpreserve.org/warc/1.1/revisit/server-not-modified"
FORMAT = "WARC File Format 1.1"
FORMAT_URL = "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/"


class Warc:
    """A WARC file of gzip members, one per record."""

    def __init__(self, name: str, agent: str) -> None:
        self.name, self.records = name, 0
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - lives on
        self._builder = WARCWriter(io.BytesIO(), gzip=False, warc_version="WARC/1.1")
        info = {"software": agent, "format": FORMAT, "conformsTo": FORMAT_URL, "robots": "obey"}
        self._write(self._builder.create_warcinfo_record(name, info))

    @property
    def size(self) -> int:
        return self._spool.tell()

    def add(
        self, response: Response, revisit: Row | None = None, said: Collection[str] = ()
    ) -> tuple[int, int, str]:
        """Write request and response: offset and length of the response's member, and its payload digest.
        `revisit`: url, date and digest of the earlier record that a status 304 confirms. `said`: opt-outs."""
        make, self.records = self._builder, self.records + 1
        head = StatusAndHeaders(
            f"{response.status} {response.reason}".strip(), _stored(response.headers), protocol="HTTP/1.1"
        )
        fields = {"WARC-Date": response.date}
        if response.address:
            fields["WARC-IP-Address"] = response.address
        if response.truncated:
            fields["WARC-Truncated"] = "length"
        if said:
            fields[OPT_OUTS] = ", ".join(sorted(said))
        if revisit:
            record = make.create_revisit_record(
                response.url,
                revisit["digest"],
                revisit["url"],
                revisit["date"],
                http_headers=head,
                warc_headers_dict=fields,
            )
            record.rec_headers.replace_header("WARC-Profile", UNCHANGED)
        else:
            record = make.create_warc_record(
                response.url,
                "response",
                payload=io.BytesIO(response.body),
                length=len(response.body),
                http_headers=head,
                warc_headers_dict=fields,
            )
        offset = self._write(record)
        length = self.size - offset
        asked = StatusAndHeaders(_request_line(response.url), list(response.request), is_http_request=True)
        concurrent = {
            "WARC-Date": response.date,
            "WARC-Concurrent-To": record.rec_headers.get_header("WARC-Record-ID"),
        }
        self._write(
            make.create_warc_record(response.url, "request", http_headers=asked, warc_headers_dict=concurrent)
        )
        return offset, length, record.rec_headers.get_header("WARC-Payload-Digest")

    def _write(self, record: Any) -> int:
        out = io.BytesIO()
        self._builder.out = out
        self._builder.write_record(record)
        packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        offset = self._spool.tell()
        self._spool.write(packer.compress(out.getbuffer()) + packer.flush())
        return offset

    def store(self, output: Artifact, folder: str) -> None:
        self._spool.seek(0)
        with output.create(f"{folder}/{self.name}") as stream:
            while chunk := self._spool.read(1 << 20):
                stream.write(chunk)

    def close(self) -> None:
        self._spool.close()


def _request_line(url: str) -> str:
    found = URL(url)
    return f"GET {found.pathname}{found.search} HTTP/1.1"


def _stored(headers: Headers) -> Headers:
    """Headers of the stored response: its body is no longer cut into chunks."""
    return [
        (f"X-Crawler-{name}" if name.lower() in HOP_BY_HOP else name, value.replace("\n", " "))
        for name, value in headers
    ]


class Segment:
    """Collects results until `store`."""

    def __init__(self, name: str, agent: str) -> None:
        self.name = name
        self._pages, self._other = (Warc(f"{name}.warc.gz", agent) for _ in range(2))
        self._index: list[str] = []
        self.rows: list[Row] = []

    @property
    def size(self) -> int:
        return self._pages.size + self._other.size

    def add(
        self,
        response: Response,
        *,
        page: bool,
        revisit: Row | None = None,
        said: Collection[str] = (),
    ) -> str:
        """Store a response; returns its payload digest."""
        if not page:
            return self._other.add(response, revisit)[2]
        offset, length, digest = self._pages.add(response, revisit, said)
        entry = {
            "url": response.url,
            "mime": "warc/revisit" if revisit else media_type(response.header("content-type")) or "unk",
            "status": str(response.status),
            "digest": digest,
            "length": str(length),
            "offset": str(offset),
            "filename": f"{PAGES}/{self._pages.name}",
        }
        stamp = re.sub("[^0-9]", "", response.date)
        self._index.append(f"{surt(response.url)} {stamp} {json.dumps(entry)}\n")
        return digest

    def store(self, output: Artifact, final: Any = lambda: None) -> None:
        """Write the segment's files, the log last. `final` is called before the log and may raise."""
        if self._pages.records:
            self._pages.store(output, PAGES)
            output.write_bytes(f"{INDEX}/{self.name}.cdxj", "".join(sorted(self._index)).encode())
        if self._other.records:
            self._other.store(output, OTHER)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        packed = gzip.compress(lines.encode("utf-8", "replace"), 6, mtime=0)
        final()
        output.write_bytes(f"{LOG}/{self.name}.jsonl.gz", packed)
        self._pages.close()
        self._other.close()


def read_log(output: Artifact, name: str) -> list[Row]:
    """Rows of a stored segment."""
    text = gzip.decompress(output.read_bytes(f"{LOG}/{name}.jsonl.gz")).decode()
    return [json.loads(line) for line in text.splitlines()]


def stored_segments(output: Artifact) -> list[str]:
    """Names of all segments with a log, in the order of their time."""
    names = output.files(LOG, ".jsonl.gz")
    return sorted(name.removeprefix(f"{LOG}/").removesuffix(".jsonl.gz") for name in names)


def delete_partial(output: Artifact) -> None:
    """Delete the files of segments without a log."""
    stored = set(stored_segments(output))
    for folder, suffix in ((PAGES, ".warc.gz"), (OTHER, ".warc.gz"), (INDEX, ".cdxj")):
        for name in output.files(folder, suffix):
            if name.removeprefix(f"{folder}/").removesuffix(suffix) not in stored:
                output.delete(name)


def surt(url: str) -> str:
    """Sort-friendly form of a URL, the key of a CDXJ index: `com,example)/path?a=1`.
    (https://pywb.readthedocs.io/en/latest/manual/indexing.html)"""
    found = URL(url)
    host = ",".join(reversed(re.sub(r"^www\d*\.", "", found.hostname).split(".")))
    port = f":{found.port}" if found.port else ""
    query = "?" + "&".join(sorted(found.search[1:].split("&"))) if found.search else ""
    return f"{host}{port}){found.pathname}{query}".lower().replace(" ", "%20")
