"""Byte ranges of files below a root: an HTTP(S) server, an S3 bucket or a folder. Failures are retried.

Common Crawl answers 403, 429 and 503 when it is asked too often (https://status.commoncrawl.org): a pause
follows each of them, as long as `Retry-After` says.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import join
from headwater.data_pipeline.sources import opening
from headwater.data_pipeline.sources.guard import AddressGuard, guarded_session
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.opening import CONNECT_SECONDS, READ_SECONDS, is_url
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import CommonCrawlSource

MAX_PAUSE_SECONDS = 60.0
CUT = "truncated"
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
LIMITED = (403, 429)
"""Statuses of a server that is asked too often."""
S3_REASONS = {
    "NoSuchKey": "not_found",
    "NoSuchBucket": "not_found",
    "404": "not_found",
    "InvalidRange": CUT,
    "416": CUT,
}


class Failed(Exception):
    """One attempt failed. `again`: another may succeed, after `pause` seconds."""

    def __init__(self, reason: str, detail: str, *, again: bool = False, pause: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.again, self.pause = reason, detail, again, pause


class Access:
    """Reads the files of a source. Safe to share between threads; made anew in each process."""

    def __init__(self, source: CommonCrawlSource) -> None:
        self._root, self._retries = source.root, source.retries
        self._backend: _Backend
        if is_url(source.root):
            self._backend = _Http(source)
        elif source.root.startswith("s3://"):
            self._backend = _S3(source)
        else:
            self._backend = _Disk()

    def location(self, name: str) -> str:
        return join(self._root, name)

    def range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly so many bytes of a file.

        Raises UnreadableFile (`not_found`, `truncated`) if the file does not have them, HeadwaterError if it
        cannot be reached.
        """
        return self._again(name, lambda place: self._backend.range(place, offset, length))

    def size(self, name: str) -> int:
        """Size of a file in bytes. Raises as `range`."""
        return self._again(name, self._backend.size)

    def whole(self, name: str) -> bytes:
        """Content of a file. Raises as `range`."""
        return self.range(name, 0, self.size(name))

    def open(self, name: str) -> pa.NativeFile:
        """A file that is read at random, range by range. Raises as `range`."""
        return pa.PythonFile(_RangeFile(self, name), mode="r")

    def _again(self, name: str, attempt: Any) -> Any:
        place, pause = self.location(name), opening.FIRST_PAUSE_SECONDS
        for left in reversed(range(self._retries + 1)):
            try:
                return attempt(place)
            except Failed as error:
                problem = error
                if not error.again or not left:
                    break
                time.sleep(min(max(pause, problem.pause), MAX_PAUSE_SECONDS))
                pause *= 2
        if problem.reason in ("not_found", CUT):
            raise UnreadableFile(problem.reason, f"{problem.detail}; {place}")
        raise HeadwaterError(
            f"{problem.reason}: {problem.detail}",
            where=place,
            fix="check `root`, keys and network, or wait and take fewer workers; the next run goes on here",
        )


class _Backend(ABC):
    """One kind of storage. Both methods raise Failed."""

    @abstractmethod
    def range(self, place: str, offset: int, length: int) -> bytes: ...

    @abstractmethod
    def size(self, place: str) -> int: ...


class _Http(_Backend):
    def __init__(self, source: CommonCrawlSource) -> None:
        self._guard, self._proxy = AddressGuard(source.allow_addresses), proxy_of(source)
        self._sessions = threading.local()

    def range(self, place: str, offset: int, length: int) -> bytes:
        with self._answer("GET", place, {"Range": f"bytes={offset}-{offset + length - 1}"}) as answer:
            if answer.status_code != 206:
                raise Failed("no_ranges", f"the server answers {answer.status_code} to a byte range, not 206")
            sent = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != offset:
                raise Failed(CUT, f"the server did not send the range from byte {offset:,}", again=True)
            data: bytes = answer.raw.read(length, decode_content=False)
        if len(data) < length:
            ends = sent[2].isdecimal() and int(sent[2]) < offset + length
            raise Failed(CUT, f"{len(data):,} of {length:,} bytes from byte {offset:,}", again=not ends)
        return data

    def size(self, place: str) -> int:
        with self._answer("HEAD", place, {}) as answer:
            told = str(answer.headers.get("Content-Length", ""))
        if not told.isdecimal():
            raise Failed("no_size", "the server does not say how long the file is")
        return int(told)

    @contextlib.contextmanager
    def _answer(self, method: str, place: str, headers: dict[str, str]) -> Iterator[Any]:
        import requests
        import urllib3

        if not hasattr(self._sessions, "session"):
            self._sessions.session = guarded_session(self._guard, self._proxy)
        headers = {"Accept-Encoding": "identity", "User-Agent": "headwater"} | headers
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        try:
            with self._sessions.session.request(
                method, place, headers=headers, timeout=timeout, stream=True, allow_redirects=True
            ) as answer:
                _check_status(answer)
                yield answer
        except UnreadableFile as error:  # a forbidden address
            raise Failed(error.reason, error.detail) from error
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
            raise Failed("unreachable", f"invalid URL or redirect: {error}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Failed("unreachable", str(error), again=True) from error


def _check_status(answer: Any) -> None:
    status = answer.status_code
    if status < 400:
        return
    said = f"HTTP status {status}"
    if status in (404, 410):
        raise Failed("not_found", said)
    if status == 416:
        raise Failed(CUT, "the file ends before this range")
    after = str(answer.headers.get("Retry-After", ""))
    reason = "no_permission" if status in (401, 403) else "unreachable"
    again = status in LIMITED or status >= 500
    raise Failed(reason, said, again=again, pause=float(after) if after.isdecimal() else 0.0)


class _S3(_Backend):
    """boto3, which retries by itself what a server throttles."""

    def __init__(self, source: CommonCrawlSource) -> None:
        from headwater.cluster.storage.multipart import client

        self._s3 = client(anonymous=source.anonymous)

    def range(self, place: str, offset: int, length: int) -> bytes:
        with self._explained():
            answer = self._s3.get_object(**_target(place), Range=f"bytes={offset}-{offset + length - 1}")
            data: bytes = answer["Body"].read()
        if len(data) < length:
            raise Failed(CUT, f"the object ends at byte {offset + len(data):,}")
        return data

    def size(self, place: str) -> int:
        with self._explained():
            return int(self._s3.head_object(**_target(place))["ContentLength"])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import botocore.exceptions as boto

        try:
            yield
        except boto.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            denied = code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch")
            reason = S3_REASONS.get(code, "no_permission" if denied else "unreachable")
            raise Failed(reason, str(error)) from error
        except (boto.IncompleteReadError, boto.ReadTimeoutError, boto.ResponseStreamingError) as error:
            raise Failed(CUT, str(error), again=True) from error
        except boto.BotoCoreError as error:
            raise Failed("unreachable", str(error)) from error


def _target(place: str) -> dict[str, str]:
    bucket, _, key = place.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


class _Disk(_Backend):
    def range(self, place: str, offset: int, length: int) -> bytes:
        with self._explained(), self._path(place).open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        if len(data) < length:
            raise Failed(CUT, f"the file ends at byte {offset + len(data):,}")
        return data

    def size(self, place: str) -> int:
        with self._explained():
            return self._path(place).stat().st_size

    def _path(self, place: str) -> Path:
        return Path(place.removeprefix("file://")).expanduser()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Failed("not_found", "no such file") from error
        except OSError as error:
            raise Failed(
                "no_permission" if isinstance(error, PermissionError) else "unreadable", str(error)
            ) from error


class _RangeFile(io.RawIOBase):
    def __init__(self, access: Access, name: str) -> None:
        self._access, self._name = access, name
        self._size, self._at = access.size(name), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        rest = max(0, self._size - self._at)
        length = rest if size < 0 else min(size, rest)
        data = self._access.range(self._name, self._at, length) if length else b""
        self._at += length
        return data
