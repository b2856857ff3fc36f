"""Selects the pages of a Common Crawl source: looks all index files up, then divides the pages into units.

_scratch/common_crawl-N/found/*.parquet    pages of one index file
_scratch/common_crawl-N/ranges/*.parquet   pages of one unit, by file and offset
common_crawl/N/selection.json              numbers; written last
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.data_pipeline.sources.common_crawl import ranges
from headwater.data_pipeline.sources.common_crawl.access import Access
from headwater.data_pipeline.sources.common_crawl.index import SCHEMA, TABLE, index_files, selected
from headwater.data_pipeline.sources.common_crawl.reader import wet_name
from headwater.data_pipeline.sources.spec import CommonCrawlSource

COMMON_CRAWL = "common_crawl"
"""Folder of the artifact with a folder for each source of this kind."""
UNIT_BYTES = 64 << 20
"""Stored bytes of a unit of work."""
PAGES_PER_CORE_SECOND = 50
"""Pages that `clean` handles per second and core (docs/results.md)."""


@dataclass(frozen=True)
class Selection:
    """What a source will fetch. `bytes`: as stored, compressed; with WET, of its whole files."""

    pages: int
    bytes: int
    fetched_bytes: int
    """The same with the gaps between pages of one request."""
    requests: int
    files: int
    units: int
    index_files: int

    def summary(self, dollars_per_core_hour: float) -> dict[str, Any]:
        """The numbers, and what cleaning these pages would take."""
        hours = self.pages / PAGES_PER_CORE_SECOND / 3600
        return asdict(self) | {"cleaning_core_hours": hours, "dollars": hours * dollars_per_core_hour}

    def line(self) -> str:
        return (
            f"{self.pages:,} pages, {self.fetched_bytes / 1e6:,.1f} MB to fetch in {self.requests:,} "
            f"request{'s'[: self.requests != 1]} from {self.files:,} file{'s'[: self.files != 1]}"
        )


def select(source: CommonCrawlSource, number: int, output: Artifact, session: Session) -> Selection:
    """The selection of the recipe's source `number`, made now unless `output` has it.

    Raises HeadwaterError if an index file cannot be read, if no page meets the conditions, or if more than
    `max_records` do.
    """
    from headwater.cluster.runtime.parallel import map_units

    done = f"{COMMON_CRAWL}/{number}/selection.json"
    if output.exists(done):
        return Selection(**output.read_json(done))
    names = index_files(source, Access(source))
    units = [{"unit": f"{place:05d}", "file": name} for place, name in enumerate(names)]
    found = map_units(
        session,
        output,
        f"{COMMON_CRAWL}-{number}/lookup",
        units,
        LookupWorker,
        worker_args={"source": source, "output": output, "number": number},
        unit_name="index files",
    )
    count = sum(result["pages"] for result in found)
    where = Access(source).location(TABLE.format(crawl=source.crawl))
    if count == 0:
        fix = "widen `domains`, `urls`, `languages`, `statuses`, `mime_types` or `sample`"
        raise HeadwaterError("no page of the index meets the conditions", where=where, fix=fix)
    if count > source.max_records:
        what = f"{count:,} pages meet the conditions, more than `max_records` ({source.max_records:,})"
        raise HeadwaterError(what, where=where, fix="lower `sample`, or raise `max_records`")
    tables = [
        _read(output, f"{_scratch(number)}/found/{unit['unit']}.parquet")
        for unit, result in zip(units, found, strict=True)
        if result["pages"]
    ]
    made = divide(source, pa.concat_tables(tables), number, output, len(names))
    output.write_json(done, asdict(made))
    return made


def unit_files(number: int, output: Artifact) -> list[str]:
    """Locations of the files with the pages of each unit."""
    return [output.path(name) for name in output.files(f"{_scratch(number)}/ranges", ".parquet")]


class LookupWorker:
    """Looks up one index file: the wanted pages, to `found/`."""

    def __init__(self, source: CommonCrawlSource, output: Artifact, number: int) -> None:
        self._source, self._output, self._number = source, output, number
        self._access = Access(source)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        pages = 0
        name = f"{_scratch(self._number)}/found/{unit['unit']}.parquet"
        with self._output.create(name) as stream, pq.ParquetWriter(stream, SCHEMA) as writer:
            for batch in selected(self._source, self._access, unit["file"]):
                writer.write_batch(batch)
                pages += batch.num_rows
        return {"pages": pages}


def divide(
    source: CommonCrawlSource, table: pa.Table, number: int, output: Artifact, index_files: int
) -> Selection:
    """Write the pages in units, by file and offset."""
    files = table["file"].combine_chunks().dictionary_encode()
    if isinstance(files, pa.ChunkedArray):
        files = files.chunk(0)
    names = np.array(files.dictionary.to_pylist(), object)
    place = np.empty(len(names), np.int64)
    place[np.argsort(names)] = np.arange(len(names))
    numbers = place[files.indices.to_numpy()]
    order = np.lexsort((table["offset"].to_numpy(), numbers))
    table, numbers = table.take(pa.array(order)), numbers[order]
    offsets, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
    wet = source.format == "wet"
    if wet:  # a unit is one file, which is read as a whole
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        parts = list(itertools.pairwise(edges))
        access = Access(source)
        size = access.size(wet_name(table["file"][0].as_py())) * len(parts)  # they are much alike
        requests, fetched, stored = len(parts), size, size
    else:
        parts = ranges.bounds(lengths, UNIT_BYTES)
        requests, fetched = ranges.cost(numbers, offsets, lengths, source.gap_bytes)
        stored = int(lengths.sum())
    for unit, (first, last) in enumerate(parts):
        with output.create(f"{_scratch(number)}/ranges/{unit:06d}.parquet") as stream:
            pq.write_table(table.slice(first, last - first), stream, compression="zstd")
    return Selection(len(numbers), stored, fetched, requests, len(names), len(parts), index_files)


def _scratch(number: int) -> str:
    return f"{SCRATCH}/{COMMON_CRAWL}-{number}"


def _read(output: Artifact, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(output.read_bytes(name)))
