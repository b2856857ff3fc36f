"""Time and memory of `clean.select_documents` over generated score tables.

    python -m benchmarks.corpus.duplicates [--documents 1000000] [--folder DIR]

A third of the documents are near copies of others (chains that share MinHash buckets), a tenth are exact
copies. The tables are on disk, as the stage writes them. Memory is the peak of this process, with imports.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.clean.scores import SCORES, read_scores, schema
from headwater.data_pipeline.clean.select_documents import Decisions
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.tables import write_table

ROWS = 10_000
MIX = np.uint64(0x9E3779B97F4A7C15)


def make(artifact: Artifact, unit: int, total: int, config: CleanConfig) -> None:
    """Write one part: rows of plausible scores, with keys that repeat in other parts."""
    generator = np.random.default_rng(unit)
    rows = np.arange(unit * ROWS, (unit + 1) * ROWS)
    original = np.where(generator.random(ROWS) < 1 / 3, generator.integers(0, total, ROWS), rows)
    exact = np.where(generator.random(ROWS) < 0.1, generator.integers(0, total, ROWS), rows)
    buckets = config.minhash_dedup.buckets
    own, theirs = ((numbers.astype(np.uint64) + 1) * MIX for numbers in (rows, original))
    keys = own[:, None] + np.arange(buckets, dtype=np.uint64)
    shared = generator.integers(0, buckets, ROWS)
    keys[np.arange(ROWS), shared] = theirs + shared.astype(np.uint64)
    digests = np.stack([exact, exact + 1], axis=1).astype(np.uint64) * MIX
    columns: dict[str, Any] = {
        "id": [f"{row:032x}" for row in rows],
        "url": [f"https://example.org/pages/{row}" for row in rows],
        "source": [f"crawl/part-{unit:06d}.warc.gz:{row}" for row in range(ROWS)],
        "digest": list(digests),
        "keys": list(keys),
    }
    wanted = schema(config)
    for field in wanted:
        if field.name.startswith("characters."):
            columns[field.name] = generator.integers(500, 50_000, ROWS)
    nothing = [None] * ROWS
    arrays = [pa.array(columns.get(field.name, nothing), field.type) for field in wanted]
    write_table(artifact, f"{SCORES}/{unit:06d}.parquet", pa.Table.from_arrays(arrays, schema=wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="folder for the tables; default: a temporary one")
    options = parser.parse_args()
    off = ("gopher_repetition", "gopher_quality", "c4", "fineweb", "language")
    config = CleanConfig.model_validate({name: {"enabled": False} for name in off})
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        artifact = Artifact(folder)
        units = options.documents // ROWS
        for unit in range(units):
            make(artifact, unit, units * ROWS, config)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        started = time.perf_counter()
        names = [f"{unit:06d}" for unit in range(units)]
        decisions = Decisions(partial(read_scores, artifact), names, config)
        decided = time.perf_counter() - started
        for name in names:
            decisions.of(name)
        seconds = time.perf_counter() - started
    for count in decisions.counts:
        print(f"{count.step:<14} {count.documents_in:>12,} → {count.documents_out:>12,}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    total = units * ROWS
    rate = f"{total / seconds:,.0f} per second"
    print(
        f"{total:,} documents: decided in {decided:.1f} s, {seconds:.1f} s with all decisions read ({rate})"
    )
    print(f"peak memory {peak:.2f} GB ({before:.2f} GB before)")


if __name__ == "__main__":
    main()
