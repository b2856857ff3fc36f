"""The store of artifacts, rankings and run records: a folder or `s3://bucket/prefix`."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import MANIFEST, Artifact, Manifest
from headwater.cluster.storage.filesystem import filesystem, is_remote, join, list_files
from headwater.cluster.storage.lease import leased
from headwater.cluster.storage.lock import exclusive

log = logging.getLogger("headwater")

RECORD = "run.json"
"""State file in a run's folder; `cluster.runtime.run_record` defines its content."""


class Store:
    """Artifacts in `<location>/<stage>/<key>/`, beside `runs/`, `rankings/`, `promoted/`, `improved/` and,
    while one is made, `replays/`."""

    def __init__(self, location: str) -> None:
        fs, path = filesystem(location)
        self.location = location.rstrip("/") if is_remote(location) else path
        self._fs, self._root = fs, path

    def artifact(self, stage: str, key: str) -> Artifact:
        return Artifact(join(self.location, stage, key), stage, key)

    def folder(self, name: str) -> Artifact:
        """A folder other than a stage's output, such as `rankings`, with the same file methods."""
        return Artifact(join(self.location, name))

    def check_writable(self) -> None:
        """Raise HeadwaterError if the store is not writable, before any work is done."""
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
                fix="check that it exists and that you have write permission",
            ) from error
        if missing:
            raise HeadwaterError("no such bucket", where=f"s3://{bucket}", fix="create it or correct `store`")

    def check_readable(self) -> None:
        """Raise HeadwaterError if there is no such store, or if it cannot be read."""
        try:
            known = self._fs.get_file_info(self._root).type == pafs.FileType.Directory
        except OSError as error:
            raise HeadwaterError(
                f"the store cannot be read ({error})",
                where=self.location,
                fix="headwater doctor --store tests every permission",
            ) from error
        if not known:
            raise HeadwaterError(
                "no such store", where=self.location, fix="correct --store; headwater run makes a store"
            )

    def locked(
        self, run: str = "", tell: Callable[[str], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Lock the store against a second driver, which gets a HeadwaterError naming this `run` and process.

        On a disk the lock ends with the process, in S3 (`leased`) at most LEASE_SECONDS later. `tell` is told
        when this process must wait.
        """
        taken = HeadwaterError(
            "another run is using this store",
            where=self.location,
            fix="wait for it, or use another store with `--set store=…`",
        )
        holder = f"{f'run {run} ' if run else ''}on {socket.gethostname()}, pid {os.getpid()}"
        if is_remote(self.location):
            return leased(self.location, holder, taken, tell or log.warning)
        return exclusive(Path(self._root), taken, holder)

    def manifests(self) -> list[Manifest]:
        """Manifests of all finished artifacts, oldest first."""
        found = []
        for info in list_files(self.location):
            parts = info.path.removeprefix(self._root).strip("/").split("/")
            if len(parts) == 3 and parts[2] == MANIFEST:
                manifest = self.artifact(parts[0], parts[1]).manifest()
                if manifest is not None:
                    found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.started_at)

    def runs(self, run: str = "") -> dict[str, list[int]]:
        """The attempts of each run (or of this one) that have a record, in order.

        0 is the record of a store of version 0.1.
        """
        found: dict[str, list[int]] = {}
        for info in list_files(join(self.location, "runs", run)):
            parts = info.path.removeprefix(self._root).strip("/").split("/")[1:]
            if parts[-1] == RECORD and (len(parts) == 2 or (len(parts) == 3 and parts[1].isdigit())):
                found.setdefault(parts[0], []).append(int(parts[1]) if len(parts) == 3 else 0)
        return {name: sorted(attempts) for name, attempts in found.items()}

    def find(self, stage: str, key_prefix: str) -> Artifact:
        """The one finished artifact of a stage whose key has this prefix. Raises HeadwaterError otherwise."""
        keys = [m.key for m in self.manifests() if m.stage == stage and m.key.startswith(key_prefix)]
        if len(keys) != 1:
            problem = "no finished artifact" if not keys else f"{len(keys)} artifacts"
            raise HeadwaterError(
                f"{problem} of stage {stage} with key {key_prefix}…",
                where=self.location,
                fix="`headwater show` lists them",
            )
        return self.artifact(stage, keys[0])
