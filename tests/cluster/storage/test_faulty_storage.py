"""S3 behind a proxy that refuses, resets and truncates: files arrive complete, never visible before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.cluster.storage import multipart
from headwater.cluster.storage.artifact import Artifact
from tests.faulty import FaultyProxy, faulty_proxy

BIG = os.urandom(11 << 20)  # three parts of a multipart upload


@pytest.fixture
def proxy(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(multipart, "PART_BYTES", 5 << 20)  # the least that S3 takes
    with faulty_proxy(s3_server, request.param) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.parametrize(
    "proxy",
    [pytest.param(("slow_down", "cut_off"), marks=pytest.mark.soak), ("reset", "lost_answer")],
    indirect=True,
)
def test_files_arrive_whole_through_every_fault(proxy: FaultyProxy) -> None:
    artifact = Artifact("s3://corpus/faulty/files")
    artifact.write_bytes("folder/small", b"few")
    artifact.write_bytes("folder/big", BIG)
    table = pa.table({"text": ["one", "two"] * 5000})
    with artifact.create("table.parquet") as stream:
        pq.write_table(table, stream)
    assert artifact.read_bytes("folder/small") == b"few"
    assert artifact.read_bytes("folder/big") == BIG
    assert pq.read_table(pa.BufferReader(artifact.read_bytes("table.parquet"))).equals(table)
    assert artifact.files() == ["folder/big", "folder/small", "table.parquet"]
    assert (artifact.local("folder") / "big").read_bytes() == BIG
    assert [proxy.met[fault] >= 8 for fault in proxy.faults] == [True, True]


@pytest.mark.parametrize("proxy", [("cut_off", "slow_down")], indirect=True)
def test_folders_arrive_whole_through_every_fault(proxy: FaultyProxy) -> None:
    artifact = Artifact("s3://corpus/faulty/folders")
    with artifact.create_folder("model") as folder:
        (folder / "weights").write_bytes(BIG)
        (folder / "config").write_bytes(b"{}")
    assert [(record.path, record.size) for record in artifact.record_files()] == [
        ("model/config", 2),
        ("model/weights", len(BIG)),
    ]
    artifact.delete("model/config")
    assert artifact.files() == ["model/weights"]


@pytest.mark.parametrize("proxy", [("lost_answer",)], indirect=True)
def test_interrupted_writes_are_never_visible(proxy: FaultyProxy, tmp_path: Path) -> None:
    artifact = Artifact("s3://corpus/faulty/broken")
    with pytest.raises(KeyboardInterrupt), artifact.create("file") as stream:
        stream.write(BIG)
        raise KeyboardInterrupt
    assert artifact.files() == []
