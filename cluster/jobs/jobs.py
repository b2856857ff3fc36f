"""Runs as jobs of a cluster over Ray's job submission API: submit, join, list, follow, stop.

A submission has a run key, a hash of the work it would do. At most one job per key is active:
a second submission joins the first. A job that failed or was stopped is submitted again and
reuses the finished stages in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.cluster.runtime.run_record import JOB_VARIABLE
from headwater.cluster.versions import COMMIT_VARIABLE, commit

log = logging.getLogger("headwater")

PREFIX = "headwater"
KEY, RUN, STORE = f"{PREFIX}_key", f"{PREFIX}_run", f"{PREFIX}_store"
"""Keys of a job's metadata. Ray stores the values as strings."""
STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "7"}
"""Ray stops a job with SIGINT, as Ctrl-C does, so that the driver shuts training down cleanly."""
NOISY_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers silenced because they report every upload and closed connection."""
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
SILENCE_SECONDS = 30.0
"""After this time without a log line, a follower checks that the job and the connection are alive."""
PATIENCE_SECONDS = 600.0
"""A follower stops after this time without reaching the cluster. The job keeps running."""


@dataclass(frozen=True)
class Submission:
    """A command to run as a job and its requirements on the cluster."""

    run: str
    """Name of the run; part of the job's id."""
    store: str
    command: tuple[str, ...]
    """Program and arguments, started in the working directory."""
    folder: Path
    """Working directory, packed and sent to every node."""
    identity: str
    """Canonical description of the work. Equal texts give equal keys."""
    env: dict[str, str] = field(default_factory=dict)
    pip: tuple[str, ...] = ()
    """Requirements to install on the nodes; empty if the image contains them."""

    @property
    def key(self) -> str:
        return hashlib.sha256(self.identity.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """State of a job as reported by the cluster."""

    id: str
    status: str
    message: str
    run: str
    key: str
    store: str
    started: float | None
    """Seconds since the epoch; None while the job waits for a node."""
    ended: float | None

    @property
    def over(self) -> bool:
        return self.status in ENDED


class Jobs:
    """The jobs of one cluster. Every method raises HeadwaterError when the cluster does not answer."""

    def __init__(self, address: str) -> None:
        self.address = _http_address(address)
        with self._answering(), _no_address_from_environment():
            from ray.job_submission import JobSubmissionClient

            for name in NOISY_LOGGERS:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = JobSubmissionClient(self.address)

    def submit(self, submission: Submission) -> tuple[Job, bool]:
        """Start the run, or join the active job with its key. Returns the job and whether it was joined."""
        earlier = [job for job in self.all() if job.key == submission.key]
        running = [job for job in earlier if not job.over]
        if running:
            return running[-1], True
        identifier = f"{submission.run}-{submission.key}-{len(earlier) + 1}"
        runtime_env: dict[str, Any] = {
            "working_dir": str(submission.folder),
            "env_vars": submission.env | STOP | {JOB_VARIABLE: identifier, COMMIT_VARIABLE: commit()},
        }
        if submission.pip:
            runtime_env["pip"] = {"packages": list(submission.pip), "pip_check": False}
        metadata = {KEY: submission.key, RUN: submission.run, STORE: submission.store}
        with self._answering():
            try:
                self._client.submit_job(
                    entrypoint=shlex.join(submission.command),
                    submission_id=identifier,
                    runtime_env=runtime_env,
                    metadata=metadata,
                )
            except RuntimeError as error:
                if "already" not in str(error):
                    raise
                return self.get(identifier), True  # another process submitted it first
        return self.get(identifier), False

    def all(self) -> list[Job]:
        """All jobs submitted by Headwater, oldest first."""
        with self._answering():
            found = [_job(details) for details in self._client.list_jobs() if KEY in (details.metadata or {})]
        return sorted(found, key=lambda job: job.started or float("inf"))

    def get(self, identifier: str) -> Job:
        with self._answering(identifier):
            return _job(self._client.get_job_info(identifier))

    def logs(self, identifier: str) -> str:
        with self._answering(identifier):
            return str(self._client.get_job_logs(identifier))

    def follow(self, identifier: str, *, patience: float = PATIENCE_SECONDS) -> Iterator[str]:
        """Yield the job's output as it is printed, until the job ends.

        Reconnects when the connection breaks or falls silent, and skips output already yielded, because
        the server always starts at the first line. Raises HeadwaterError after `patience` seconds of failure.
        """
        seen = 0
        last_contact = time.monotonic()
        while True:
            position = 0
            try:
                for chunk in _tail(self._client, identifier):
                    last_contact = time.monotonic()
                    fresh = chunk[max(0, seen - position) :]
                    position += len(chunk)
                    if fresh:
                        seen = position
                        yield fresh
                job = self.get(identifier)
                last_contact = time.monotonic()
            except (TimeoutError, OSError, RuntimeError) as error:
                log.info("following %s: %s", identifier, error)
            except HeadwaterError:
                if time.monotonic() - last_contact > patience:
                    raise HeadwaterError(
                        f"the cluster has not answered for {patience:.0f} s",
                        where=self.address,
                        fix=f"the job may still be running: headwater jobs logs {identifier} --follow",
                    ) from None
            else:
                if job.over and position >= seen:
                    return
            time.sleep(1)

    def stop(self, identifier: str, *, timeout: float = 20.0) -> Job:
        """Stop a job and wait until it has ended. Does nothing if the job has already ended."""
        job = self.get(identifier)
        if job.over:
            return job
        with self._answering(identifier):
            self._client.stop_job(identifier)
        deadline = time.monotonic() + timeout
        while not (job := self.get(identifier)).over:
            if time.monotonic() > deadline:
                raise HeadwaterError(
                    f"the job did not stop within {timeout:.0f} s",
                    where=identifier,
                    fix="try again, or read the logs of the head node",
                )
            time.sleep(0.2)
        return job

    def nodes_and_actors(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The dashboard's summaries of the cluster's nodes, and the live actors."""
        from ray.util.state import list_actors

        with self._answering(), _no_address_from_environment():
            answer = self._client._do_request("GET", "/nodes", params={"view": "summary"})
            nodes = answer.json()["data"]["summary"]
            found = list_actors(self.address, filters=[("state", "=", "ALIVE")], limit=10_000)
        return nodes, [{"node_id": actor.node_id, "class_name": actor.class_name} for actor in found]

    @contextlib.contextmanager
    def _answering(self, identifier: str = "") -> Iterator[None]:
        """Convert the client's exceptions into a HeadwaterError about the address, the token or the job."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise HeadwaterError(
                "the cluster refuses this token",
                where=self.address,
                fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token",
            ) from error
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise HeadwaterError(
                "no Ray dashboard answers",
                where=self.address,
                fix="pass http://HEAD:8265 and start the head with its dashboard",
            ) from error
        except RuntimeError as error:
            if identifier and "does not exist" in str(error):
                raise HeadwaterError(
                    "no such job", where=identifier, fix="`headwater jobs list` shows all jobs"
                ) from error
            what = first_line(error)[:300] or type(error).__name__
            raise HeadwaterError(what, where=identifier or self.address) from error


def identity(run: str, work: dict[str, Any]) -> str:
    """Canonical text of a run's name and everything that determines its work; key order does not matter."""
    return json.dumps({"run": run, "work": work}, sort_keys=True, default=str)


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id or details.job_id or "",
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        run=metadata.get(RUN, ""),
        key=metadata.get(KEY, ""),
        store=metadata.get(STORE, ""),
        started=_seconds(details.start_time),
        ended=_seconds(details.end_time),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if not milliseconds else milliseconds / 1000


def _tail(client: Any, identifier: str) -> Iterator[str]:
    """Yield the log in chunks from its first line until the job ends.

    Raises TimeoutError after SILENCE_SECONDS without output, so that the caller can check the connection.
    """
    loop = asyncio.new_event_loop()
    chunks = client.tail_job_logs(identifier)
    try:
        while True:
            try:
                yield loop.run_until_complete(asyncio.wait_for(anext(chunks), SILENCE_SECONDS))
            except StopAsyncIteration:
                return
    finally:
        with contextlib.suppress(Exception):
            loop.run_until_complete(chunks.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _http_address(address: str) -> str:
    """Dashboard URL of `host:port` or `http(s)://host:port`. Raises HeadwaterError for other schemes."""
    scheme, separator, _ = address.partition("://")
    if not separator:
        return f"http://{address}".rstrip("/")
    if scheme not in ("http", "https"):
        raise HeadwaterError(
            f"jobs are submitted to the head's dashboard, not to {scheme}://",
            where=address,
            fix="pass http://HEAD:8265",
        )
    return address.rstrip("/")


@contextlib.contextmanager
def _no_address_from_environment() -> Iterator[None]:
    """Hide the variables with which Ray would override the caller's address."""
    held = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in held.items() if value is not None})
