"""Artifacts: folders of data files with a manifest, which is written last and marks them complete.

`<store>/<stage>/<key>/manifest.json` exists exactly when the stage has finished. Files appear
atomically: on a disk by a rename, on S3 by one PUT or the completion of a multipart upload. A
partially written file is therefore never read as finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.fs as pafs
from pydantic import BaseModel

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.cache import cached_file, cached_folder, drop_cached_file
from headwater.cluster.storage.filesystem import (
    PARTIAL,
    delete_local,
    filesystem,
    is_remote,
    join,
    list_files,
    partial_path,
)
from headwater.cluster.storage.multipart import Multipart

MANIFEST = "manifest.json"
SCRATCH = "_scratch"  # work in progress: kept for resuming, deleted when the artifact is finished


class FileRecord(BaseModel):
    """One file of an artifact: path relative to the artifact, size in bytes, SHA-256 of its content."""

    path: str
    size: int
    sha256: str


class Manifest(BaseModel):
    """Description of an artifact: its stage, config, inputs, files and metrics."""

    stage: str
    key: str
    stage_version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    """Input stage → key of the artifact that was read."""
    fingerprint: dict[str, Any] = {}
    """What the key depends on in addition to config and inputs, such as the sizes of source files."""
    metrics: dict[str, Any] = {}
    files: list[FileRecord] = []
    started_at: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Artifact:
    """A stage's output folder. Cheap to pass between processes: it holds only a location."""

    location: str
    stage: str = field(default="", compare=False)
    key: str = field(default="", compare=False)

    def path(self, name: str = "") -> str:
        return join(self.location, name) if name else self.location

    def beside(self, stage: str, key: str) -> Artifact:
        """Another artifact of the same store."""
        root = self.location.removesuffix(f"/{self.stage}/{self.key}")
        return Artifact(join(root, stage, key), stage, key)

    # -- reading ---------------------------------------------------------------------------
    def manifest(self) -> Manifest | None:
        """The manifest, or None while the artifact is unfinished."""
        if not self.exists(MANIFEST):
            return None
        return Manifest.model_validate(self.read_json(MANIFEST))

    def finished(self) -> Manifest:
        """The manifest of an artifact that has been finished."""
        manifest = self.manifest()
        assert manifest is not None, f"{self.location} is not finished"
        return manifest

    def exists(self, name: str) -> bool:
        fs, path = filesystem(self.path(name))
        return fs.get_file_info(path).type != pafs.FileType.NotFound

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Sorted names (relative to the artifact) of all files below a folder."""
        _, root = filesystem(self.location)
        found = (info.path.removeprefix(root).lstrip("/") for info in list_files(self.path(folder)))
        return [name for name in found if name.endswith(suffix) and f"{PARTIAL}/" not in f"{name}/"]

    def read_bytes(self, name: str) -> bytes:
        fs, path = filesystem(self.path(name))
        with fs.open_input_file(path) as stream:
            return stream.read()

    def read_json(self, name: str) -> Any:
        """Parsed content of a JSON file. Raises HeadwaterError if it is not valid JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except json.JSONDecodeError as error:
            raise HeadwaterError(
                f"not valid JSON ({error})", where=self.path(name), fix="delete this artifact and run again"
            ) from error

    def local(self, name: str = "") -> Path:
        """Local path of a file or folder: the original on a disk, or a cached copy from S3."""
        if not is_remote(self.location):
            return Path(filesystem(self.path(name))[1])
        fs, path = filesystem(self.path(name))
        if fs.get_file_info(path).type != pafs.FileType.Directory:
            return cached_file(self.path(name))
        return cached_folder(self.path(name))

    def local_file(self, name: str, record: FileRecord | None = None) -> Path:
        """Like `local`, for a file recorded in the manifest. Makes no further request to the store and
        verifies a copy from S3 against the recorded size and checksum."""
        if record is None or not is_remote(self.location):
            return self.local(name)
        return cached_file(self.path(name), record.size, record.sha256)

    def drop_copy(self, name: str, record: FileRecord | None) -> None:
        """Delete the local copy of a recorded file of a store; readers that have it open keep it."""
        if record is not None and is_remote(self.location):
            drop_cached_file(self.path(name), record.size, record.sha256)

    # -- writing ---------------------------------------------------------------------------
    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Write one file atomically: it replaces an existing file when the block ends without an error."""
        if is_remote(self.location):
            upload = Multipart(self.path(name))
            try:
                yield cast("IO[bytes]", upload)
                upload.finish()
            except BaseException:
                upload.abandon()
                raise
            return
        target = Path(filesystem(self.path(name))[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(target)
        try:
            with partial.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def write_bytes(self, name: str, data: bytes) -> None:
        with self.create(name) as stream:
            stream.write(data)

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)
        self.write_bytes(name, text.encode() + b"\n")

    @contextlib.contextmanager
    def create_folder(self, name: str) -> Iterator[Path]:
        """Yield a local folder to fill. It becomes the artifact's folder `name` when the block ends."""
        if is_remote(self.location):
            with tempfile.TemporaryDirectory(prefix="headwater-") as scratch:
                yield Path(scratch)
                fs, path = filesystem(self.path(name))
                pafs.copy_files(scratch, path, destination_filesystem=fs)
            return
        target = Path(filesystem(self.path(name))[1])
        partial = partial_path(target)
        partial.mkdir(parents=True)
        try:
            yield partial
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def delete(self, name: str) -> None:
        """Delete one file if it exists."""
        fs, path = filesystem(self.path(name))
        with contextlib.suppress(FileNotFoundError):
            fs.delete_file(path)

    def delete_folder(self, name: str) -> None:
        fs, path = filesystem(self.path(name))
        if fs.get_file_info(path).type == pafs.FileType.Directory:
            with contextlib.suppress(FileNotFoundError):  # some S3 servers still list an emptied folder
                fs.delete_dir(path)

    def record_files(self) -> list[FileRecord]:
        """Size and checksum of every data file, read back from the store."""
        fs, root = filesystem(self.location)
        records = []
        for name in self.files():
            if name == MANIFEST or name.startswith(f"{SCRATCH}/"):
                continue
            digest = hashlib.sha256()
            size = 0
            with fs.open_input_stream(f"{root}/{name}") as stream:
                while chunk := stream.read(8 << 20):
                    digest.update(chunk)
                    size += len(chunk)
            records.append(FileRecord(path=name, size=size, sha256=digest.hexdigest()))
        return records

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which marks the artifact complete, and delete the scratch files."""
        self._drop_partials()
        manifest.files = self.record_files()
        self.write_json(MANIFEST, manifest.model_dump())
        self.delete_folder(SCRATCH)

    def _drop_partials(self) -> None:
        """Remove partial files left by killed processes. S3 never shows partial files."""
        if is_remote(self.location):
            return
        for path in list(Path(filesystem(self.location)[1]).rglob(f"*{PARTIAL}")):
            delete_local(path)


def create_file(location: str) -> AbstractContextManager[IO[bytes]]:
    """Like `Artifact.create`, for any file on a disk or in S3."""
    folder, name = file_in(location)
    return folder.create(name)


def file_in(location: str) -> tuple[Artifact, str]:
    """The folder and the name of a file on a disk or in S3."""
    folder, _, name = (location if is_remote(location) else filesystem(location)[1]).rpartition("/")
    return Artifact(folder or "/"), name


@dataclass(frozen=True)
class Folder:
    """A folder of an artifact that a process on any machine can open."""

    artifact: Artifact
    name: str

    def local(self) -> Path:
        return self.artifact.local(self.name)
