"""Reader of MediaWiki's XML dumps (https://www.mediawiki.org/wiki/Help:Export): one document per page.

The stream is cut at `<page>` and `</page>`, which cannot occur in escaped text, and every page is parsed by
itself: a damaged page costs only itself, memory is bounded, and reading goes on at any page. Of a page with
several revisions the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin
from xml.parsers import expat

from headwater.data_pipeline.documents import Document, document_id
from headwater.data_pipeline.formats.wikitext import plain_text
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.opening import (
    MOST_UNPACKED,
    decompressed,
    ended_early,
    mark_at,
    open_input,
)
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import MediaWikiSource

CHUNK_BYTES = 1 << 18
HEAD_BYTES = 1 << 20
BEGIN, END = b"<page>", b"</page>"
BASE = re.compile(r"<base>([^<]*)</base>")
NAMESPACE = re.compile(r'<namespace key="(?:6|14)"[^>]*>([^<]*)</namespace>')
FIELDS = {
    "page/title": "title",
    "page/ns": "ns",
    "page/revision/text": "text",
    "page/revision/timestamp": "time",
}
MARK = re.compile(rb"</?page>")
CLOSING = b"</mediawiki>"
KEPT = len(CLOSING) + 64
"""End of a dump, with the white space that may follow it."""
OVERHEAD = 4096
"""Bytes of a page allowed in addition to its text's limit."""


def read_mediawiki(
    source: MediaWikiSource, path: str, position: Position | None = None
) -> Iterator[Document | Unread]:
    """Pages of the namespaces asked for. Redirects and pages of other namespaces are unread, with the reasons
    `redirect` and `other_namespace`. Raises UnreadableFile: empty_file, unreadable, truncated."""
    position = position or Position()
    number = position.begin.number if position.begin else 0
    limit = source.max_document_bytes
    place = "byte 0"
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        try:
            base, dropped = _head(decompressed(stream).read(HEAD_BYTES))
            stream.seek(0)
            content = decompressed(stream, position.begin, most_unpacked=MOST_UNPACKED)
            begin = position.begin.offset if position.begin else 0
            for offset, page in _pages(content, 2 * limit + OVERHEAD, begin):
                number += 1
                place = f"page {number}, byte {offset}"
                position.mark = mark_at(content, offset, number - 1)
                if page is None:
                    yield Unread(path, place, "too_large", f"more than {limit:,} bytes")
                elif not page:
                    yield Unread(path, place, "broken_page", "its beginning or its end is damaged")
                else:
                    yield _read_page(page, source, base, dropped, path, place)
        except OSError as error:
            raise ended_early(error, place) from error


def _head(head: bytes) -> tuple[str, list[str]]:
    """The wiki's address, and its names of the namespaces of files and categories."""
    if not head:
        raise UnreadableFile("empty_file", "the file is empty", "byte 0")
    text = head.partition(BEGIN)[0].decode("utf-8", "replace")
    if "<mediawiki" not in text:
        raise UnreadableFile("unreadable", "this is no XML dump of MediaWiki", "byte 0")
    base = BASE.search(text)
    return base.group(1) if base else "", [name.lower() for name in NAMESPACE.findall(text)]


def _pages(stream: Any, limit: int, offset: int) -> Iterator[tuple[int, bytes | None]]:
    """Offset and XML of each page; None in the place of one with more than `limit` bytes, and no bytes in the
    place of one whose beginning or end is damaged: a page that meets another, or text between two pages."""
    held, start, searched = b"", offset, 0
    inside = too_large = stray = closed = False
    head = offset == 0  # before the first page is what describes the wiki
    while True:
        chunk = stream.read(CHUNK_BYTES)
        held += chunk
        begin = 0
        while (found := MARK.search(held, searched)) is not None:
            opens = found.group() == BEGIN
            used = found.start() if opens else found.end()
            if inside and not opens:
                yield start, None if too_large or used - begin > limit else held[begin:used]
            else:
                stray = stray or not (inside or head or not held[begin : found.start()].strip())
                if inside or stray or not opens:
                    yield start, b""
            start, begin, searched, inside = offset + used, used, found.end(), opens
            head = too_large = stray = closed = False
        offset, held, searched = offset + begin, held[begin:], searched - begin
        if not chunk:
            break
        searched = max(searched, len(held) - KEPT)
        if not inside or len(held) > limit:  # what remains may end within a mark
            dropped, end = max(0, len(held) - KEPT), held.find(CLOSING)
            if end < dropped < end + len(CLOSING):
                dropped = max(end, 0)
            closed = closed or 0 <= end < dropped
            stray = stray or not (inside or head or not _between(held[:dropped]))
            too_large = too_large or inside
            offset, held, searched = offset + dropped, held[dropped:], 0
    if not inside and not head and (stray or _between(held)):
        yield start, b""
    if inside or not (closed or CLOSING in held):
        raise OSError("the end is missing")


def _between(text: bytes) -> bytes:
    """What stands between pages, or behind the last one, and is not the end."""
    return text.replace(CLOSING, b"").strip()


def _read_page(
    xml: bytes, source: MediaWikiSource, base: str, dropped: list[str], path: str, place: str
) -> Document | Unread:
    try:
        fields, redirect = _fields(xml)
    except expat.ExpatError as error:
        return Unread(path, place, "broken_page", f"not valid XML: {error}")
    title, text = fields.get("title", ""), fields.get("text", "")
    if redirect:
        return Unread(path, place, "redirect", title)
    if not fields.get("ns", "0").isdecimal() or int(fields.get("ns", "0")[:6]) not in source.namespaces:
        return Unread(path, place, "other_namespace", title)
    if len(text.encode()) > source.max_document_bytes:
        return Unread(path, place, "too_large", f"more than {source.max_document_bytes:,} bytes; {title}")
    plain = plain_text(text, dropped)
    if not plain:
        return Unread(path, place, "no_text", title)
    url = _url(base, title)
    identity = document_id(url or title, text)
    return Document(identity, url, title, plain, None, f"{path}:{place}", fields.get("time", ""))


def _url(base: str, title: str) -> str:
    """Where the page stands in the wiki at `base`; empty if that is no URL."""
    try:
        return urljoin(base, quote(title.replace(" ", "_"), safe="/:,()")) if base else ""
    except ValueError:
        return ""


def _fields(xml: bytes) -> tuple[dict[str, str], bool]:
    """Title, namespace, text and time of the last revision, and whether the page is a redirect."""
    found: dict[str, str] = {}
    open_elements: list[str] = []
    pieces: list[str] = []
    redirect = False

    def begin(name: str, _: dict[str, str]) -> None:
        nonlocal redirect
        open_elements.append(name)
        redirect = redirect or name == "redirect"
        pieces.clear()

    def end(_: str) -> None:
        field = FIELDS.get("/".join(open_elements))
        if field is not None:
            found[field] = "".join(pieces)
        open_elements.pop()
        pieces.clear()

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = pieces.append
    parser.Parse(xml, True)
    return found, redirect
