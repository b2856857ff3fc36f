"""Reader of web archives: HTTP responses and resources (WARC), and extracted text (WET)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import zstandard

from headwater.data_pipeline.documents import Document, document_id
from headwater.data_pipeline.formats.convert import MEDIA_TYPES
from headwater.data_pipeline.sources.content import converted_document
from headwater.data_pipeline.sources.items import UTF8_BOM, Unread, UnreadableFile
from headwater.data_pipeline.sources.opening import open_input
from headwater.data_pipeline.sources.opt_outs import AGENT, REFUSING, as_metadata, metas_of, opt_outs
from headwater.data_pipeline.sources.position import Mark, Position
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.readers.warc_records import CUT, FOREIGN, HEADER_END, Records
from headwater.data_pipeline.sources.spec import CommonCrawlSource, SourceConfig, WarcSource
from headwater.data_pipeline.text.charset import decode_declared

WEB = ("http://", "https://", "ftp://", "file://")
PAGE_TYPES = ("text/html", "application/xhtml+xml")
CHARSET = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
ZSTD_WINDOW = 8 << 20
"""Largest window of a zstd body, in bytes (RFC 9659)."""
OPT_OUTS = "X-Headwater-Opt-Outs"
"""Field of a WARC header in which a crawl notes the opt-outs of a page, its site's included."""
CHUNK_HEADER = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(;[^\r\n]*)?\r\n")


def read_warc(source: WarcSource, path: str, position: Position | None = None) -> Iterator[Document | Unread]:
    """Pages of an archive. Raises UnreadableFile("truncated") after the last record before the damage."""
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        yield from pages(stream, source, path, position or Position(), formats=source.formats)


def pages(
    stream: Any,
    source: SourceConfig,
    path: str,
    position: Position,
    wanted: Callable[[str], bool] = lambda url: True,
    formats: Collection[str] = (),
) -> Iterator[Document | Unread]:
    """Pages of an open archive whose URLs are `wanted`, and documents in `formats`. Raises as `read_warc`."""
    begin = position.begin or Mark(0, 0)
    number, place = begin.number, f"record {begin.number + 1}"
    records = Records(stream, source.max_document_bytes, position.begin)
    for raw in records:
        number += 1
        place = f"record {number}, byte {raw.offset} uncompressed"
        position.mark = records.mark(raw.offset, number - 1)
        if raw.problem == FOREIGN and number == 1 and not records.damage:
            raise UnreadableFile("unreadable", FOREIGN, "byte 0")
        if raw.problem == CUT:
            raise UnreadableFile("truncated", records.damage or CUT, place)
        record = None if raw.problem else raw.record()
        if record is None:
            yield Unread(path, place, "broken_record", raw.problem or "its header is damaged")
        elif not record.record_type & notes() and wanted(target(record)):
            yield read_record(record, source, path, place, formats)
    if records.damage:
        detail = f"the file is cut off or damaged: {records.damage}"
        raise UnreadableFile("truncated", detail, f"after {place}")
    if number == 0:
        raise UnreadableFile("empty_file", FOREIGN, "byte 0")


def notes() -> Any:
    """The types of records that are not about a page of their own. All others are documents or unread, those
    without a type or with one that the standard does not know included."""
    from fastwarc.warc import WarcRecordType

    return WarcRecordType.warcinfo | WarcRecordType.request | WarcRecordType.metadata


def target(record: Any) -> str:
    """The URL of a record."""
    return str(record.headers.get("WARC-Target-URI") or "").strip("<>")


def read_record(
    record: Any, source: SourceConfig, path: str, place: str, formats: Collection[str] = ()
) -> Document | Unread:
    """The record's document, or an Unread with the reason why it has none."""
    from fastwarc.warc import WarcRecordType

    limit = source.max_document_bytes
    url = target(record)
    fetched_at = record.headers.get("WARC-Date") or ""
    if record.record_type == WarcRecordType.revisit:
        return Unread(path, place, "revisit", f"the page is in an earlier record; {url}")
    if record.record_type == WarcRecordType.continuation:
        return Unread(path, place, "continuation", f"its beginning is in an earlier record; {url}")
    if not record.record_type & (
        WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    ):
        return Unread(path, place, "broken_record", f"its WARC-Type is missing or unknown; {url}")
    if record.record_type == WarcRecordType.resource and not url.lower().startswith(WEB):
        return Unread(path, place, "not_a_page", f"a note of the crawler; {url}")
    if record.content_length > limit:
        return Unread(path, place, "too_large", f"{record.content_length:,} bytes; {url}")
    block = record.reader.read()
    headers: list[tuple[str, str]] = []
    if len(block) < record.content_length:
        return Unread(path, place, "truncated", f"{len(block):,} of {record.content_length:,} bytes; {url}")
    if record.record_type == WarcRecordType.response:
        status, headers, body = split_http(block)
        page = _page_of_response(status, dict(headers), body, limit, formats)
    elif record.record_type == WarcRecordType.resource:
        page = page_of(block, record.headers.get("Content-Type") or "")
    else:
        page = _text_or_problem(block, "utf-8")
    if isinstance(page, Problem):
        return Unread(path, place, page.reason, f"{page.detail}; {url}")
    html = page[0] if not isinstance(page, _File) else None
    noted = {mark for mark in (record.headers.get(OPT_OUTS) or "").split(", ") if mark}
    said = opt_outs(headers, metas_of(html) if html is not None else (), AGENT) | noted
    if said & REFUSING and isinstance(source, WarcSource | CommonCrawlSource) and source.obey_opt_outs:
        return Unread(path, place, "opt_out", f"{', '.join(sorted(said))}; {url}")
    where = f"{path}:{place}"
    if isinstance(page, _File):
        ocr = isinstance(source, WarcSource) and source.ocr
        found = converted_document(page.format, page.content, url, path, place, limit, where, fetched_at, ocr)
        return replace(found, metadata=as_metadata(said)) if isinstance(found, Document) else found
    identity = document_id(url, page[1] if html is None else html)
    return Document(
        identity, url, "", page[1], html, where, fetched_at=fetched_at, metadata=as_metadata(said)
    )


class Problem(NamedTuple):
    """Why a response is no page."""

    reason: str
    detail: str


class _File(NamedTuple):
    format: str
    content: bytes


def _page_of_response(
    status: int, headers: dict[str, str], body: bytes, limit: int, formats: Collection[str] = ()
) -> tuple[bytes | None, str] | _File | Problem:
    """HTML bytes or plain text of an HTTP response, a file of one of `formats`, or the reason why it is
    none."""
    if status != 200:
        return Problem("http_status", f"status {status}")
    kind = media_type(headers.get("content-type", ""))
    format = MEDIA_TYPES.get(kind)
    if kind not in (*PAGE_TYPES, "text/plain") and format not in formats:
        return page_of(b"", headers.get("content-type", ""))
    try:
        body = unpacked(body, headers, limit)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        return Problem("broken_record", str(error))
    if len(body) > limit:
        return Problem("too_large", f"more than {limit:,} bytes when unpacked")
    if format is not None:
        return _File(format, body)
    return page_of(body, headers.get("content-type", ""))


def charset_of(content_type: str) -> str | None:
    """The charset that a Content-Type names."""
    found = CHARSET.search(content_type)
    return found.group(1) if found else None


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def page_of(body: bytes, content_type: str) -> tuple[bytes | None, str] | Problem:
    """HTML bytes or plain text of an unpacked body."""
    kind = media_type(content_type)
    charset = CHARSET.search(content_type.partition(";")[2])
    label = charset.group(1) if charset else None
    if kind not in (*PAGE_TYPES, "text/plain"):
        return Problem("not_a_page", kind or "no content type")
    if not body.strip():
        return Problem("no_text", "an empty page")
    if kind == "text/plain":
        return _text_or_problem(body, label or "utf-8")
    # The header's charset is known only here: a page that decodes with it is passed on as marked UTF-8.
    declared = decode_declared(body, label)
    return (body if declared is None else UTF8_BOM + declared.encode("utf-8", "ignore")), ""


def _text_or_problem(content: bytes, label: str) -> tuple[None, str] | Problem:
    text = decode_declared(content, label)
    if text is None:
        return Problem("invalid_utf8" if label == "utf-8" else "invalid_charset", f"the text is not {label}")
    return None, text


def split_http(block: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers (names in lower case) and body of a stored response. Accepts CRLF and, as in some
    crawls, LF."""
    end = HEADER_END.search(block)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    lines = head.decode("latin-1").splitlines()
    words = lines[0].split() if lines else []
    status = int(words[1][:4]) if len(words) > 1 and words[1].isdecimal() else 0
    pairs = (line.partition(":") for line in lines[1:])
    return status, [(name.strip().lower(), value.strip()) for name, _, value in pairs], body


def unpacked(body: bytes, headers: dict[str, str], limit: int) -> bytes:
    """Decode chunked transfer and compression if actually present. Many crawlers store the decoded body with
    the original headers."""
    from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader

    if "chunked" in headers.get("transfer-encoding", "").lower() and CHUNK_HEADER.match(body):
        body = ChunkedReader(io.BytesIO(body)).read(limit + 1)
    encoding = headers.get("content-encoding", "").lower()
    if body.startswith(b"\x1f\x8b"):
        return GzipReader(io.BytesIO(body)).read(limit + 1)
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        with zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(body) as reader:
            return reader.read(limit + 1)
    if encoding == "br" and not body.lstrip().startswith(b"<"):
        return BrotliReader(io.BytesIO(body)).read(limit + 1)
    if encoding == "deflate" and body.startswith((b"\x78\x01", b"\x78\x9c", b"\x78\xda")):
        return GzipReader(io.BytesIO(body), zlib=True).read(limit + 1)
    return body
