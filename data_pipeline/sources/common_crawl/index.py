"""The columnar index (https://github.com/commoncrawl/cc-index-table): one row per page.

Its Parquet files are sorted by host. Row groups without a wanted host are not read.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import xxhash

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem, list_files
from headwater.data_pipeline.sources.common_crawl.access import Access
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.opening import REMOTE, is_url
from headwater.data_pipeline.sources.spec import CommonCrawlSource

TABLE = "cc-index/table/cc-main/warc/crawl={crawl}/subset=warc/"
PATHS = "crawl-data/{crawl}/cc-index-table.paths.gz"
SCHEMA = pa.schema(
    [
        ("url", pa.large_string()),
        ("file", pa.large_string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
"""A page that was found: its URL, and the place of its record in a file below the root."""
COLUMNS = ("url", "warc_filename", "warc_record_offset", "warc_record_length")
ROWS_AT_ONCE = 65_536
WWW = re.compile(r"^www\d*\.")
END_OF_HOST = ";"
"""Sorts after all characters that follow a host in a SURT key: `)`, `,`, `:` and those of longer names."""


def index_files(source: CommonCrawlSource, access: Access) -> list[str]:
    """Names of the index files of the crawl, below the root. Raises HeadwaterError if there are none.

    The crawl has a list of them; in a folder without that list, the files that are there count.
    """
    table, paths = TABLE.format(crawl=source.crawl), PATHS.format(crawl=source.crawl)
    fix = "check `crawl` and `root`"
    try:
        lines = gzip.decompress(access.whole(paths)).decode().split()
    except UnreadableFile as error:
        place = access.location(table)
        lines = []
        if not is_url(place) and not place.startswith(REMOTE):
            _, folder = filesystem(place)
            found = (info.path for info in list_files(place) if info.path.endswith(".parquet"))
            lines = [table + path.removeprefix(f"{folder}/") for path in found]
        if not lines:
            raise HeadwaterError(error.detail, where=access.location(paths), fix=fix) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise HeadwaterError(f"damaged: {error}", where=access.location(paths), fix=fix) from error
    wanted = sorted(line for line in lines if line.startswith(table))
    if not wanted:
        raise HeadwaterError(f"lists no file of {table}", where=access.location(paths), fix=fix)
    return wanted


def selected(source: CommonCrawlSource, access: Access, name: str) -> Iterator[pa.RecordBatch]:
    """The wanted pages of one index file, as batches of SCHEMA in the file's order.

    Raises HeadwaterError, which names the file, if it cannot be read or lacks a column.
    """
    where = access.location(name)
    try:
        fragment = ds.ParquetFileFormat().make_fragment(access.open(name))
        _check_columns(source, fragment.physical_schema.names, where)
        batches = fragment.to_batches(
            columns=list(COLUMNS), filter=condition(source), batch_size=ROWS_AT_ONCE, use_threads=False
        )
        for batch in batches:
            taken = batch.filter(pa.array(sampled(batch["url"].to_pylist(), source.sample, source.seed)))
            if taken.num_rows:
                arrays = [column.cast(kind) for column, kind in zip(taken.columns, SCHEMA.types, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    except UnreadableFile as error:
        raise HeadwaterError(f"{error.reason}: {error.detail}", where=where, fix="check `root`") from error
    except (pa.ArrowException, OSError) as error:
        raise HeadwaterError(
            f"not a readable index file: {error}", where=where, fix="check `root`, or get the file again"
        ) from error


def condition(source: CommonCrawlSource) -> pc.Expression:
    """What the source asks for of a row, except the sample."""
    status = ds.field("fetch_status").cast(pa.int64())
    found = status.isin(list(source.statuses))
    found &= ds.field("content_mime_detected").isin(list(source.mime_types))
    if source.languages:
        first = pc.list_element(pc.split_pattern(ds.field("content_languages"), ","), 0)
        found &= first.isin(list(source.languages))
    if source.domains:
        found &= _any([_of_domain(domain) for domain in source.domains])
    if source.urls:
        patterns = "|".join(".*".join(map(_escaped, url.split("*"))) for url in source.urls)
        found &= pc.match_substring_regex(ds.field("url"), f"^(?s:{patterns})$")
    return found


def sampled(urls: Sequence[str], share: float, seed: int) -> np.ndarray:
    """bool [n]: which URLs a sample has. A URL has the same fate wherever it stands (XXH3, 64 bits)."""
    if share >= 1:
        return np.ones(len(urls), bool)
    hashes = (xxhash.xxh3_64_intdigest(url.encode("utf-8", "surrogatepass"), seed) for url in urls)
    return np.fromiter(hashes, np.uint64, len(urls)) < np.uint64(int(share * 2.0**64))


def _of_domain(domain: str) -> pc.Expression:
    """Rows of a domain and its subdomains. The file is sorted by SURT key (`org,example,www)/path`, without a
    leading `www`), whose range tells by the statistics which row groups to read."""
    key, host = ds.field("url_surtkey"), ds.field("url_host_name")
    begin = ",".join(reversed(WWW.sub("", domain).split(".")))
    there = (key >= begin) & (key < begin + END_OF_HOST)
    return there & ((host == domain) | pc.ends_with(host, f".{domain}"))


def _any(conditions: Sequence[pc.Expression]) -> pc.Expression:
    """A balanced tree: thousands of conditions in a row would be nested too deeply."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return _any(conditions[:half]) | _any(conditions[half:])


def _escaped(text: str) -> str:
    return re.sub(r"([^A-Za-z0-9_\x80-\U0010ffff])", r"\\\1", text)


def _check_columns(source: CommonCrawlSource, there: Sequence[str], where: str) -> None:
    needed = dict.fromkeys((*COLUMNS, "fetch_status", "content_mime_detected"), "")
    if source.languages:
        needed["content_languages"] = "remove `languages`: crawls before 2018-39 have none"
    if source.domains:
        needed |= {"url_surtkey": "remove `domains`", "url_host_name": "remove `domains`"}
    for column, fix in needed.items():
        if column not in there:
            raise HeadwaterError(f"the index has no column {column}", where=where, fix=fix or "check `root`")
