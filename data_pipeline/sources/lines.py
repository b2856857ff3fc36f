"""Lines of a stream with numbers and byte offsets. Memory is bounded by the line limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from headwater.data_pipeline.sources.items import UnreadableFile

CHUNK_BYTES = 1 << 18


class Line(NamedTuple):
    number: int
    """Line number, starting at 1."""
    offset: int
    """Offset of the first byte in the uncompressed stream."""
    content: bytes | None
    """Bytes of the line with its line end; None if it exceeds the limit."""


def bounded_lines(stream: Any, limit: int, number: int = 1, offset: int = 0) -> Iterator[Line]:
    """Split a binary stream at newlines. Lines of more than `limit` bytes are yielded without content.
    `number` and `offset` are those of the stream's first line.

    Raises UnreadableFile("truncated") for a damaged stream, after yielding all complete lines before the
    damage.
    """
    held, too_long = bytearray(), 0
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except OSError as error:
            place = f"line {number}, byte {offset}"
            raise UnreadableFile("truncated", f"the file is cut off or damaged: {error}", place) from error
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
