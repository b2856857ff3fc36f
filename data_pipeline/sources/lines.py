"""Lines of a stream with their numbers and byte offsets, never holding more than one longest allowed line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from headwater.data_pipeline.sources.items import UnreadableFile

CHUNK_BYTES = 1 << 18


class Line(NamedTuple):
    number: int
    """From 1."""
    offset: int
    """Of the line's first byte, in the uncompressed stream."""
    content: bytes | None
    """With its line end; None for a line that is longer than the limit."""


def bounded_lines(stream: Any, limit: int, number: int = 1, offset: int = 0) -> Iterator[Line]:
    """Split a binary stream at newlines; a line of more than `limit` bytes is passed over, not kept.
    `number` and `offset` are those of the line that the stream begins with.

    A stream that breaks off raises UnreadableFile("truncated") after the complete lines before that
    place; the incomplete line is not yielded.
    """
    held, too_long = bytearray(), 0
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except OSError as error:
            place = f"line {number}, byte {offset}"
            raise UnreadableFile("truncated", f"the file breaks off or is damaged: {error}", place) from error
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            length = too_long + len(held) + end + 1 - start
            if length > limit:
                yield Line(number, offset, None)
            else:
                held += chunk[start : end + 1]
                yield Line(number, offset, bytes(held))
            number, offset, start, too_long = number + 1, offset + length, end + 1, 0
            held.clear()
        rest = len(chunk) - start
        if too_long or len(held) + rest > limit:
            too_long += len(held) + rest
            held.clear()
        else:
            held += chunk[start:]
        if not chunk:
            break
    if too_long or held:
        yield Line(number, offset, None if too_long else bytes(held))
