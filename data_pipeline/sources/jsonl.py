"""Reader of JSON Lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import Unread, UnreadableFile, document_from_row
from headwater.data_pipeline.sources.lines import bounded_lines
from headwater.data_pipeline.sources.opening import decompressed, mark_at, open_input
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.spec import Columns, JsonlSource

JSON_OVERHEAD = 4096
"""Bytes per line allowed in addition to the document size limit (for keys, URL, title)."""


def read_jsonl(
    source: JsonlSource, path: str, position: Position | None = None
) -> Iterator[Document | Unread]:
    position = position or Position()
    with open_input(path, source.max_download_bytes) as stream:
        content = decompressed(stream, position.begin)
        yield from json_lines(content, path, source.columns, source.max_document_bytes, position)


def json_lines(
    stream: Any, file: str, columns: Columns, limit: int, position: Position | None = None
) -> Iterator[Document | Unread]:
    """Documents of an open stream. An invalid line yields an Unread, and reading continues."""
    begin = position.begin if position else None
    number, offset = (begin.number + 1, begin.offset) if begin else (1, 0)
    empty = begin is None
    for line in bounded_lines(stream, limit + JSON_OVERHEAD, number, offset):
        empty = False
        if position is not None:
            position.mark = mark_at(stream, line.offset, line.number - 1)
        place = f"line {line.number}, byte {line.offset}"
        if line.content is None:
            yield Unread(file, place, "too_large", f"the line exceeds {limit:,} bytes")
        elif line.content.strip():
            yield _parse(line.content, columns, file, place, limit)
    if empty:
        raise UnreadableFile("empty_file", "the file is empty", "byte 0")


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
