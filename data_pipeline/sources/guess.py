"""Detects the source kind of a path from file suffixes, for commands that take any files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem, list_files
from headwater.data_pipeline.sources.items import encodable
from headwater.data_pipeline.sources.listing import SUFFIXES
from headwater.data_pipeline.sources.opening import REMOTE
from headwater.data_pipeline.sources.spec import (
    ArchiveSource,
    Columns,
    CsvSource,
    FolderSource,
    JsonlSource,
    MboxSource,
    MediaWikiSource,
    ParquetSource,
    WarcSource,
)

Files = (
    WarcSource
    | JsonlSource
    | ParquetSource
    | FolderSource
    | MboxSource
    | MediaWikiSource
    | CsvSource
    | ArchiveSource
)
BY_NAME = ("archive", "mediawiki", "csv")
"""Kinds of files that are read only where they are named, not where a folder of mixed files holds one."""


def sources_of(
    inputs: Sequence[str], columns: Columns, allow_addresses: Sequence[str] = (), ocr: bool = False
) -> list[Files]:
    """One source per input (path, folder, glob, URL, s3:// or hf:// name) and kind of file in it.
    `allow_addresses` and `ocr`: as in the settings of a source."""
    found: list[Files] = []
    for path in inputs:
        if not encodable(path):
            where = path.encode("utf-8", "replace").decode()
            raise HeadwaterError("the name is not UTF-8", where=where, fix="rename it")
        for kind in _kinds(path):
            entry: dict[str, object] = {"kind": kind, "paths": [path], "allow_addresses": allow_addresses}
            if kind in ("jsonl", "parquet", "csv"):
                entry["columns"] = columns
            if kind in ("folder", "archive"):
                entry["ocr"] = ocr
            found.append(TypeAdapter(Files).validate_python(entry))
    return found


def _kinds(path: str) -> list[str]:
    names = [path.partition("?")[0] if "://" in path else path]
    folder = False
    endings = tuple(ending for group in SUFFIXES.values() for ending in group)
    if path.startswith(REMOTE) and not path.lower().endswith(endings):
        names, folder = [info.path for info in list_files(path)], True
    elif "://" not in path or path.startswith("file://"):
        local = Path(filesystem(path)[1])
        if local.is_dir():
            names, folder = [file.name for file in local.rglob("*") if file.is_file()], True
    kinds = [
        kind
        for kind, group in SUFFIXES.items()
        if not (folder and kind in BY_NAME) and any(name.lower().endswith(group) for name in names)
    ]
    if not kinds:
        fix = f"supported suffixes: {' '.join(endings)}"
        raise HeadwaterError("no file in a supported format", where=path, fix=fix)
    return kinds
