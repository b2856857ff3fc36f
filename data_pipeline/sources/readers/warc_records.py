"""Records of a WARC stream (ISO 28500:2017), found again behind damage.

FastWARC trusts every `Content-Length`: one that is too large hides the records behind it. Here a record
counts only if the next one, or the end, follows it; otherwise reading goes on at the next beginning of a
record. FastWARC parses the header.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from headwater.data_pipeline.sources.opening import decompressed, mark_at
from headwater.data_pipeline.sources.position import Mark

START = re.compile(rb"WARC/\d{1,2}\.\d{1,2}\r?\n")
NEXT = re.compile(rb"\n\r?\n(WARC/\d{1,2}\.\d{1,2}\r?\n)(?=[A-Za-z-]+:)")
REACH = 64
"""Bytes that hold what NEXT matches."""
HEADER_END = re.compile(rb"\r?\n\r?\n")
HEADER_BYTES = 1 << 20
LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
READ_BYTES = 1 << 18
REREAD_BYTES = 256 << 20
"""What may be read again to go back to records within records that are too large, besides the first such."""
GAP = b"\r\n\r\n"
"""Stands for a damaged member of a compressed archive: what is before it is no whole record."""
WRONG_LENGTH = "its length is wrong"
CUT, FOREIGN = "the file ends within the record", "the file contains no WARC record"


class Raw(NamedTuple):
    """A record as it stands, or a piece between records."""

    offset: int
    """Byte in the uncompressed stream."""
    head: bytes = b""
    block: bytes | None = None
    """None if it is larger than the limit."""
    problem: str = ""
    """Why it is no whole record: CUT and FOREIGN (nothing follows), or another text."""

    def record(self) -> Any:
        """FastWARC's record; None if it cannot read the header."""
        from fastwarc.warc import ArchiveIterator

        stream = io.BytesIO(self.head + (self.block or b""))
        try:
            return next(iter(ArchiveIterator(stream, parse_http=False, strict_mode=False)), None)
        except (OSError, ValueError):
            return None


class Records:
    """Reads a stream from a mark."""

    def __init__(self, stream: Any, limit: int, begin: Mark | None = None) -> None:
        self._stream, self._limit = stream, limit
        self._left, self._went_back, self._damage = REREAD_BYTES, False, ""
        self._begin_at(begin)

    def mark(self, offset: int, number: int) -> Mark:
        return mark_at(self._content, offset, number)

    def __iter__(self) -> Iterator[Raw]:
        found = False
        while self._skip_line_ends():
            raw = self._record() if START.match(self._held) else self._junk(found)
            found = True
            yield raw
            if raw.problem in (CUT, FOREIGN):
                return

    def _begin_at(self, mark: Mark | None) -> None:
        self._content = decompressed(self._stream, mark, gap=GAP)
        self._offset, self._held = mark.offset if mark else 0, bytearray()
        self._ended = False

    @property
    def damage(self) -> str:
        """What is wrong with the compression; records behind it were read nevertheless, if there were any."""
        return self._damage or getattr(self._content, "damaged", "")

    def _fill(self, size: int) -> bool:
        """Hold `size` bytes. False if there are fewer."""
        while len(self._held) < size and not self._ended:
            try:
                chunk = self._content.read(max(READ_BYTES, size - len(self._held)))
            except OSError as error:
                self._damage, chunk = str(error), b""
            self._ended = not chunk
            self._held += chunk
        return len(self._held) >= size

    def _drop(self, size: int) -> None:
        del self._held[:size]
        self._offset += size

    def _skip_line_ends(self) -> bool:
        """Go to the next byte that is none of a line end; False at the end of the stream."""
        while self._fill(REACH) or self._held:
            rest = self._held.lstrip(b"\r\n")
            self._drop(len(self._held) - len(rest))
            if rest:
                return self._fill(REACH) or True
        return False

    def _record(self) -> Raw:
        end = self._header_end()
        said = LENGTH.search(self._held, 0, end) if end else None
        if said is None:
            ended = self._ended and NEXT.search(self._held) is None
            return self._damaged(CUT if ended and not end else "its header is damaged")
        head, length = bytes(self._held[:end]), int(said.group(1))
        if length > self._limit:
            return self._too_large(head, length)
        whole = self._fill(end + length)
        self._fill(end + length + REACH)
        if not whole or not self._followed(end + length):
            inside = NEXT.search(self._held, end - 4)
            return self._damaged(CUT if not whole and inside is None else WRONG_LENGTH)
        raw = Raw(self._offset, head, bytes(self._held[end : end + length]))
        self._drop(end + length)
        return raw

    def _header_end(self) -> int:
        """Where the block begins; 0 if the header does not end."""
        size = READ_BYTES
        while True:
            more = self._fill(size)
            if found := HEADER_END.search(self._held, 0, HEADER_BYTES):
                return found.end()
            if not more or size > HEADER_BYTES:
                return 0
            size *= 2

    def _followed(self, end: int) -> bool:
        """Whether a record that ends here is followed by another, or by the end of the stream."""
        rest = self._held[end : end + REACH]
        after = rest.lstrip(b"\r\n")
        return not after or rest.startswith((b"\r\n\r\n", b"\n\n")) or START.match(after) is not None

    def _junk(self, found: bool) -> Raw:
        return self._damaged("bytes that belong to no record" if found else FOREIGN)

    def _damaged(self, problem: str) -> Raw:
        """Skip what is here, up to the next beginning of a record."""
        offset = self._offset
        if problem == CUT:
            self._drop(len(self._held))
            return Raw(offset, problem=problem)
        first = 1
        while (following := NEXT.search(self._held, first - 1)) is None:
            self._drop(max(0, len(self._held) - REACH))
            first = 1
            if not self._fill(len(self._held) + READ_BYTES) and NEXT.search(self._held) is None:
                self._drop(len(self._held))
                return Raw(offset, problem=problem)
        self._drop(following.start(1))
        return Raw(offset, problem=problem.replace(FOREIGN, "bytes that belong to no record"))

    def _too_large(self, head: bytes, length: int) -> Raw:
        """Pass over a block, and go back into it if its length turns out to be wrong."""
        offset, end = self._offset, self._offset + len(head) + length
        self._drop(len(head) - 4)
        inside: int | None = None
        while self._offset < end:
            self._fill(READ_BYTES)
            if inside is None and (found := NEXT.search(self._held)) and self._offset + found.start(1) < end:
                inside = self._offset + found.start(1)
            if self._ended and self._offset + len(self._held) < end:
                break
            rest = end - self._offset
            self._drop(rest if len(self._held) >= rest else max(1, len(self._held) - REACH))
        whole = self._offset == end
        self._fill(REACH)
        if whole and self._followed(0):
            return Raw(offset, head)
        if inside is None:
            return self._damaged(CUT)._replace(offset=offset) if not whole else Raw(offset, head)
        self._left -= self._offset - inside if self._went_back else 0
        self._went_back = True
        if self._left < 0:
            return self._damaged(CUT)._replace(offset=offset)
        self._begin_at(mark_at(self._content, inside, 0))
        return Raw(offset, problem=WRONG_LENGTH)
