"""Exclusive lease on a store in S3, by conditional writes of the object `.lease`.

The holder rewrites the object every RENEW_SECONDS. A lease that was not renewed for LEASE_SECONDS, by the
server's clock, has expired, and one other process can take it: its write is conditional on the ETag.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import join
from headwater.cluster.storage.lock import held_by
from headwater.cluster.storage.multipart import client

log = logging.getLogger("headwater")

NAME = ".lease"
LEASE_SECONDS = 60.0
"""Life of a lease after its last renewal."""
RENEW_SECONDS = 15.0
POLL_SECONDS = 1.0
"""Interval at which a waiting process looks at the lease."""
REFUSED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
"""Error codes of a conditional write that another process's write came before."""
UNSUPPORTED = frozenset({"NotImplemented", "501"})
MISSING = frozenset({"NoSuchKey", "NotFound", "404"})


@dataclass(frozen=True)
class _Seen:
    """The lease object as read: its version, who holds it, and its age by the server's clock."""

    etag: str
    token: str
    holder: str
    age: float

    @property
    def free(self) -> bool:
        return not self.holder or self.age > LEASE_SECONDS


@contextlib.contextmanager
def leased(
    location: str, holder: str, taken: HeadwaterError, tell: Callable[[str], None] = log.warning
) -> Iterator[None]:
    """Hold the lease of an `s3://` location for the block.

    `holder`: who holds it, for the error that others get. If a lease is not renewed, its holder may have been
    killed: this call then waits for its end and takes it. Raises `taken`, completed with the holder, if it is
    renewed; also out of the block, if another process took the lease because this one could not renew it.
    """
    lease = _Lease(location, holder, taken)
    try:
        lease.acquire(tell)
    except _Unsupported:
        tell(f"{location} has no conditional writes: nothing keeps a second run out of this store")
        yield
        return
    beat = threading.Thread(target=lease.keep, name="lease", daemon=True)
    beat.start()
    try:
        yield
    except BaseException:
        if lease.lost:
            raise lease.lost from None
        raise
    finally:
        lease.ended.set()
        beat.join(timeout=LEASE_SECONDS)
        if not lease.lost:
            lease.release()


class _Unsupported(Exception):
    """The server has no conditional writes."""


class _Lease:
    def __init__(self, location: str, holder: str, taken: HeadwaterError) -> None:
        bucket, _, key = join(location, NAME).removeprefix("s3://").partition("/")
        self._s3, self._target = client(), {"Bucket": bucket, "Key": key}
        self._location, self._holder, self._taken = location, holder, taken
        self._token, self._etag = uuid.uuid4().hex, ""
        self.ended = threading.Event()
        self.lost: HeadwaterError | None = None

    def acquire(self, tell: Callable[[str], None]) -> None:
        first: _Seen | None = None
        while True:
            seen = self._read()
            if seen is None or seen.free:
                if self._write(self._holder, seen.etag if seen else None):
                    return  # otherwise another process was faster
            elif first is None:
                first = seen
                left = LEASE_SECONDS - seen.age
                tell(f"{self._location} is held by {seen.holder}; waiting {left:.0f} s for a sign of life")
            elif seen.etag != first.etag:
                raise held_by(self._taken, seen.holder)
            time.sleep(POLL_SECONDS)

    def keep(self) -> None:
        """Renew the lease until `ended`. If another process took it, interrupt this process."""
        while not self.ended.wait(RENEW_SECONDS):
            try:
                if self._write(self._holder, self._etag):
                    continue
                seen = self._read()
                if seen is None and self._write(self._holder, None):
                    continue  # somebody deleted it
            except HeadwaterError as error:  # while the store does not answer, this run cannot write to it
                log.warning("cannot renew the lease: %s", error)
                continue
            self.lost = held_by(self._taken, seen.holder if seen else "")
            # A shell starts background commands with SIGINT ignored.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
            return

    def release(self) -> None:
        """Mark the lease as free."""
        with contextlib.suppress(HeadwaterError):  # it then expires
            self._write("", self._etag)

    def _read(self) -> _Seen | None:
        import botocore.exceptions

        try:
            with self._explained():
                answer = self._s3.get_object(**self._target)
                content: dict[str, Any] = json.loads(answer["Body"].read())
        except botocore.exceptions.ClientError as error:
            if _code(error) in MISSING:
                return None
            raise
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date).timestamp() if date else time.time()
        age = now - answer["LastModified"].timestamp()
        return _Seen(answer["ETag"], content["token"], content["holder"], max(0.0, age))

    def _write(self, holder: str, etag: str | None) -> bool:
        """Write the lease if its version is still `etag` (None: if there is none). False if it is not."""
        import botocore.exceptions

        # The nonce changes the ETag.
        body = {"holder": holder, "token": self._token, "nonce": uuid.uuid4().hex}
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            with self._explained():
                written = self._s3.put_object(**self._target, **condition, Body=json.dumps(body).encode())
        except botocore.exceptions.ClientError as error:
            if _code(error) in UNSUPPORTED:
                raise _Unsupported from error
            seen = self._read()  # a repeated request meets its own first attempt
            if seen is None or seen.token != self._token:
                return False
            self._etag = seen.etag
            return True
        self._etag = written["ETag"]
        return True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """HeadwaterError instead of all errors but those that answer a condition."""
        import botocore.exceptions

        try:
            yield
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if isinstance(error, botocore.exceptions.ClientError) and _code(error) in (
                REFUSED | UNSUPPORTED | MISSING
            ):
                raise
            raise HeadwaterError(
                f"the lease cannot be read or written ({error})",
                where=self._location,
                fix="headwater doctor --store tests every permission",
            ) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
