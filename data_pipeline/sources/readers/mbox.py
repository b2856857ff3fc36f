"""Reader of mailboxes (RFC 4155): one document per message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.content import converted_document
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.lines import Line, bounded_lines
from headwater.data_pipeline.sources.opening import MOST_UNPACKED, decompressed, mark_at, open_input
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import MboxSource

BEGIN = b"From "
FOREIGN = b"\0"
"""Stands for what is before the first `From ` line."""


def read_mbox(source: MboxSource, path: str, position: Position | None = None) -> Iterator[Document | Unread]:
    """Documents of the messages, with the message's id as URL (`mid:…`, RFC 2392). Raises UnreadableFile:
    empty_file, unreadable, truncated."""
    position = position or Position()
    number, offset = (position.begin.number, position.begin.offset) if position.begin else (0, 0)
    limit = source.max_document_bytes
    format = "mail" if source.quotes == "drop" else "mail_with_quotes"
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        content = decompressed(stream, position.begin, most_unpacked=MOST_UNPACKED)
        for start, message in _messages(content, limit, offset):
            number += 1
            place = f"message {number}, byte {start}"
            position.mark = mark_at(content, start, number - 1)
            if message is None:
                yield Unread(path, place, "too_large", f"more than {limit:,} bytes")
            elif message is FOREIGN:
                yield Unread(path, place, "broken_message", "it does not begin with a `From ` line")
            else:
                yield converted_document(format, message, "", path, place, limit, source=f"{path}:{place}")


def _messages(stream: Any, limit: int, offset: int) -> Iterator[tuple[int, bytes | None]]:
    """Offset and bytes of each message, without its `From ` line; None in the place of one that is too
    large. What stands before the first `From ` is FOREIGN."""
    held: list[bytes] = []
    size, start, after_blank, foreign = 0, offset, True, False
    line: Line | None = None
    for line in bounded_lines(stream, limit, offset=offset):
        content = line.content
        if content is not None and after_blank and content.startswith(BEGIN):
            if line.offset > offset:
                yield start, FOREIGN if foreign else b"".join(held) if size <= limit else None
            held, size, start, foreign = [], 0, line.offset, False
        elif line.offset == offset:
            foreign = True
        else:
            size += line.end - line.offset
            if size > limit or content is None or foreign:
                held, size = [], limit + 1
            else:
                held.append(content[1:] if content.startswith(b">From ") else content)
        after_blank = content is not None and not content.strip()
    if line is None:
        raise UnreadableFile("empty_file", "the file is empty", "byte 0")
    if foreign:
        raise UnreadableFile("unreadable", "no mailbox: no line begins with `From `", "byte 0")
    yield start, b"".join(held) if size <= limit else None
