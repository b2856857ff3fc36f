"""Opens the files of a source on any storage, and maps failures to reason codes."""

from __future__ import annotations

import bz2
import collections
import contextlib
import io
import lzma
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.sources.guard import AddressGuard, guarded_session
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.position import Mark
from headwater.data_pipeline.sources.proxy import Proxy

CONNECT_SECONDS, READ_SECONDS = 10, 60
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5  # doubled after each failed attempt

XZ_MEMORY = 256 << 20
"""Maximum memory of an xz decoder, in bytes (`xz -9` needs 65 MiB)."""
CODECS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
}
MEMBERS = {b"\x1f\x8b": b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd": b"\x28\xb5\x2f\xfd"}
"""Beginning of a member, by that of the file, where archives have one for each record."""
GAPS = 1000
"""Maximum number of damaged members of a file that are skipped."""
BZIP2_BLOCK = b"1AY&SY"
"""A bzip2 file has a digit and this behind `BZh`, which a text might begin with."""
DAMAGE = (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError)
STATUS_REASONS = {404: "not_found", 410: "not_found", 401: "no_permission", 403: "no_permission"}
FILE_BYTES = 1 << 16
FEED_BYTES = 1 << 11
"""Compressed bytes unpacked at once. Bounds the memory for highly compressed files."""

MOST_UNPACKED, FREE_BYTES = 100, 1 << 20
"""Text packs to a tenth. A file of lines or pages that unpacks to more than this many times its size, and
this many bytes, is no text."""

STORAGE_REASONS: dict[str, tuple[Any, str]] = {
    "no_permission": (PermissionError, "ACCESS_?DENIED|HTTP STATUS 403|INVALID_ACCESS_KEY"),
    "not_found": (FileNotFoundError, "NO_?SUCH_?BUCKET|NO_SUCH_KEY|PATH DOES NOT EXIST|HTTP STATUS 404"),
    "unreachable": ((), "NETWORK_CONNECTION|CURLCODE|COULDN'T CONNECT"),
}
REMOTE = ("s3://", "hf://")
"""Prefixes of remote names that `cluster.storage.filesystem` opens."""


def is_url(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def url_of(path: str) -> str:
    """The URL of an input file: its own, or `file://` and the whole path."""
    return path if is_url(path) or path.startswith(REMOTE) else Path(path).absolute().as_uri()


@contextlib.contextmanager
def open_input(
    path: str, max_download_bytes: int, allow_addresses: Iterable[str] = (), proxy: Proxy | None = None
) -> Iterator[Any]:
    """Yield a seekable binary stream of a file. URLs are first downloaded to a temporary file, from public
    addresses and the networks `allow_addresses`, through `proxy` if given.

    Raises UnreadableFile with a reason code: not_found, no_permission, unreachable, unreadable, too_large,
    forbidden_address.
    """
    if is_url(path):
        with tempfile.TemporaryFile(prefix="headwater-") as file:
            download(path, file, max_download_bytes, AddressGuard(allow_addresses), proxy)
            file.seek(0)
            yield file
        return
    try:
        fs, inner = filesystem(path)
        stream = fs.open_input_file(inner)
        stream.size()  # some object stores report a missing object only here
    except OSError as error:
        raise UnreadableFile(storage_reason(error), str(error)) from error
    with stream:
        yield stream


def storage_reason(error: OSError) -> str:
    """Reason code for an error of a file system or an object store (whose errors are only text)."""
    for reason, (kind, marks) in STORAGE_REASONS.items():
        if isinstance(error, kind) or re.search(marks, str(error), re.IGNORECASE):
            return reason
    return "unreadable"


class Bomb(OSError):
    """A compressed file unpacks to more than text does."""


def ended_early(error: OSError, place: str) -> UnreadableFile:
    """What ends a file whose content cannot be read further than `place`."""
    if isinstance(error, Bomb):
        return UnreadableFile("archive_bomb", str(error), place)
    return UnreadableFile("truncated", f"the file is cut off or damaged: {error}", place)


def decompressed(
    stream: Any, begin: Mark | None = None, gap: bytes = b"", most_unpacked: int | None = None
) -> Any:
    """The stream, decompressed if it is gzip, zstd, bzip2 or xz (by its first bytes), starting at `begin`.
    `gap`, `most_unpacked`: as of Unpacked."""
    stream.seek(0)  # a reader that goes back to `begin` is further on
    head = stream.read(10)
    for magic, codec in CODECS.items():
        if head.startswith(magic) and (magic != b"BZh" or head[4:] == BZIP2_BLOCK):
            stream.seek(begin.packed if begin else 0)
            return Unpacked(stream, codec, begin, gap, MEMBERS.get(magic, b""), most_unpacked)
    stream.seek(begin.offset if begin else 0)
    return stream


def unpacked_bytes(content: bytes, limit: int) -> bytes:
    """Content of a file in memory, decompressed if it is compressed, up to `limit` + 1 bytes. OSError if it
    is damaged."""
    data: bytes = decompressed(io.BytesIO(content)).read(limit + 1)
    return data


def mark_at(stream: Any, offset: int, number: int) -> Mark:
    """Mark of an item that starts at an uncompressed offset of a `decompressed` stream."""
    packed, unpacked = stream.member_before(offset) if isinstance(stream, Unpacked) else (0, 0)
    return Mark(offset, number, packed, unpacked)


class Unpacked:
    """Content of a gzip, zstd, bzip2 or xz file with any number of members.

    In a truncated or damaged file, all content before the damage is returned first, and the next read raises
    OSError. (The standard readers raise at once and lose their decompressed buffer.) With a `gap`, reading
    goes on at the next member, which begins with `magic`: its content comes after the gap, and `damaged` says
    what was wrong. Behind more than FREE_BYTES + `most_unpacked` times the compressed bytes,
    the next read raises Bomb.
    """

    def __init__(
        self,
        stream: Any,
        codec: Callable[[], Any],
        begin: Mark | None = None,
        gap: bytes = b"",
        magic: bytes = b"",
        most_unpacked: int | None = None,
    ) -> None:
        self._stream, self._codec = stream, codec
        self._gap, self._magic, self._most = gap, magic, most_unpacked
        self._left, self.damaged = GAPS, ""
        self._member: Any = None
        self._packed = self._unpacked = b""
        self._damage, self._is_bomb = "", False
        self._packed_end, self._unpacked_end = (begin.packed, begin.unpacked) if begin else (0, 0)
        self._members = collections.deque([(self._packed_end, self._unpacked_end)])
        skip = begin.offset - begin.unpacked if begin else 0
        while skip > 0 and (passed := len(self.read(min(skip, 1 << 20)))):
            skip -= passed

    def member_before(self, offset: int) -> tuple[int, int]:
        """Start of the last member at or before an uncompressed offset: (compressed, uncompressed) offset.
        Successive calls must not decrease `offset`."""
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
            raise Bomb(self._damage) if self._is_bomb else OSError(self._damage)
        return data[:size]

    def _next(self) -> bytes | None:
        """The next piece of content; None at the end of the file."""
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
        except DAMAGE as error:
            self._damage = f"the compressed stream is damaged: {error}"
            return self._gap if self._passed_over(fed) else b""
        self._unpacked_end += len(piece)
        if self._member.eof:
            self._packed = self._member.unused_data + self._packed
            self._member = None
        if self._most is not None:
            allowed = self._most * (self._packed_end - len(self._packed)) + FREE_BYTES
            if (over := self._unpacked_end - allowed) > 0:
                self._damage, self._is_bomb = f"it unpacks to more than {self._most} times its size", True
                return piece[: max(0, len(piece) - over)]
        return piece

    def _passed_over(self, fed: bytes) -> bool:
        """Go to the next member behind the damage in `fed`, if there is one and gaps are wanted."""
        if not (self._gap and self._magic and self._left):
            return False
        held = fed[1:] + self._packed
        while (found := held.find(self._magic)) < 0:
            more = self._stream.read(FILE_BYTES)
            if not more:
                return False
            self._packed_end += len(more)
            held = held[1 - len(self._magic) :] + more
        self._packed, self._member, self._left = held[found:], None, self._left - 1
        self.damaged, self._damage = self.damaged or self._damage, ""
        self._unpacked_end += len(self._gap)
        return True


def download(
    url: str, file: IO[bytes], max_bytes: int, guard: AddressGuard, proxy: Proxy | None = None
) -> None:
    """Download a URL to a file. Resumes after a broken connection."""
    import requests
    import urllib3

    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with guarded_session(guard, proxy) as session:
                _fetch(session, url, file, max_bytes)
            return
        except UnreadableFile as error:
            problem = error
            if error.reason != "unreachable":
                raise
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
            raise UnreadableFile("unreachable", f"invalid URL or redirect: {error}") from error
        except (requests.RequestException, OSError) as error:
            problem = UnreadableFile("unreachable", f"after {attempt} attempts: {error}")
        except urllib3.exceptions.HTTPError as error:
            problem = UnreadableFile("unreachable", f"the connection broke {attempt} times: {error}")
        if attempt < ATTEMPTS:
            time.sleep(pause)
            pause *= 2
    raise problem


def _fetch(session: Any, url: str, file: IO[bytes], max_bytes: int) -> None:
    """One attempt: GET from the end of the partial file if the server supports ranges."""
    have = file.seek(0, 2)
    headers = {"Accept-Encoding": "identity", "User-Agent": "headwater"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS), headers=headers) as response:
        if (status := response.status_code) >= 400:
            retried = status >= 500 or status == 429
            reason = STATUS_REASONS.get(status, "unreachable" if retried else "refused")
            raise UnreadableFile(reason, f"HTTP status {status}")
        if status != 206:
            file.seek(0)
            file.truncate()
            have = 0
        for chunk in response.raw.stream(1 << 20, decode_content=False):
            have += len(chunk)
            if have > max_bytes:
                raise UnreadableFile("too_large", f"more than {max_bytes:,} bytes (`max_download_bytes`)")
            file.write(chunk)
