"""The stage `clean` on two Ray Data workers compared with a plain loop on one core, over the same pages.

    python -m benchmarks.corpus.scaling PAGES.parquet PAGES.warc.gz… [--copies 10] [--workers 2]

Each copy of a page has a unique sentence; parts have the size that `acquire` writes. The loop runs the
stage's two passes in this process, pinned to one core together with the process that parses HTML. Times are
wall-clock seconds including the loading of models, but not the start of Ray; run nothing else on the
machine. Both results are compared byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpus.pages import read_pages
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.stage import (
    KEPT,
    REJECTED,
    Clean,
    CleanConfig,
    MeasureWorker,
    WriteWorker,
)
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.parts import DOCUMENTS


def write_copies(pages: Sequence[Document], copies: int, path: Path) -> int:
    """Write copies of the pages to a Parquet file (columns `html`, `url`); return the bytes of HTML."""
    html, urls = [], []
    for copy in range(copies):
        for number, page in enumerate(pages):
            mark = f"<p>This page is number {number} of copy {copy}.</p>".encode()
            html.append((page.html or b"").replace(b"</body>", mark + b"</body>"))
            urls.append(f"https://example.org/{copy}/{number}")
    pq.write_table(pa.table({"html": html, "url": urls}), path, row_group_size=64)
    return sum(map(len, html))


def plain_loop(acquired: Artifact, folder: Path) -> Artifact:
    """Run the passes of the stage on one core."""
    output = Artifact(str(folder), "clean")
    units = [{"unit": Path(name).stem, "part": name} for name in acquired.files(DOCUMENTS, ".parquet")]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        measure = MeasureWorker(CleanConfig(), output, acquired)
        for unit in units:
            measure(unit)
        Clean(CleanConfig())._decide([unit["unit"] for unit in units], output)
        for unit in units:
            WriteWorker(output)(unit)
    finally:
        os.sched_setaffinity(0, cores)
    return output


def digest(artifact: Artifact) -> str:
    names = [name for folder in (KEPT, REJECTED) for name in artifact.files(folder, ".parquet")]
    return hashlib.sha256(b"".join(name.encode() + artifact.read_bytes(name) for name in names)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    pages = read_pages(options.files)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = write_copies(pages, options.copies, folder / "pages.parquet")
        number = len(pages) * options.copies
        print(f"{number} pages, {size / 1e6:.0f} MB of HTML")
        with Session(Store(str(folder / "store")), num_cpus=options.workers) as session:
            source = {
                "kind": "parquet",
                "paths": [str(folder / "pages.parquet")],
                "columns": {"html": "html", "url": "url"},
            }
            reading = AcquireConfig.model_validate({"sources": [source]})
            acquired, _ = execute(Acquire(reading), {}, session)
            os.sync()  # flush earlier writes before measuring
            started = time.perf_counter()
            cleaned, _ = execute(Clean(CleanConfig()), {"acquire": acquired}, session)
            spread = time.perf_counter() - started
        os.sync()
        started = time.perf_counter()
        alone = plain_loop(acquired, folder / "plain")
        loop = time.perf_counter() - started
        manifest = cleaned.manifest()
        steps = json.dumps(manifest.metrics["cpu_seconds"] if manifest is not None else {})
        print(f"one core, plain loop  {loop:6.1f} s  {number / loop:6.1f} pages/s")
        print(
            f"{options.workers} workers of Ray     {spread:6.1f} s  {number / spread:6.1f} pages/s  {steps}"
        )
        print(f"{loop / spread:.2f}x, identical bytes: {digest(cleaned) == digest(alone)}")


if __name__ == "__main__":
    main()
