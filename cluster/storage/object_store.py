"""pyarrow's S3 file system, with retries of reads that the server throttles.

Arrow retries failed requests but writes the body of a 503 SlowDown to the read buffer. If the body is longer
than the requested range, the read fails at once ("Failed to flush response stream"). Here it is retried.
"""

from __future__ import annotations

import functools
import io
import time
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from headwater.cluster.storage.multipart import ATTEMPTS

FIRST_PAUSE_SECONDS = 0.5
MISTAKEN = "Failed to flush response stream"


@functools.cache
def s3(endpoint: str | None, region: str | None) -> pafs.PyFileSystem:
    settings: dict[str, Any] = {"connect_timeout": 10, "request_timeout": 60}
    settings["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        settings |= {"endpoint_override": host, "scheme": scheme or "https"}
    if region:
        settings["region"] = region
    return pafs.PyFileSystem(PatientS3(pafs.S3FileSystem(**settings)))


class PatientS3(pafs.FileSystemHandler):
    """Delegates to S3FileSystem, except that `_Reader` retries reads."""

    def __init__(self, s3: pafs.S3FileSystem) -> None:
        self._s3 = s3

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatientS3) and self._s3 == other._s3

    def __hash__(self) -> int:
        return hash(PatientS3)

    def get_type_name(self) -> str:
        return "s3"

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_Reader(self._s3.open_input_file(path)), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def normalize_path(self, path: str) -> str:
        return self._s3.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return self._s3.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self._s3.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._s3.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._s3.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._s3.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise PermissionError("deleting all buckets is not allowed")

    def delete_file(self, path: str) -> None:
        self._s3.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._s3.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._s3.copy_file(src, dest)

    def open_output_stream(self, path: str, metadata: dict[str, str] | None) -> pa.NativeFile:
        return self._s3.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str] | None) -> pa.NativeFile:
        return self._s3.open_append_stream(path, metadata=metadata)


class _Reader(io.RawIOBase):
    """Reads an object and retries reads that fail because of throttling."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()

    def read(self, size: int = -1, /) -> bytes:
        begin = self._file.tell()
        for attempt in range(ATTEMPTS):
            try:
                return self._file.read(None if size < 0 else size)
            except OSError as error:
                if MISTAKEN not in str(error) or attempt == ATTEMPTS - 1:
                    raise
                time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
                self._file.seek(begin)
        raise AssertionError("the last attempt returns or raises")
