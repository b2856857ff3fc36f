"""Reader of CSV tables with a header line. Quoted fields may span lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import Unread, UnreadableFile, document_from_row
from headwater.data_pipeline.sources.lines import Line, bounded_lines
from headwater.data_pipeline.sources.opening import MOST_UNPACKED, decompressed, open_input
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import Columns, CsvSource

REREAD_BYTES = 64 << 20
"""Bytes of lines that are read again because the field that holds them does not end."""


class _TooLong(Exception):
    """A line exceeds the limit."""


class _Lines:
    """Feeds decoded lines to the csv module, and those of the last row again if asked to.

    Bytes that are not UTF-8 become lone surrogates, which `document_from_row` reports.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._lines = bounded_lines(stream, limit)
        self._row: list[Line] = []
        self._again: list[Line] = []
        self._left = REREAD_BYTES
        self.number, self.limit, self.ended = 0, limit, False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self._row.append(line)
        self.number = line.number
        if line.content is None:
            raise _TooLong
        return line.content.decode("utf-8-sig" if line.number == 1 else "utf-8", "surrogateescape")

    def begin_row(self) -> None:
        """Go to the next line that is not empty."""
        self._row.clear()
        while (line := self._again.pop() if self._again else next(self._lines, None)) is not None:
            if line.content is None or line.content.strip(b"\r\n"):
                self._again.append(line)
                return
            self.number = line.number

    def take_back(self) -> None:
        """Feed the lines of this row again, but for the first. UnreadableFile if too much was read again."""
        self._left -= self._row[-1].end - self._row[0].offset if len(self._row) > 1 else 0
        if self._left < 0:
            raise UnreadableFile("broken_line", "too many quoted fields that do not end", self.place)
        self._again += reversed(self._row[1:])
        self.number, self.ended = self._row[0].number, False

    @property
    def place(self) -> str:
        return f"line {self.number}"


def read_csv(source: CsvSource, path: str) -> Iterator[Document | Unread]:
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        limit = source.max_document_bytes
        content = decompressed(stream, most_unpacked=MOST_UNPACKED)
        yield from csv_rows(content, path, source.columns, limit, source.delimiter)


def csv_rows(
    stream: Any, file: str, columns: Columns, limit: int, delimiter: str = ","
) -> Iterator[Document | Unread]:
    """Documents of an open stream. A quoted field that does not end costs the row in which it begins."""
    lines = _Lines(stream, limit)
    csv.field_size_limit(limit)
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        names = reader.fieldnames
    except _TooLong:
        raise UnreadableFile("too_large", f"the header exceeds {limit:,} bytes", lines.place) from None
    except csv.Error as error:
        raise UnreadableFile("broken_line", f"not valid CSV: {error}", lines.place) from error
    if not names:
        raise UnreadableFile("empty_file", "no header line", "line 1")
    if columns.text not in names and columns.html not in names:
        found = ", ".join(names)
        raise UnreadableFile("missing_column", f"no column {columns.text} among: {found}", "line 1")
    while True:
        place, problem = f"line {lines.number + 1}", ""
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except _TooLong:
            yield Unread(file, place, "too_large", f"a line exceeds {limit:,} bytes")
            continue
        except csv.Error as error:
            problem = f"not valid CSV: {error}"
        if problem or lines.ended:  # the csv module gives what it has at the end
            lines.take_back()
            detail = problem or "a quoted field does not end"
            yield Unread(file, place, "broken_line", detail)
        else:
            yield document_from_row(row, columns, file, place, limit)
