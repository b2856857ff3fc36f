"""State of a run: `runs/<name>/<attempt>/run.json`, updated while the run is active.

Every start of a run is an attempt, numbered from 1, with its own record, recipe and logs. `headwater status`
reads the newest from any machine with access to the store. A heartbeat distinguishes an active run from one
whose driver has died. In an object store the attempt's logs are uploaded with it, so that they outlive the
driver's machine. Stores of version 0.1 have one record per run, `runs/<name>/run.json`.
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
from headwater.cluster.versions import commit

log = logging.getLogger("headwater")

JOB_VARIABLE = "HEADWATER_JOB"
"""Environment variable with the job's id, set if the driver is a job of a cluster."""
LOCAL_SECONDS, REMOTE_SECONDS = 2.0, 20.0
"""Write interval of the record on a disk and in an object store."""
SILENT_AFTER_SECONDS = 90.0
"""A run without a heartbeat for this time is reported as lost."""


class StageRecord(BaseModel):
    """A stage that this run finished or found finished in the store."""

    stage: str
    key: str
    found: bool
    seconds: float


class Progress(BaseModel):
    """Progress of the current stage."""

    label: str
    done: int
    total: int
    unit: str
    note: str = ""
    rate: float | None = None
    """Units per second."""


class Record(BaseModel):
    """The content of `run.json`. Times are seconds since the epoch."""

    recipe: str
    state: str = "running"
    """running, finished, failed or stopped. `shown_state` reports lost if a running run has no heartbeat."""
    error: str = ""
    started: float = 0.0
    heartbeat: float = 0.0
    attempt: int = 0
    """Number of the attempt; 0 in stores of version 0.1, which kept only the last one."""
    commit: str = ""
    """Git commit of the source that ran; empty without a checkout."""
    host: str = ""
    pid: int = 0
    job: str = ""
    """Id of the cluster job that runs the driver; empty without one."""
    stage: str = ""
    artifact: str = ""
    """Location of the artifact that the current stage writes."""
    progress: Progress | None = None
    stages: list[StageRecord] = []
    expected: int = 0
    """Number of stages that the run goes through; 0 in records of earlier versions."""

    def shown_state(self, now: float) -> str:
        if self.state == "running" and now - self.heartbeat > SILENT_AFTER_SECONDS:
            return "lost"
        return self.state


class RunRecord:
    """Context manager that keeps a run's record in the store. Its methods are thread-safe."""

    def __init__(self, store: Store, run: str, logs: Path | None = None, attempt: int | None = None) -> None:
        """`attempt`: its number; default: the next one, which is unique while the store is locked."""
        now = time.time()
        number = attempt or next_attempt(store, run)
        self.record = Record(
            recipe=run,
            started=now,
            heartbeat=now,
            attempt=number,
            commit=commit(),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get(JOB_VARIABLE, ""),
        )
        self.folder: Artifact = store.folder(f"runs/{run}/{number}")
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
        with contextlib.suppress(OSError):  # must not hide the error that ended the run
            self._write()

    def expect(self, stages: int) -> None:
        """Record how many stages the run goes through."""
        with self._lock:
            self.record.expected = stages

    def stage(self, name: str, artifact: Artifact) -> None:
        """Record the start of a stage."""
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
        """Record progress, written with the next heartbeat."""
        with self._lock:
            self.record.progress = progress

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._write()
            except OSError as error:  # a short outage of the store must not fail the run
                log.warning("cannot write the run's record: %s", error)

    def _write(self) -> None:
        with self._lock:
            self.record.heartbeat = time.time()
            value = self.record.model_dump()
        self.folder.write_json(RECORD, value)
        for path in sorted(self._logs.iterdir()) if self._logs else []:
            size = path.stat().st_size
            if size != self._copied.get(path.name):
                self.folder.write_bytes(path.name, path.read_bytes())
                self._copied[path.name] = size


def next_attempt(store: Store, run: str) -> int:
    """The number that the next start of a run gets."""
    return max(store.runs(run).get(run, []), default=0) + 1


def attempt_folder(store: Store, run: str, attempt: int | None = None) -> Artifact | None:
    """The folder with the record of an attempt, by default the newest; None if there is no such attempt."""
    known = store.runs(run).get(run, [])
    if not known or (attempt is not None and attempt not in known):
        return None
    number = known[-1] if attempt is None else attempt
    return store.folder(f"runs/{run}/{number}" if number else f"runs/{run}")


def read_record(store: Store, run: str, attempt: int | None = None) -> Record | None:
    """The record of an attempt, by default the newest; None if there is none."""
    folder = attempt_folder(store, run, attempt)
    return Record.model_validate(folder.read_json(RECORD)) if folder else None
