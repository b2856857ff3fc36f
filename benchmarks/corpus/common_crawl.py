"""CPU time of looking pages up in a made-up index file of Common Crawl, and of ordering what was found.

    python -m benchmarks.corpus.common_crawl [--rows 400000]

The file has the real columns, types and sort order; its URLs are random. Five times the rows are ordered.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.sources.common_crawl.access import Access
from headwater.data_pipeline.sources.common_crawl.index import selected
from headwater.data_pipeline.sources.common_crawl.selection import divide
from headwater.data_pipeline.sources.spec import CommonCrawlSource

CRAWL = "CC-MAIN-2024-10"
NAME = "index.parquet"
PAGES_PER_HOST, FILES = 40, 90_000


def write(path: Path, rows: int) -> list[str]:
    """Write the index file; returns its hosts."""
    generator, numbers = random.Random(0), np.random.default_rng(0)
    hosts = sorted(f"{generator.randbytes(5).hex()}.org" for _ in range(-(-rows // PAGES_PER_HOST)))
    at = [hosts[row // PAGES_PER_HOST] for row in range(rows)]
    paths = [generator.randbytes(20).hex() for _ in range(rows)]
    stem = f"crawl-data/{CRAWL}/segments/1707947473347.0/warc/CC-MAIN-20240220211055-20240221001055"
    table = {
        "url_surtkey": [f"org,{host[:-4]})/{path}" for host, path in zip(at, paths, strict=True)],
        "url": [f"https://{host}/{path}" for host, path in zip(at, paths, strict=True)],
        "url_host_name": at,
        "fetch_status": pa.array(np.full(rows, 200), pa.int16()),
        "content_mime_detected": ["text/html"] * rows,
        "content_languages": generator.choices(["eng", "deu", "eng,deu"], k=rows),
        "warc_filename": [f"{stem}-{file:05d}.warc.gz" for file in numbers.integers(0, FILES, rows)],
        "warc_record_offset": pa.array(numbers.integers(0, 1 << 30, rows), pa.int32()),
        "warc_record_length": pa.array(numbers.integers(1_000, 60_000, rows), pa.int32()),
    }
    pq.write_table(pa.table(table), path, compression="gzip", row_group_size=100_000)
    return hosts


def source(root: Path, **conditions: Any) -> CommonCrawlSource:
    return CommonCrawlSource.model_validate(
        {"kind": "common_crawl", "crawl": CRAWL, "root": str(root)} | conditions
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        hosts = write(Path(folder) / NAME, rows)
        print(f"{rows:,} rows, {(Path(folder) / NAME).stat().st_size / 1e6:,.1f} MB")
        asked: list[dict[str, Any]] = [
            {"languages": ["eng"]},
            {"languages": ["eng"], "sample": 0.01},
            {"domains": [hosts[len(hosts) // 2]]},
            {"urls": ["https://*/ab*"]},
        ]
        for conditions in asked:
            chosen = source(Path(folder), **conditions)
            started = time.process_time()
            found = sum(batch.num_rows for batch in selected(chosen, Access(chosen), NAME))
            seconds = time.process_time() - started
            print(f"{conditions}: {found:,} found, {rows / seconds:,.0f} rows per CPU second")
        chosen = source(Path(folder))
        table = pa.Table.from_batches(list(selected(chosen, Access(chosen), NAME)))
        started = time.process_time()
        made = divide(chosen, pa.concat_tables([table] * 5), 0, Artifact(f"{folder}/out"), 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(
            f"{made.line()}: ordered in {time.process_time() - started:.1f} CPU seconds; peak {peak:,.0f} MB"
        )


if __name__ == "__main__":
    main()
