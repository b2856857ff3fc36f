"""Pages for the benchmarks, from WARC files and the `html` column of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.spec import WarcSource


def read_pages(files: Sequence[Path]) -> list[Document]:
    """All documents with HTML, in file order; unreadable records are skipped."""
    found = []
    for file in files:
        if file.suffix == ".parquet":
            pages = pq.read_table(file, columns=["html"])["html"].to_pylist()
            found += [Document(f"{file.stem}-{n}", "", "", "", html=html) for n, html in enumerate(pages)]
        else:
            items = read_source(WarcSource(kind="warc", paths=(str(file),)), str(file))
            found += [item for item in items if isinstance(item, Document) and item.html]
    return found
