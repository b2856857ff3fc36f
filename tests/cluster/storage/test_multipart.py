"""A file of any size appears whole or not at all, on a disk and in S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage import multipart
from headwater.cluster.storage.artifact import Artifact, create_file

PART = 5 << 20  # the least that S3 takes


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("s3_server")
    monkeypatch.setattr(multipart, "PART_BYTES", PART)
    return "s3://corpus/uploads"


@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_written_files_read_back_identically(folder: str, pieces: int) -> None:
    content = [bytes([number]) * (PART // 2 + number) for number in range(pieces)]
    with create_file(f"{folder}/file{pieces}") as stream:
        for piece in content:
            stream.write(piece)
    assert Artifact(folder).read_bytes(f"file{pieces}") == b"".join(content)


@pytest.mark.parametrize("pieces", [1, 5])
def test_a_file_whose_writing_fails_leaves_the_old_one(folder: str, pieces: int) -> None:
    Artifact(folder).write_bytes("file", b"old")
    with pytest.raises(RuntimeError), create_file(f"{folder}/file") as stream:
        stream.write(b"new" * PART * pieces)
        raise RuntimeError("the process dies here")
    assert Artifact(folder).read_bytes("file") == b"old"


def test_an_upload_refused_by_the_server_is_reported(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    location = "s3://corpus/uploads/refused"
    with pytest.raises(HeadwaterError, match=location), create_file(location) as stream:
        stream.write(b"something")
