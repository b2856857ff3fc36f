"""The records of one own file: JSON Lines, a JSON array or Parquet, compressed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import UTF8_BOM, Unread, UnreadableFile, encodable
from headwater.data_pipeline.sources.lines import bounded_lines
from headwater.data_pipeline.sources.opening import decompressed, open_input
from headwater.data_pipeline.sources.readers.jsonl import json_object
from headwater.data_pipeline.sources.readers.parquet import ROWS_AT_ONCE, python_rows
from headwater.data_pipeline.sources.spec import MEGABYTE

LINE_BYTES = 20 * MEGABYTE
ARRAY_BYTES = 1000 * MEGABYTE
"""Maximum size of a JSON array, which is parsed at once."""
DOWNLOAD_BYTES = 20_000 * MEGABYTE


class Item(NamedTuple):
    """A record, or what is wrong with it."""

    number: int
    """Its line in JSON Lines, else its row; from 1."""
    place: str
    """`line 3` or `row 3`."""
    record: dict[str, Any] | Unread


def records(path: str) -> Iterator[Item]:
    """Every record of a file in order. Blank lines are skipped.

    The first bytes decide how the file is read, not its suffix. A record that is not an object is an
    `Unread`. Raises HeadwaterError for a file that cannot be opened or read to its end.
    """
    if not encodable(path):
        where = path.encode("utf-8", "replace").decode()
        raise HeadwaterError("the file's name is not UTF-8", where=where, fix="rename it")
    try:
        with open_input(path, DOWNLOAD_BYTES) as stream:
            head = stream.read(4)
            stream.seek(0)
            yield from _parquet(stream, path) if head == b"PAR1" else _json(stream, path)
    except UnreadableFile as error:
        place = f"{path}, {error.position}" if error.position else path
        raise HeadwaterError(
            f"cannot be read ({error.reason}: {error.detail})",
            where=place,
            fix="check its name and read permission, or replace it with a complete copy",
        ) from error


def _json(stream: Any, path: str) -> Iterator[Item]:
    if _first_character(decompressed(stream)) == b"[":
        stream.seek(0)
        yield from _array(decompressed(stream), path)
        return
    stream.seek(0)
    for line in bounded_lines(decompressed(stream), LINE_BYTES):
        place = f"line {line.number}"
        content = line.content
        if content is None:
            problem = Unread(path, place, "too_large", f"the line exceeds {LINE_BYTES:,} bytes")
            yield Item(line.number, place, problem)
        elif content.strip():
            content = content.removeprefix(UTF8_BOM) if line.number == 1 else content
            yield Item(line.number, place, json_object(content, path, place))


def _first_character(stream: Any) -> bytes:
    try:
        return bytes(stream.read(1024)).removeprefix(UTF8_BOM).lstrip()[:1]
    except OSError as error:
        raise UnreadableFile("truncated", f"the file is cut off or damaged: {error}", "byte 0") from error


def _array(stream: Any, path: str) -> Iterator[Item]:
    pieces, size = [], 0
    try:
        while piece := stream.read(1 << 20):
            pieces.append(piece)
            size += len(piece)
            if size > ARRAY_BYTES:
                detail = f"a JSON array of more than {ARRAY_BYTES:,} bytes; write one record per line instead"
                raise UnreadableFile("too_large", detail)
    except OSError as error:
        raise UnreadableFile("truncated", f"the file is cut off or damaged: {error}") from error
    try:
        rows = json.loads(b"".join(pieces).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFile("broken_array", f"not a valid JSON array: {error}") from error
    for number, row in enumerate(rows, start=1):
        place, detail = f"row {number}", f"not a JSON object but {type(row).__name__}"
        yield Item(number, place, row if isinstance(row, dict) else Unread(path, place, "broken_row", detail))


def _parquet(stream: Any, path: str) -> Iterator[Item]:
    number = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
            for row in python_rows(batch):
                number += 1
                place = f"row {number}"
                if isinstance(row, Exception):
                    problem = Unread(path, place, "broken_row", f"{type(row).__name__}: {row}")
                    yield Item(number, place, problem)
                else:
                    yield Item(number, place, row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableFile("truncated", f"damaged Parquet: {error}", f"after row {number}") from error
