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
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.conditional import ConditionalObject, Unsupported
from headwater.cluster.storage.filesystem import join
from headwater.cluster.storage.lock import held_by

log = logging.getLogger("headwater")

NAME = ".lease"
LEASE_SECONDS = 60.0
"""Life of a lease after its last renewal."""
RENEW_SECONDS = 15.0
POLL_SECONDS = 1.0
"""Interval at which a waiting process looks at the lease."""


@dataclass(frozen=True)
class _Seen:
    """The lease object as read: its version, who holds it, and its age by the server's clock."""

    etag: str
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
    except Unsupported:
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


class _Lease:
    def __init__(self, location: str, holder: str, taken: HeadwaterError) -> None:
        self._object = ConditionalObject(join(location, NAME), "lease")
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
        version = self._object.read()
        if version is None:
            return None
        content: dict[str, Any] = json.loads(version.body)
        return _Seen(version.etag, content["holder"], version.age)

    def _write(self, holder: str, etag: str | None) -> bool:
        """Write the lease if its version is still `etag` (None: if there is none). False if it is not."""
        # The nonce changes the ETag.
        body = {"holder": holder, "token": self._token, "nonce": uuid.uuid4().hex}
        written = self._object.write(json.dumps(body).encode(), etag)
        self._etag = written or self._etag
        return written is not None
