"""The open shards of one split: few memory maps, and copies fetched ahead from an object store.

Linux allows a process 65,530 maps (`vm.max_map_count`): the least recently used shard is closed. A reader
that knows its order says which shards it reads now and next (`expect`): a thread fetches those, and copies of
shards that are behind it are deleted.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, FileRecord
from headwater.cluster.storage.filesystem import is_remote

logger = logging.getLogger(__name__)

MOST_OPEN = 16_384
"""Maps of a split that stay open. A window of pretraining is not larger."""
ATTEMPTS = 3
"""Another process may delete a copy between its fetch and its opening."""


class ShardFiles:
    """Shards by number. Not shared between threads, but for the one that fetches ahead."""

    def __init__(self, artifact: Artifact, names: Sequence[str], row_ids: int) -> None:
        self.artifact, self.names, self.row_ids = artifact, names, row_ids
        self.opened = 0
        """How often a shard was opened."""
        self._open: OrderedDict[int, tuple[np.ndarray, pa.RecordBatch]] = OrderedDict()
        self._records: Mapping[str, FileRecord] | None = None
        self._now: list[int] = []
        self._expected: frozenset[int] = frozenset()
        self.fetching: FetchAhead | None = None
        """The thread that copies expected shards, once there was one to copy."""

    def open(self, number: int) -> tuple[np.ndarray, pa.RecordBatch]:
        """Ids [rows, row_ids] and record batch of a shard, mapped. Raises HeadwaterError if unreadable."""
        if number not in self._open:
            while len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)
            batch = self._map(number)
            ids = batch.column("ids").values.to_numpy(zero_copy_only=True)
            self._open[number] = (ids.reshape(-1, self.row_ids), batch)
            self.opened += 1
        self._open.move_to_end(number)
        return self._open[number]

    def expect(self, now: list[int], ahead: list[int], limit: int) -> None:
        """The reader reads `now`, then `ahead`: copies are fetched while these take at most `limit` bytes.

        Shards that were expected before and are no longer are closed, and their copies deleted.
        """
        expected = frozenset(now) | frozenset(ahead)
        if now == self._now and expected == self._expected:
            return
        for number in self._expected - expected:
            self._open.pop(number, None)
            self.artifact.drop_copy(self.names[number], self.records.get(self.names[number]))
        self._now, self._expected = now, expected
        if not is_remote(self.artifact.location):
            return
        wanted, size = [], 0
        for number in (*now, *ahead):
            record = self.records.get(self.names[number])
            if record is None or (size := size + record.size) > limit:
                break
            wanted.append(record)
        if self.fetching is None:
            self.fetching = FetchAhead(self.artifact)
        self.fetching.want(wanted)

    @property
    def records(self) -> Mapping[str, FileRecord]:
        """The manifest's record of each file; empty while the artifact is unfinished."""
        if self._records is None:
            manifest = self.artifact.manifest()
            self._records = {record.path: record for record in manifest.files} if manifest else {}
        return self._records

    def _map(self, number: int) -> pa.RecordBatch:
        name = self.names[number]
        for attempt in range(1, ATTEMPTS + 1):
            try:
                path = self.artifact.local_file(name, self.records.get(name))
                return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            except (OSError, pa.ArrowInvalid) as error:
                dropped = isinstance(error, FileNotFoundError) and is_remote(self.artifact.location)
                if dropped and attempt < ATTEMPTS:
                    continue
                raise HeadwaterError(
                    f"not a readable token shard ({error})",
                    where=self.artifact.path(name),
                    fix="delete this artifact and run again",
                ) from error
        raise AssertionError("the last attempt raises")


class FetchAhead:
    """Copies files of a store to the disk, in a thread. A newer list replaces what is left of the last."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._wanted: list[FileRecord] = []
        self._names: set[str] = set()
        self._changed = threading.Condition()
        self._busy = False
        threading.Thread(target=self._work, name="fetch-ahead", daemon=True).start()

    def want(self, records: Sequence[FileRecord]) -> None:
        with self._changed:
            self._wanted = list(reversed(records))
            self._names = {record.path for record in records}
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when everything wanted has been tried."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted and not self._busy)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._wanted))
                record, self._busy = self._wanted.pop(), True
            try:
                self._artifact.local_file(record.path, record)
            except (OSError, HeadwaterError) as error:  # the reader meets it again, if it lasts
                logger.warning("%s was not fetched ahead: %s", self._artifact.path(record.path), error)
            with self._changed:
                if record.path not in self._names:  # its reader went on while it was fetched
                    self._artifact.drop_copy(record.path, record)
