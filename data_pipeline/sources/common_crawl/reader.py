"""Documents of a unit: pages of a ranges file, fetched as byte ranges (WARC) or from whole files (WET)."""

from __future__ import annotations

import collections
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow.parquet as pq

from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.common_crawl.access import CUT, Access
from headwater.data_pipeline.sources.common_crawl.ranges import Range, merged
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.position import Mark, Position
from headwater.data_pipeline.sources.readers.warc import notes, pages, read_record
from headwater.data_pipeline.sources.readers.warc_records import Records
from headwater.data_pipeline.sources.spec import CommonCrawlSource

WET_BUFFER = 8 << 20
"""Bytes of a request for a piece of a WET file."""


def read_common_crawl(
    source: CommonCrawlSource, path: str, position: Position | None = None
) -> Iterator[Document | Unread]:
    """Documents of the pages listed in the ranges file `path`, in its order.

    A page that its file does not have, or that is damaged, is an Unread. Raises HeadwaterError if a file
    cannot be reached, UnreadableFile for a WET file that ends early.
    """
    position = position or Position()
    access = Access(source)
    fs, inner = filesystem(path)
    table = pq.read_table(inner, filesystem=fs)
    urls, files = table["url"].to_pylist(), table["file"].to_pylist()
    if source.format == "wet":
        name = wet_name(files[0])
        with io.BufferedReader(access.open(name), WET_BUFFER) as stream:
            yield from pages(stream, source, access.location(name), position, set(urls).__contains__)
        return
    offsets, lengths = table["offset"].to_pylist(), table["length"].to_pylist()
    first = position.begin.offset if position.begin else 0
    requests = merged(files, offsets, lengths, source.gap_bytes, first)
    for request, answer in _fetched(access, requests, source.requests_at_once):
        place = access.location(request.file)
        for row in range(request.first, request.last):
            position.mark = Mark(row, row)
            try:
                member = _member(access, request, answer, offsets[row], lengths[row])
            except UnreadableFile as error:
                yield Unread(place, f"byte {offsets[row]}", error.reason, f"{error.detail}; {urls[row]}")
                continue
            yield _item(member, source, place, f"byte {offsets[row]}", urls[row])


def wet_name(file: str) -> str:
    """Name of the file with the texts of a WARC file."""
    return file.replace("/warc/", "/wet/").removesuffix(".warc.gz") + ".warc.wet.gz"


def _fetched(
    access: Access, requests: Iterator[Range], at_once: int
) -> Iterator[tuple[Range, bytes | UnreadableFile]]:
    """Answers in the order of the requests, of which some are under way at the same time."""
    waiting: collections.deque[tuple[Range, Future[bytes]]] = collections.deque()
    with ThreadPoolExecutor(at_once) as threads:
        try:
            while True:
                while len(waiting) < at_once and (request := next(requests, None)) is not None:
                    task = threads.submit(access.range, request.file, request.offset, request.length)
                    waiting.append((request, task))
                if not waiting:
                    return
                request, task = waiting.popleft()
                try:
                    yield request, task.result()
                except UnreadableFile as error:
                    yield request, error
        finally:
            for _, task in waiting:
                task.cancel()


def _member(
    access: Access, request: Range, answer: bytes | UnreadableFile, offset: int, length: int
) -> bytes:
    """The bytes of one page. A file that ends within a request may still have some of its pages."""
    if isinstance(answer, bytes):
        return answer[offset - request.offset :][:length]
    if answer.reason == CUT and request.last - request.first > 1:
        return access.range(request.file, offset, length)
    raise answer


def _item(member: bytes, source: CommonCrawlSource, path: str, place: str, url: str) -> Document | Unread:
    """The document of a record's bytes."""
    records = Records(io.BytesIO(member), source.max_document_bytes)
    problem = ""
    for raw in records:
        record = None if raw.problem else raw.record()
        if record is not None and not record.record_type & notes():
            return read_record(record, source, path, place)
        problem = problem or raw.problem
    return Unread(
        path, place, "broken_record", f"{records.damage or problem or 'no page in these bytes'}; {url}"
    )
