"""The store: where artifacts, rankings and run records live, a folder or `s3://bucket/prefix`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import MANIFEST, Artifact, Manifest
from headwater.cluster.storage.filesystem import filesystem, is_remote, join, list_files
from headwater.cluster.storage.lock import exclusive

RECORD = "run.json"
"""What a run is at, in its folder; `cluster.runtime.run_record` says what stands in it."""


class Store:
    """`<location>/<stage>/<key>/`, beside `runs/` (recipes, logs) and `rankings/` (people's choices)."""

    def __init__(self, location: str) -> None:
        fs, path = filesystem(location)
        self.location = location.rstrip("/") if is_remote(location) else path
        self._fs, self._root = fs, path

    def artifact(self, stage: str, key: str) -> Artifact:
        return Artifact(join(self.location, stage, key), stage, key)

    def folder(self, name: str) -> Artifact:
        """A folder that is not a stage's output, such as `rankings`, with the same file methods."""
        return Artifact(join(self.location, name))

    def check_writable(self) -> None:
        """Fail now, with a clear message, rather than after hours of work."""
        probe = Artifact(self.location)
        name = f".write-check-{os.getpid()}"
        try:
            bucket = self._root.split("/")[0]
            missing = (
                is_remote(self.location) and self._fs.get_file_info(bucket).type == pafs.FileType.NotFound
            )
            if not missing:
                probe.write_bytes(name, b"")
                self._fs.delete_file(f"{self._root}/{name}")
        except (OSError, HeadwaterError) as error:
            raise HeadwaterError(
                f"the store cannot be written ({error})",
                where=self.location,
                fix="check that it exists and that you may write to it",
            ) from error
        if missing:
            raise HeadwaterError("no such bucket", where=f"s3://{bucket}", fix="create it or correct `store`")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second driver out of a local store; the lock goes with the process, however it ends."""
        if is_remote(self.location):
            yield
            return
        taken = HeadwaterError(
            "another run is using this store",
            where=self.location,
            fix="wait for it, or give another `--set store=…`",
        )
        with exclusive(Path(self._root), taken):
            yield

    def manifests(self) -> list[Manifest]:
        """Every finished artifact of the store, oldest first."""
        found = []
        for info in list_files(self.location):
            parts = info.path.removeprefix(self._root).strip("/").split("/")
            if len(parts) == 3 and parts[2] == MANIFEST:
                manifest = self.artifact(parts[0], parts[1]).manifest()
                if manifest is not None:
                    found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.started_at)

    def runs(self) -> list[str]:
        """Names of the runs that have a record, in order."""
        found = []
        for info in list_files(join(self.location, "runs")):
            parts = info.path.removeprefix(self._root).strip("/").split("/")
            if len(parts) == 3 and parts[2] == RECORD:
                found.append(parts[1])
        return found

    def find(self, stage: str, key_prefix: str) -> Artifact:
        """The finished artifact of a stage whose key starts so."""
        keys = [m.key for m in self.manifests() if m.stage == stage and m.key.startswith(key_prefix)]
        if len(keys) != 1:
            problem = "no finished artifact" if not keys else f"{len(keys)} artifacts"
            raise HeadwaterError(
                f"{problem} of stage {stage} with key {key_prefix}…",
                where=self.location,
                fix="`headwater show` lists them",
            )
        return self.artifact(stage, keys[0])
