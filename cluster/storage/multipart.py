"""Writable stream to an S3 object. The object appears complete with the last request, or not at all.

Parts are uploaded while the object is written, so that it never lies whole in memory or on disk. Requests
that the server throttles (503 SlowDown) or whose connection breaks are retried with exponential backoff.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from typing import Any

from headwater.cluster.errors import HeadwaterError

ATTEMPTS = 6
"""Attempts per request with doubling pauses: about 20 s until an unreachable endpoint is reported."""
PART_BYTES = 16 << 20
PARTS_OF_A_SIZE = 1000
"""Parts before the part size doubles. S3 allows 10,000 parts, which then hold 16 TB."""


class Multipart(io.RawIOBase):
    """A multipart upload, or a single PUT if smaller than one part. The object exists after `finish`."""

    def __init__(self, location: str) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self._s3 = client()
        self._location, self._target = location, {"Bucket": bucket, "Key": key}
        self._held = bytearray()
        self._upload = ""
        self._parts: list[dict[str, Any]] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        self._held += view
        self._written += view.nbytes
        while len(self._held) >= (size := PART_BYTES << len(self._parts) // PARTS_OF_A_SIZE):
            self._send(bytes(self._held[:size]))
            del self._held[:size]
        return view.nbytes

    def finish(self) -> None:
        if not self._upload:
            with self._explained():
                self._s3.put_object(**self._target, Body=bytes(self._held))
            return
        if self._held:
            self._send(bytes(self._held))
        with self._explained():
            self._s3.complete_multipart_upload(
                **self._target, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
            )

    def abandon(self) -> None:
        """Abort the upload and delete its parts. If this fails, only a bucket lifecycle rule deletes them."""
        import botocore.exceptions

        if self._upload:
            with contextlib.suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                self._s3.abort_multipart_upload(**self._target, UploadId=self._upload)

    def _send(self, data: bytes) -> None:
        with self._explained():
            if not self._upload:
                self._upload = self._s3.create_multipart_upload(**self._target)["UploadId"]
            number = len(self._parts) + 1
            sent = self._s3.upload_part(**self._target, UploadId=self._upload, PartNumber=number, Body=data)
            self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import botocore.exceptions

        try:
            yield
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise HeadwaterError(
                f"cannot be written ({error})", where=self._location, fix="check bucket, keys and endpoint"
            ) from error


def client(*, anonymous: bool = False) -> Any:
    """boto3's S3 client for the settings in the environment. Safe to share between threads. An `anonymous`
    one signs no request."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _client(environment, anonymous)


@functools.lru_cache(maxsize=4)
def _client(environment: tuple[tuple[str, str], ...], anonymous: bool) -> Any:
    """Client cached per environment settings, because creating one takes 0.1 s."""
    import boto3
    import botocore
    from botocore.config import Config

    settings = dict(environment)
    region = settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION")
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60)  # type: ignore[arg-type]
    if anonymous:
        config = config.merge(Config(signature_version=botocore.UNSIGNED))
    return boto3.session.Session().client("s3", region_name=region, config=config)
