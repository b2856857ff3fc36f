"""Reader of JSON Lines, one object per line, and of one JSON array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import UTF8_BOM, Unread, UnreadableFile, document_from_row
from headwater.data_pipeline.sources.lines import CHUNK_BYTES, bounded_lines
from headwater.data_pipeline.sources.opening import (
    MOST_UNPACKED,
    decompressed,
    ended_early,
    mark_at,
    open_input,
)
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import Columns, JsonlSource

JSON_OVERHEAD = 4096
"""Bytes per line allowed in addition to the document size limit (for keys, URL, title)."""
ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*[{\]]")
"""Beginning of a file that is one array of objects. Lines that are arrays themselves are broken."""
ARRAY_HEAD = 4096
IN_STRING, OUTSIDE, INSIDE = re.compile(rb'["\\]'), re.compile(rb'["\[\]{},]'), re.compile(rb'["\[\]{}]')
"""Characters that count within a string, between elements and within an element."""
DEEPEST = 10_000
"""Python's parser refuses less."""


def read_jsonl(
    source: JsonlSource, path: str, position: Position | None = None
) -> Iterator[Document | Unread]:
    position = position or Position()
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        try:
            is_array = ARRAY.match(decompressed(stream).read(ARRAY_HEAD)) is not None
        except OSError:
            is_array = False  # which the reader of lines reports
        stream.seek(0)
        content = decompressed(stream, position.begin, most_unpacked=MOST_UNPACKED)
        reader = json_array if is_array else json_lines
        yield from reader(content, path, source.columns, source.max_document_bytes, position)


def json_lines(
    stream: Any, file: str, columns: Columns, limit: int, position: Position | None = None
) -> Iterator[Document | Unread]:
    """Documents of an open stream. An invalid line yields an Unread, and reading continues."""
    begin = position.begin if position else None
    number, offset = (begin.number + 1, begin.offset) if begin else (1, 0)
    empty = begin is None
    for line in bounded_lines(stream, limit + JSON_OVERHEAD, number, offset):
        empty = False
        content = line.content
        if content is not None and not content.strip():
            continue
        if position is not None:
            position.mark = mark_at(stream, line.offset, line.number - 1)
        place = f"line {line.number}, byte {line.offset}"
        if content is None:
            yield Unread(file, place, "too_large", f"the line exceeds {limit:,} bytes")
            continue
        if line.offset == 0:
            content = content.removeprefix(UTF8_BOM)
        if content.strip():
            yield _parse(content, columns, file, place, limit)
    if empty:
        raise UnreadableFile("empty_file", "the file is empty", "byte 0")


def json_array(
    stream: Any, file: str, columns: Columns, limit: int, position: Position | None = None
) -> Iterator[Document | Unread]:
    """Documents of one JSON array of objects. An invalid element yields an Unread, and reading continues."""
    begin = position.begin if position else None
    number, offset = (begin.number, begin.offset) if begin else (0, 0)
    place = f"byte {offset}"
    try:
        for start, content in array_elements(stream, limit + JSON_OVERHEAD, offset, depth=1 if begin else 0):
            number += 1
            place = f"element {number}, byte {start}"
            if position is not None:
                position.mark = mark_at(stream, start, number - 1)
            if content is None:
                yield Unread(file, place, "too_large", f"the element exceeds {limit:,} bytes")
            else:
                yield _parse(content, columns, file, place, limit)
    except OSError as error:
        raise ended_early(error, place) from error


def array_elements(
    stream: Any, limit: int, offset: int = 0, depth: int = 0
) -> Iterator[tuple[int, bytes | None]]:
    """Offset and bytes of each element of an array; None in the place of one with more than `limit` bytes.
    `depth` is 1 for a stream that begins at an element. OSError if the array does not end."""
    held, start, at_chunk = bytearray(), offset, offset
    quoted = escaped = too_large = False
    while chunk := stream.read(CHUNK_BYTES):
        place = first = 0
        while place < len(chunk):
            if escaped:
                escaped, place = False, place + 1
                continue
            found = (IN_STRING if quoted else OUTSIDE if depth < 2 else INSIDE).search(chunk, place)
            if found is None:
                break
            mark, place = found.group(), found.end()
            if quoted:
                quoted, escaped = mark != b'"', mark == b"\\"
            elif mark == b'"':
                quoted = True
            elif mark in b"[{":
                depth += 1
                if depth > DEEPEST:
                    raise OSError(f"more than {DEEPEST:,} brackets in one another")
                if depth == 1:
                    first, start = place, at_chunk + place
            elif depth > 1:
                depth -= 1
            elif mark != b"}":
                held += chunk[first : place - 1]
                if too_large or len(held) > limit:
                    yield start, None
                elif held.strip():
                    yield start, bytes(held)
                held.clear()
                first, start, too_large = place, at_chunk + place, False
                if mark == b"]":
                    while chunk and not chunk[place:].strip():
                        chunk, place = stream.read(CHUNK_BYTES), 0
                    if chunk:
                        raise OSError("something follows the end of the array")
                    return
        held += chunk[first:]
        if len(held) > limit:
            held.clear()
            too_large = True
        at_chunk += len(chunk)
    raise OSError("the array does not end")


def _parse(content: bytes, columns: Columns, file: str, place: str, limit: int) -> Document | Unread:
    row = json_object(content, file, place)
    return row if isinstance(row, Unread) else document_from_row(row, columns, file, place, limit)


def json_object(content: bytes, file: str, place: str) -> dict[str, Any] | Unread:
    """The object in the bytes of one line."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return Unread(file, place, "invalid_utf8", f"byte {error.start} of the line is not UTF-8")
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unread(file, place, "broken_line", f"not valid JSON: {error}")
    if not isinstance(row, dict):
        return Unread(file, place, "broken_line", f"not a JSON object but {type(row).__name__}")
    return row
