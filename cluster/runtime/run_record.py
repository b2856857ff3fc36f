"""What a run is at: `runs/<name>/run.json`, kept up to date while the run goes on.

`headwater status` reads it, from any machine that sees the store. A heartbeat tells a run that is
at work from one whose driver is gone; the logs of a run in an object store go there with it, so that
they outlive the machine that wrote them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from pathlib import Path

from pydantic import BaseModel

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import is_remote
from headwater.cluster.storage.store import RECORD, Store

log = logging.getLogger("headwater")

JOB_VARIABLE = "HEADWATER_JOB"
"""Environment of a driver that is a job of a cluster: the job's id."""
LOCAL_SECONDS, REMOTE_SECONDS = 2.0, 20.0
"""How often the record is written: to a disk, to an object store."""
SILENT_AFTER_SECONDS = 90.0
"""A run without a heartbeat for so long has lost its driver."""


class StageRecord(BaseModel):
    """A stage that this run has finished or found finished."""

    stage: str
    key: str
    found: bool
    seconds: float


class Progress(BaseModel):
    """How far the work of the moment is."""

    label: str
    done: int
    total: int
    unit: str
    note: str = ""
    rate: float | None = None
    """Units a second."""


class Record(BaseModel):
    """The content of `run.json`. Times are seconds since the epoch."""

    recipe: str
    state: str = "running"
    """running, finished, failed or stopped; a running one without a heartbeat is lost."""
    error: str = ""
    started: float = 0.0
    heartbeat: float = 0.0
    host: str = ""
    pid: int = 0
    job: str = ""
    """Id of the cluster job that the driver is, if it is one."""
    stage: str = ""
    artifact: str = ""
    """Location of the artifact that the current stage makes."""
    progress: Progress | None = None
    stages: list[StageRecord] = []

    def shown_state(self, now: float) -> str:
        if self.state == "running" and now - self.heartbeat > SILENT_AFTER_SECONDS:
            return "lost"
        return self.state


class RunRecord:
    """Keeps a run's record on the store. A context manager; its methods may be called from any thread."""

    def __init__(self, store: Store, run: str, logs: Path | None = None) -> None:
        now = time.time()
        self.record = Record(
            recipe=run,
            started=now,
            heartbeat=now,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get(JOB_VARIABLE, ""),
        )
        self._folder: Artifact = store.folder(f"runs/{run}")
        self._every = REMOTE_SECONDS if is_remote(store.location) else LOCAL_SECONDS
        self._logs = logs if is_remote(store.location) else None
        self._copied: dict[str, int] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-record", daemon=True)

    def __enter__(self) -> RunRecord:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        if kind is None:
            state = "finished"
        else:
            state = "stopped" if issubclass(kind, KeyboardInterrupt | SystemExit) else "failed"
        with self._lock:
            self.record.state = state
            self.record.error = "" if value is None else str(value)[:1000]
        with contextlib.suppress(OSError):  # the error that ended the run is the one to be told
            self._write()

    def stage(self, name: str, artifact: Artifact) -> None:
        """A stage begins."""
        with self._lock:
            self.record.stage, self.record.artifact = name, artifact.location
            self.record.progress = None
        self._write()

    def stage_done(self, done: StageRecord) -> None:
        with self._lock:
            self.record.stages = [*self.record.stages, done]
            self.record.progress = None
        self._write()

    def progress(self, progress: Progress) -> None:
        """Taken up by the next heartbeat."""
        with self._lock:
            self.record.progress = progress

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._write()
            except OSError as error:  # the store may be away for a moment; the run's own writes decide
                log.warning("the run's record could not be written: %s", error)

    def _write(self) -> None:
        with self._lock:
            self.record.heartbeat = time.time()
            value = self.record.model_dump()
        self._folder.write_json(RECORD, value)
        for path in sorted(self._logs.iterdir()) if self._logs else []:
            size = path.stat().st_size
            if size != self._copied.get(path.name):
                self._folder.write_bytes(path.name, path.read_bytes())
                self._copied[path.name] = size


def read_record(store: Store, run: str) -> Record | None:
    """The record of a run, or None where there is none."""
    folder = store.folder(f"runs/{run}")
    return Record.model_validate(folder.read_json(RECORD)) if folder.exists(RECORD) else None
