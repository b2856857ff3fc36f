"""Write one file of any size that appears whole or not at all, on a disk or in S3.

On S3 it is sent in parts while it is written, so that neither memory nor disk holds it; only the last
request makes it an object. (`Artifact.create` gathers a file first, which suits small ones.)
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO, Any, cast

from cluster.artifact import Artifact
from cluster.errors import HeadwaterError
from cluster.filesystem import filesystem, is_remote

PART_BYTES = 16 << 20
PARTS_OF_A_SIZE = 1000
"""S3 takes 10,000 parts: every thousand parts the next ones are twice as large, which suffices for 16 TB."""


@contextlib.contextmanager
def create(location: str) -> Iterator[IO[bytes]]:
    """A stream to write to. What lies at the location stays until the block has ended without error."""
    _, path = filesystem(location)
    folder, _, name = path.rpartition("/")
    if not is_remote(location):
        with Artifact(folder or "/").create(name) as stream:
            yield stream
        return
    bucket, _, key = path.partition("/")
    upload = _Multipart(location, bucket, key)
    try:
        yield cast("IO[bytes]", upload)
        upload.finish()
    except BaseException:
        upload.abandon()
        raise


class _Multipart(io.RawIOBase):
    """A multipart upload as a stream; below one part in size it is a single PUT."""

    def __init__(self, location: str, bucket: str, key: str) -> None:
        import boto3

        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._s3: Any = boto3.session.Session().client("s3", region_name=region)
        self._location, self._target = location, {"Bucket": bucket, "Key": key}
        self._held = bytearray()
        self._upload = ""
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        self._held += view
        while len(self._held) >= (size := PART_BYTES << len(self._parts) // PARTS_OF_A_SIZE):
            self._send(bytes(self._held[:size]))
            del self._held[:size]
        return view.nbytes

    def finish(self) -> None:
        with self._explained():
            if not self._upload:
                self._s3.put_object(**self._target, Body=bytes(self._held))
                return
        if self._held:
            self._send(bytes(self._held))
        with self._explained():
            self._s3.complete_multipart_upload(
                **self._target, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
            )

    def abandon(self) -> None:
        """Have the parts that were sent thrown away; a bucket's own rule has to do it if this fails, too."""
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
