"""Reader of CSV tables with a header line. Quoted fields may span lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import Unread, UnreadableFile, document_from_row
from headwater.data_pipeline.sources.lines import bounded_lines
from headwater.data_pipeline.sources.opening import decompressed, open_input
from headwater.data_pipeline.sources.spec import Columns, CsvSource


class _Lines:
    """Feeds decoded lines to the csv module and tracks the line number.

    Bytes that are not UTF-8 become lone surrogates, which `document_from_row` reports.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._lines = bounded_lines(stream, limit)
        self.number, self.limit = 0, limit

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        if line.content is None:
            raise UnreadableFile(
                "too_large", f"a line exceeds {self.limit:,} bytes; later rows are not read", self.place
            )
        return line.content.decode("utf-8-sig" if line.number == 1 else "utf-8", "surrogateescape")

    @property
    def place(self) -> str:
        return f"line {self.number}"


def read_csv(source: CsvSource, path: str) -> Iterator[Document | Unread]:
    with open_input(path, source.max_download_bytes, source.allow_addresses) as stream:
        limit = source.max_document_bytes
        yield from csv_rows(decompressed(stream), path, source.columns, limit, source.delimiter)


def csv_rows(
    stream: Any, file: str, columns: Columns, limit: int, delimiter: str = ","
) -> Iterator[Document | Unread]:
    """Documents of an open stream. The size limit stops a quoted field that never ends."""
    lines = _Lines(stream, limit)
    csv.field_size_limit(limit)
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        names = reader.fieldnames
    except csv.Error as error:
        raise UnreadableFile("broken_line", f"not valid CSV: {error}", lines.place) from error
    if not names:
        raise UnreadableFile("empty_file", "no header line", "line 1")
    if columns.text not in names and columns.html not in names:
        found = ", ".join(names)
        raise UnreadableFile("missing_column", f"no column {columns.text} among: {found}", "line 1")
    while True:
        first = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UnreadableFile(
                "broken_line", f"not valid CSV from here on: {error}", lines.place
            ) from error
        yield document_from_row(row, columns, file, f"line {first}", limit)
