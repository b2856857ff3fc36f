"""An object in S3 that is written only if its version is still the one that was read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.multipart import client

REFUSED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
"""Error codes of a conditional write that another process's write came before."""
UNSUPPORTED = frozenset({"NotImplemented", "501"})
MISSING = frozenset({"NoSuchKey", "NotFound", "404"})


class Unsupported(Exception):
    """The server has no conditional writes."""


@dataclass(frozen=True)
class Version:
    """An object as read: its content, its ETag and its age in seconds by the server's clock."""

    body: bytes
    etag: str
    age: float


class ConditionalObject:
    """One object of an `s3://` location. `name` is what errors call it."""

    def __init__(self, location: str, name: str) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self._s3, self._target = client(), {"Bucket": bucket, "Key": key}
        self._location, self._name = location, name

    def read(self) -> Version | None:
        """The current version, or None if there is no object."""
        import botocore.exceptions

        try:
            with self._explained():
                answer = self._s3.get_object(**self._target)
                body = answer["Body"].read()
        except botocore.exceptions.ClientError as error:
            if _code(error) in MISSING:
                return None
            raise
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date).timestamp() if date else time.time()
        age = now - answer["LastModified"].timestamp()
        return Version(body, answer["ETag"], max(0.0, age))

    def write(self, body: bytes, etag: str | None) -> str | None:
        """Write the object if its version is still `etag` (None: if there is none).

        Returns the new ETag, or None if another process's write came before. Raises Unsupported.
        """
        import botocore.exceptions

        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            with self._explained():
                written = self._s3.put_object(**self._target, **condition, Body=body)
        except botocore.exceptions.ClientError as error:
            if _code(error) in UNSUPPORTED:
                raise Unsupported from error
            seen = self.read()  # a repeated request meets its own first attempt
            return seen.etag if seen is not None and seen.body == body else None
        return str(written["ETag"])

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
                f"the {self._name} cannot be read or written ({error})",
                where=self._location,
                fix="headwater doctor --store tests every permission",
            ) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
