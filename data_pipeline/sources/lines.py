"""Lines of a stream with numbers and byte offsets. Memory is bounded by the line limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from headwater.data_pipeline.sources.opening import ended_early

CHUNK_BYTES = 1 << 18
EMPTY_LINES = re.compile(rb"\n+")


class Line(NamedTuple):
    number: int
    """Line number, starting at 1."""
    offset: int
    """Offset of the first byte in the uncompressed stream."""
    end: int
    """Offset after the line and its line end."""
    content: bytes | None
    """Bytes of the line with its line end, or line ends of empty lines; None if it exceeds the limit."""


def split_lines(
    stream: Any, limit: int, number: int = 1, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Line]:
    """Split a binary stream at newlines. Lines of more than `limit` bytes are yielded without content.
    `number` and `offset` are those of the stream's first line. Successive empty lines may come as one, with
    the number of the last: a megabyte of them takes no time."""
    held, too_long = bytearray(), 0
    while chunk := stream.read(chunk_bytes):
        start = 0
        while (feed := chunk.find(b"\n", start)) >= 0:
            if feed == start and not held and not too_long and (empty := EMPTY_LINES.match(chunk, start)):
                feed = min(empty.end(), start + max(limit, 1)) - 1
                number += feed - start
            end = offset + too_long + len(held) + feed + 1 - start
            rest = chunk[start : feed + 1]
            content = None if end - offset > limit else bytes(held) + rest if held else rest
            yield Line(number, offset, end, content)
            number, offset, start, too_long = number + 1, end, feed + 1, 0
            held.clear()
        left = len(chunk) - start
        if too_long or len(held) + left > limit:
            too_long += len(held) + left
            held.clear()
        else:
            held += chunk[start:]
    if too_long or held:
        yield Line(number, offset, offset + too_long + len(held), None if too_long else bytes(held))


def bounded_lines(stream: Any, limit: int, number: int = 1, offset: int = 0) -> Iterator[Line]:
    """`split_lines` for a source. Raises UnreadableFile for a damaged stream, after yielding all
    complete lines before the damage."""
    try:
        for line in split_lines(stream, limit, number, offset):
            number, offset = line.number + 1, line.end
            yield line
    except OSError as error:
        place = f"line {number}, byte {offset}"
        raise ended_early(error, place) from error
