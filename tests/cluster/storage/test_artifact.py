"""Artifacts appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import MANIFEST, SCRATCH, Artifact, Manifest
from headwater.cluster.storage.store import Store


def make(folder: Path) -> Artifact:
    return Store(str(folder)).artifact("clean", "abc123")


def manifest() -> Manifest:
    return Manifest(stage="clean", key="abc123", stage_version=1, config={}, inputs={})


def test_a_file_whose_writing_fails_does_not_appear(tmp_path: Path) -> None:
    artifact = make(tmp_path)
    with pytest.raises(RuntimeError), artifact.create("data.bin") as stream:
        stream.write(b"half of it")
        raise RuntimeError("the process dies here")
    assert not artifact.exists("data.bin")
    assert artifact.files() == []


def test_a_folder_whose_filling_fails_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    artifact = make(tmp_path)
    with artifact.create_folder("model") as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError), artifact.create_folder("model") as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError("the process dies here")
    assert artifact.read_bytes("model/weights") == b"old"


FILLED = {
    "create('data.bin')": "out.write(b'half'); out.flush()",
    "create_folder('model')": "(out / 'weights').write_text('half')",
}


@pytest.mark.parametrize("opened", FILLED)
def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path, opened: str) -> None:
    artifact = make(tmp_path)
    artifact.write_bytes("data/one.txt", b"one")
    script = f"""
import os, signal
from headwater.cluster.storage.artifact import Artifact
with Artifact({artifact.location!r}).{opened} as out:
    {FILLED[opened]}
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.tmp"))
    assert artifact.files() == ["data/one.txt"]
    artifact.finish(manifest())
    found = artifact.manifest()
    assert found is not None
    assert [file.path for file in found.files] == ["data/one.txt"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_finishing_records_checksums_and_drops_scratch_files(tmp_path: Path) -> None:
    artifact = make(tmp_path)
    artifact.write_bytes("data/one.txt", b"one")
    artifact.write_bytes(f"{SCRATCH}/work.json", b"{}")
    assert artifact.manifest() is None
    artifact.finish(manifest())
    found = artifact.manifest()
    assert found is not None
    # sha256 of "one", as `printf one | sha256sum` gives it
    expected = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert [(f.path, f.size, f.sha256) for f in found.files] == [("data/one.txt", 3, expected)]
    assert not artifact.exists(SCRATCH)


def test_a_manifest_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, fsync = make(tmp_path), os.fsync
    target = Path(artifact.path(MANIFEST))
    synced: list[tuple[int, int, bool]] = []

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        file = os.fstat(descriptor)
        synced.append((file.st_ino, file.st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    artifact.finish(manifest())
    assert (target.stat().st_ino, target.stat().st_size, False) in synced


def test_a_broken_manifest_names_its_file(tmp_path: Path) -> None:
    artifact = make(tmp_path)
    artifact.write_bytes(MANIFEST, b"{ not json")
    with pytest.raises(HeadwaterError, match=r"clean/abc123/manifest\.json"):
        artifact.manifest()


def test_a_second_driver_is_kept_out_of_the_store(tmp_path: Path) -> None:
    with (
        Store(str(tmp_path)).locked(),
        pytest.raises(HeadwaterError, match="another run"),
        Store(str(tmp_path)).locked(),
    ):
        pass


def test_a_store_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(HeadwaterError, match="cannot be written"):
        Store(str(tmp_path / "file")).check_writable()


def test_an_unknown_kind_of_storage_is_refused() -> None:
    with pytest.raises(HeadwaterError, match="ftp://"):
        Store("ftp://somewhere/else")
