"""Local copies of S3 files: complete or absent, fetched once per machine, fetched again if damaged."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage import cache
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.cache import cached_file

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """A folder in S3, with an empty cache."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for processes that are started
    artifact = Artifact(f"s3://corpus/cache/{tmp_path.name}")
    artifact.write_bytes("file", CONTENT)
    return artifact


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Locations, one for each time that something is fetched."""
    return count_fetches(monkeypatch)


def count_fetches(patch: Any) -> list[str]:
    locations: list[str] = []
    fetch = cache._fetch
    patch.setattr(cache, "_fetch", lambda *a: locations.append(a[0]) or fetch(*a))
    return locations


def test_a_file_is_fetched_once(folder: Artifact, fetched: list[str]) -> None:
    for _ in range(3):
        assert cached_file(folder.path("file"), len(CONTENT), SUM).read_bytes() == CONTENT
        assert folder.local("file").read_bytes() == CONTENT
    assert len(fetched) == 2, "one copy by the record, one by the store's own listing"


def test_a_truncated_copy_is_fetched_again(folder: Artifact, fetched: list[str]) -> None:
    copy = cached_file(folder.path("file"), len(CONTENT), SUM)
    with copy.open("rb+") as stream:
        stream.truncate(1_000_000)
    assert cached_file(folder.path("file"), len(CONTENT), SUM).read_bytes() == CONTENT
    assert len(fetched) == 2


def test_a_file_that_was_written_again_is_fetched_again(folder: Artifact) -> None:
    assert folder.local("file").read_bytes() == CONTENT
    folder.write_bytes("file", CONTENT[1:])  # the store's clock may count whole seconds
    assert folder.local("file").read_bytes() == CONTENT[1:]


@pytest.mark.parametrize("damaged", [CONTENT[:-1], bytes(len(CONTENT))])
def test_a_file_unlike_its_record_is_refused_and_nothing_is_left(folder: Artifact, damaged: bytes) -> None:
    folder.write_bytes("file", damaged)
    with pytest.raises(HeadwaterError, match="unexpected content") as caught:
        cached_file(folder.path("file"), len(CONTENT), SUM)
    assert caught.value.where == folder.path("file")
    assert [path.suffix for path in cache.cache_folder().iterdir()] == [".lock"]


def test_a_full_disk_evicts_old_copies_but_not_those_in_use(
    folder: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for two and a half files besides the reserve."""

    def usage(path: Path) -> shutil._ntuple_diskusage:
        used = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        room = cache.SPARED_BYTES + 5 * len(CONTENT) // 2
        return shutil._ntuple_diskusage(room, used, room - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    for name in ("a/one", "b", "c", "d"):
        folder.write_bytes(name, CONTENT)
    long_ago = time.time() - 2 * cache.IN_USE_SECONDS
    old = [folder.local("b"), folder.local("a")]  # a file and a folder
    for age, path in enumerate(old):
        os.utime(path, (long_ago - age, long_ago - age))
    kept = [old[0], folder.local("c")]
    assert not old[1].exists() and all(path.exists() for path in kept), "the oldest is enough"
    assert folder.local("b") == old[0], "asked for again, so it is in use"
    monkeypatch.setattr(cache, "SPARED_BYTES", 0)
    with pytest.raises(HeadwaterError, match="no room"):
        folder.local("d")
    assert all(path.read_bytes() == CONTENT for path in kept)


def test_a_file_that_is_not_there_is_named(folder: Artifact) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        folder.local("missing")


def fetch_here(location: str) -> tuple[bool, int]:
    """In another process: whether the copy is right, and how often it was fetched here."""
    with pytest.MonkeyPatch.context() as patch:
        fetched = count_fetches(patch)
        return cached_file(location, len(CONTENT), SUM).read_bytes() == CONTENT, len(fetched)


def test_of_two_processes_one_fetches_and_both_read(folder: Artifact) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(fetch_here, [folder.path("file")] * 4, chunksize=1)
    assert [right for right, _ in results] == [True] * 4
    assert sum(count for _, count in results) == 1


def test_a_process_that_died_while_fetching_does_not_block_others(
    folder: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(*_: object) -> bool:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(Died):
            cached_file(folder.path("file"), len(CONTENT), SUM)
    assert cached_file(folder.path("file"), len(CONTENT), SUM).read_bytes() == CONTENT
