"""Reader of Parquet tables, in batches of rows and with only the needed columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import Unread, UnreadableFile, document_from_row
from headwater.data_pipeline.sources.opening import open_input
from headwater.data_pipeline.sources.position import Mark, Position
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import Columns, ParquetSource

ROWS_AT_ONCE = 64
NO_VALUE = (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError)
"""Exceptions of pyarrow for values without a Python equivalent: dates after the year 9999, unknown time
zones, bytes that are not UTF-8."""


def read_parquet(
    source: ParquetSource, path: str, position: Position | None = None
) -> Iterator[Document | Unread]:
    position = position or Position()
    wanted = position.begin.offset if position.begin else 0
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        try:
            table = pq.ParquetFile(stream)
            names = table.schema_arrow.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            empty = stream.seek(0, 2) == 0
            reason = "empty_file" if empty else "unreadable"
            raise UnreadableFile(reason, f"not Parquet: {error}", "footer") from error
        columns = _columns(names, source.columns)
        row, groups = _groups_from(table, wanted)
        for group in groups:
            end = row + max(0, table.metadata.row_group(group).num_rows)
            problem = "there are fewer rows than it says"
            try:
                for batch in table.iter_batches(
                    batch_size=ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False
                ):
                    passed = min(batch.num_rows, max(0, wanted - row))
                    row += passed
                    for values in python_rows(batch.slice(passed)):
                        position.mark = Mark(row, row)
                        place, row = f"row {row}", row + 1
                        yield _item(values, source, path, place)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                problem = str(error)
            if row < end:
                position.mark = Mark(row, row)
                detail = f"rows {row} to {end - 1}: the row group is damaged: {problem}"
                yield Unread(path, f"row {row}", "broken_rows", detail, records=end - row)
            row = end


def _item(
    values: dict[str, Any] | Exception, source: ParquetSource, path: str, place: str
) -> Document | Unread:
    if isinstance(values, Exception):
        reason = "invalid_utf8" if isinstance(values, UnicodeDecodeError) else "broken_row"
        return Unread(path, place, reason, f"{type(values).__name__}: {values}")
    return document_from_row(values, source.columns, path, place, source.max_document_bytes)


def python_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | Exception]:
    """Values of each row, or the exception of their conversion."""
    try:
        return batch.to_pylist()
    except NO_VALUE as error:
        halves = batch.slice(0, batch.num_rows // 2), batch.slice(batch.num_rows // 2)
        return [error] if batch.num_rows == 1 else [row for half in halves for row in python_rows(half)]


def _groups_from(table: pq.ParquetFile, row: int) -> tuple[int, list[int]]:
    """First row of the row group that contains `row`, and the row groups from there on."""
    first = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if first + rows > row:
            return first, list(range(group, table.num_row_groups))
        first += rows
    return first, []


def _columns(there: list[str], wanted: Columns) -> list[str]:
    """Names of the columns to read. Raises UnreadableFile without a text or HTML column."""
    known = (
        wanted.text,
        wanted.html,
        wanted.url,
        wanted.title,
        wanted.id,
        wanted.fetched_at,
        *wanted.metadata,
    )
    names = list(dict.fromkeys(name for name in known if name in there))
    if wanted.text not in names and wanted.html not in names:
        found = ", ".join(there)
        detail = f"no column {wanted.text} or {wanted.html} among: {found}"
        raise UnreadableFile("missing_column", detail, "footer")
    return names
