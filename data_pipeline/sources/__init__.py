"""Readers of all source formats. The recipe's `kind` selects the reader."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.common_crawl.reader import read_common_crawl
from headwater.data_pipeline.sources.items import Unread, UnreadableFile, encodable
from headwater.data_pipeline.sources.position import Mark, Position
from headwater.data_pipeline.sources.readers.archive import read_archive
from headwater.data_pipeline.sources.readers.csv import read_csv
from headwater.data_pipeline.sources.readers.folder import read_folder_file
from headwater.data_pipeline.sources.readers.jsonl import read_jsonl
from headwater.data_pipeline.sources.readers.mbox import read_mbox
from headwater.data_pipeline.sources.readers.mediawiki import read_mediawiki
from headwater.data_pipeline.sources.readers.parquet import read_parquet
from headwater.data_pipeline.sources.readers.warc import read_warc
from headwater.data_pipeline.sources.readers.wheel import read_wheel
from headwater.data_pipeline.sources.spec import (
    ArchiveSource,
    CommonCrawlSource,
    CrawlSource,
    CsvSource,
    FolderSource,
    JsonlSource,
    MboxSource,
    MediaWikiSource,
    ParquetSource,
    Source,
    WarcSource,
    WheelSource,
)


def read_source(source: Source, path: str, position: Position | None = None) -> Iterator[Document | Unread]:
    """Yield the documents and unreadable items of one input file. Raises UnreadableFile if reading must stop.

    `position` sets where to start. While reading, it holds the start of the item just yielded.
    """
    if not encodable(path):
        raise UnreadableFile("invalid_name", "the file's name is not UTF-8: rename it")
    match source:
        case WarcSource():
            return read_warc(source, path, position)
        case JsonlSource():
            return read_jsonl(source, path, position)
        case ParquetSource():
            return read_parquet(source, path, position)
        case FolderSource():
            if position is not None:
                position.mark = Mark(0, 0)  # a file is one document
            return read_folder_file(source, path)
        case ArchiveSource():
            return read_archive(source, path, position)
        case MediaWikiSource():
            return read_mediawiki(source, path, position)
        case MboxSource():
            return read_mbox(source, path, position)
        case CsvSource():
            return read_csv(source, path)
        case CrawlSource():
            return read_warc(_archive(source, path), path, position)
        case CommonCrawlSource():
            return read_common_crawl(source, path, position)
        case WheelSource():
            return read_wheel(source)


def _archive(source: CrawlSource, path: str) -> WarcSource:
    """The source of one WARC file that a crawl wrote."""
    return WarcSource(kind="warc", paths=(path,), max_document_bytes=source.max_document_bytes)
