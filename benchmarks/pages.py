"""Real pages for the benchmarks: HTML with its address, from WARC files and Parquet columns `html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.spec import WarcSource


def read_pages(files: Sequence[Path]) -> list[Document]:
    """Every document with HTML, in order; what cannot be read is passed over."""
    found = []
    for file in files:
        if file.suffix == ".parquet":
            pages = pq.read_table(file, columns=["html"])["html"].to_pylist()
            found += [Document(f"{file.stem}-{n}", "", "", "", html=html) for n, html in enumerate(pages)]
        else:
            items = read_source(WarcSource(kind="warc", paths=(str(file),)), str(file))
            found += [item for item in items if isinstance(item, Document) and item.html]
    return found
