"""An interrupted unit of acquisition resumes inside its file and writes the same parts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline import sources
from headwater.data_pipeline.acquire import AcquireConfig, ReadWorker
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import Unread
from headwater.data_pipeline.sources.position import Position
from tests.data_pipeline.sources.readers.test_sources_files import warc_record

COUNT, PER_PART = 400, 16


def rows() -> list[dict[str, str]]:
    return [{"text": f"Document {n} says something. " * (1 + n % 30), "url": f"u:{n}"} for n in range(COUNT)]


def lines() -> list[bytes]:
    """Every fiftieth is broken."""
    return [b"{broken\n" if n % 50 == 7 else json.dumps(row).encode() + b"\n" for n, row in enumerate(rows())]


def records() -> list[bytes]:
    pages = [(row["url"], row["text"].encode()) for row in rows()]
    return [warc_record(url, text, status=404 if n % 50 == 7 else 200) for n, (url, text) in enumerate(pages)]


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), path, row_group_size=90)


def folder(path: Path) -> None:
    path.mkdir()
    for number, row in enumerate(rows()):
        (path / f"{number:03d}.txt").write_text("" if number % 50 == 7 else row["text"])


MAKE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "jsonl": ("jsonl", lambda path: path.write_bytes(b"".join(lines()))),
    "jsonl, one gzip member": ("jsonl", lambda path: path.write_bytes(gzip.compress(b"".join(lines())))),
    "jsonl, zstd frames": (
        "jsonl",
        lambda path: path.write_bytes(
            b"".join(zstandard.compress(b"".join(lines()[n : n + 30])) for n in range(0, COUNT, 30))
        ),
    ),
    "warc": ("warc", lambda path: path.write_bytes(b"".join(records()))),
    "warc, a gzip member a record": (
        "warc",
        lambda path: path.write_bytes(b"".join(map(gzip.compress, records()))),
    ),
    "parquet": ("parquet", parquet),
    "folder": ("folder", folder),
}


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("name", MAKE)
def test_an_interrupted_read_resumes_at_its_position(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, make = MAKE[name]
    make(tmp_path / "input")
    config = AcquireConfig.model_validate(
        {"sources": [{"kind": kind, "paths": [str(tmp_path / "input")]}], "documents_per_part": PER_PART}
    )
    source = tmp_path / "input"
    paths = sorted(map(str, source.iterdir())) if kind == "folder" else [str(source)]
    unit = {"unit": "00000-x", "source": 0, "paths": paths}
    reference = Artifact(str(tmp_path / "reference"))
    expected = ReadWorker(config, reference)(unit)
    read_source = sources.read_source
    read, limit = 0, 0

    def cut_off(source: Any, path: str, position: Position) -> Iterator[Document | Unread]:
        nonlocal read, limit
        for item in read_source(source, path, position):
            if limit == 0:
                raise Cut
            read, limit = read + 1, limit - 1
            yield item

    monkeypatch.setattr(sources, "read_source", cut_off)
    output = Artifact(str(tmp_path / "output"))
    for items in (5, 100, 130, 100):
        limit = items
        with pytest.raises(Cut):
            ReadWorker(config, output)(unit)
    limit = COUNT
    result = ReadWorker(config, output)(unit)
    assert COUNT < read <= COUNT + 4 * (PER_PART + 2), "no more than a part is read again"
    assert result == expected
    for folder_name in ("documents", "unread"):
        assert [output.read_bytes(n) for n in output.files(folder_name)] == [
            reference.read_bytes(n) for n in reference.files(folder_name)
        ]
    assert expected["documents"] + sum(expected["rejected"].values()) == COUNT
