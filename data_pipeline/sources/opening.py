"""Opening a source's files, wherever they lie, and naming what is wrong when that fails."""

from __future__ import annotations

import collections
import contextlib
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import zstandard

from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.position import Mark

CONNECT_SECONDS, READ_SECONDS = 10, 60
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5  # doubled after each failed attempt

CODECS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
FILE_BYTES = 1 << 16
FEED_BYTES = 1 << 11
"""Compressed bytes unpacked at once: bounds what a file of zeros can blow up to in memory."""


REMOTE = ("s3://", "hf://")
"""Beginnings of names that `cluster.storage.filesystem` opens on other machines."""


def is_url(path: str) -> bool:
    return path.startswith(("http://", "https://"))


@contextlib.contextmanager
def open_input(path: str, max_download_bytes: int) -> Iterator[Any]:
    """A seekable binary stream over a file. A URL is first downloaded to a temporary file.

    Raises UnreadableFile with a reason code: not_found, no_permission, unreachable, unreadable, too_large.
    """
    if is_url(path):
        with tempfile.TemporaryFile(prefix="headwater-") as file:
            download(path, file, max_download_bytes)
            file.seek(0)
            yield file
        return
    try:
        fs, inner = filesystem(path)
        stream = fs.open_input_file(inner)
        stream.size()  # an object store may only now find out that nothing is there
    except OSError as error:
        raise UnreadableFile(storage_reason(error), str(error)) from error
    with stream:
        yield stream


def storage_reason(error: OSError) -> str:
    """The reason code for an error of a file system or an object store (whose errors are only text)."""
    text = str(error).upper()
    if isinstance(error, PermissionError) or any(
        mark in text for mark in ("ACCESS_DENIED", "ACCESSDENIED", "HTTP STATUS 403", "INVALID_ACCESS_KEY")
    ):
        return "no_permission"
    if isinstance(error, FileNotFoundError) or any(
        mark in text
        for mark in (
            "NO_SUCH_BUCKET",
            "NO_SUCH_KEY",
            "NOSUCHBUCKET",
            "PATH DOES NOT EXIST",
            "HTTP STATUS 404",
        )
    ):
        return "not_found"
    if any(mark in text for mark in ("NETWORK_CONNECTION", "CURLCODE", "COULDN'T CONNECT")):
        return "unreachable"
    return "unreadable"


def decompressed(stream: Any, begin: Mark | None = None) -> Any:
    """The stream itself, or its content when it is gzip or zstd (by its first bytes), from `begin` on."""
    head = stream.read(4)
    for magic, codec in CODECS.items():
        if head.startswith(magic):
            stream.seek(begin.packed if begin else 0)
            return Unpacked(stream, codec, begin)
    stream.seek(begin.offset if begin else 0)
    return stream


def mark_at(stream: Any, offset: int, number: int) -> Mark:
    """The mark of an item that begins at an unpacked offset of a `decompressed` stream."""
    packed, unpacked = stream.member_before(offset) if isinstance(stream, Unpacked) else (0, 0)
    return Mark(offset, number, packed, unpacked)


class Unpacked:
    """What a gzip or zstd file of any number of members holds.

    At a truncated or damaged place everything before it is returned first; the next read raises
    OSError. (The usual readers raise at once, and lose what they had unpacked of their buffer.)
    """

    def __init__(self, stream: Any, codec: Callable[[], Any], begin: Mark | None = None) -> None:
        self._stream, self._codec = stream, codec
        self._member: Any = None
        self._packed = self._unpacked = b""
        self._damage = ""
        self._packed_end, self._unpacked_end = (begin.packed, begin.unpacked) if begin else (0, 0)
        self._members = collections.deque([(self._packed_end, self._unpacked_end)])
        skip = begin.offset - begin.unpacked if begin else 0
        while skip > 0 and (passed := len(self.read(min(skip, 1 << 20)))):
            skip -= passed

    def member_before(self, offset: int) -> tuple[int, int]:
        """Where the last member begins that holds or precedes an unpacked offset: in the file, and unpacked.
        Offsets asked for only grow."""
        while len(self._members) > 1 and self._members[1][1] <= offset:
            self._members.popleft()
        return self._members[0]

    def read(self, size: int) -> bytes:
        pieces, length = [self._unpacked], len(self._unpacked)
        while length < size and not self._damage and (piece := self._next()) is not None:
            pieces.append(piece)
            length += len(piece)
        data = b"".join(pieces)
        self._unpacked = data[size:]
        if not data and self._damage:
            raise OSError(self._damage)
        return data[:size]

    def _next(self) -> bytes | None:
        """Some more content; None at the end of the file."""
        if not self._packed:
            self._packed = self._stream.read(FILE_BYTES)
            self._packed_end += len(self._packed)
            if not self._packed:
                self._damage = "the compressed stream is cut off" if self._member is not None else ""
                return None
        if self._member is None:
            self._packed = self._packed.lstrip(b"\0")  # padding between members
            if not self._packed:
                return b""
            self._member = self._codec()
            self._members.append((self._packed_end - len(self._packed), self._unpacked_end))
        fed, self._packed = self._packed[:FEED_BYTES], self._packed[FEED_BYTES:]
        try:
            piece = self._member.decompress(fed)
        except (zlib.error, zstandard.ZstdError) as error:
            self._damage = f"the compressed stream is damaged: {error}"
            return b""
        self._unpacked_end += len(piece)
        if self._member.eof:
            self._packed = self._member.unused_data + self._packed
            self._member = None
        return piece


def download(url: str, file: IO[bytes], max_bytes: int) -> None:
    """Fetch a URL into a file, going on from where a broken connection left off."""
    import requests

    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(url, file, max_bytes)
            return
        except UnreadableFile as error:
            problem = error
            if error.reason != "unreachable":
                raise
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
            raise UnreadableFile(
                "unreachable", f"not a web address, or redirected to none: {error}"
            ) from error
        except (requests.RequestException, OSError) as error:
            problem = UnreadableFile("unreachable", f"after {attempt} attempts: {error}")
        except _transport_errors() as error:
            problem = UnreadableFile("unreachable", f"broke off {attempt} times: {error}")
        if attempt < ATTEMPTS:
            time.sleep(pause)
            pause *= 2
    raise problem


def _transport_errors() -> tuple[type[Exception], ...]:
    import urllib3

    return (urllib3.exceptions.HTTPError,)


def _fetch(url: str, file: IO[bytes], max_bytes: int) -> None:
    """One attempt: GET, from the end of what is there already if the server allows it."""
    import requests

    have = file.seek(0, 2)
    headers = {"Accept-Encoding": "identity", "User-Agent": "headwater"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS), headers=headers) as response:
        _raise_for_status(response.status_code)
        if response.status_code != 206:
            file.seek(0)
            file.truncate()
            have = 0
        for chunk in response.raw.stream(1 << 20, decode_content=False):
            have += len(chunk)
            if have > max_bytes:
                raise UnreadableFile("too_large", f"more than {max_bytes:,} bytes (max_download_bytes)")
            file.write(chunk)


def _raise_for_status(status: int) -> None:
    if status < 400:
        return
    if status in (404, 410):
        reason = "not_found"
    elif status in (401, 403):
        reason = "no_permission"
    else:  # 5xx and 429 are worth another attempt
        reason = "unreachable" if status >= 500 or status == 429 else "refused"
    raise UnreadableFile(reason, f"HTTP status {status}")
