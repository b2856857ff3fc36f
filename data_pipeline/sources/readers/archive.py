"""Reader of zip and tar archives of documents. Each member that is a document is one.

Nothing is written to disk, so names of members are only names. Reading ends when the content is more than
`MOST_UNPACKED` times the size of the archive: real text packs to a tenth.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.formats.package import DAMAGE
from headwater.data_pipeline.sources.content import (
    DOCUMENT_SUFFIXES,
    document_from_content,
    without_compression,
)
from headwater.data_pipeline.sources.items import Unread, UnreadableFile, encodable
from headwater.data_pipeline.sources.opening import decompressed, open_input, unpacked_bytes, url_of
from headwater.data_pipeline.sources.position import Mark, Position
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import ArchiveSource

MOST_UNPACKED, FREE_BYTES = 200, 100 << 20
DIRECTORY_BYTES = 256 << 20
"""Maximum size of a zip file's directory, which is held in memory (some 3 M members)."""
HEADER_BYTES = 1 << 20
"""Maximum size of a tar header with a long name or extended attributes."""
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip file; of an empty one."""
END_OF_DIRECTORY = b"PK\x05\x06"
NOT_SAID = 0xFFFF
"""Number of members in the end of a directory that has a ZIP64 record with it."""
SCANNED_BYTES = 64 << 20
"""How far the next header of a tar archive is searched for."""


class _Member(NamedTuple):
    name: str
    content: bytes | None
    """Of at most the limit of a document + 1 bytes; None if it was not read."""
    reason: str = ""
    detail: str = ""


def read_archive(
    source: ArchiveSource, path: str, position: Position | None = None
) -> Iterator[Document | Unread]:
    """Documents of the members, in the order of the archive. A member that cannot be read is one Unread.
    Raises UnreadableFile: empty_file, unreadable, truncated, archive_bomb."""
    position = position or Position()
    begin = position.begin.number if position.begin else 0
    limit = source.max_document_bytes
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        if not size:
            raise UnreadableFile("empty_file", "the file is empty", "byte 0")
        is_zip = stream.read(4) in ZIP
        stream.seek(0)
        members = _zip(stream, limit, begin) if is_zip else _tar(stream, limit, begin)
        left = MOST_UNPACKED * size + FREE_BYTES
        for number, member in enumerate(members, begin):
            name = member.name if encodable(member.name) else member.name.encode("utf-8", "replace").decode()
            place = f"member {number + 1}, {name}"
            left -= len(member.content or b"")
            if left < 0:
                detail = f"the members have more than {MOST_UNPACKED} times the archive's size"
                raise UnreadableFile("archive_bomb", detail, place)
            position.mark = Mark(number, number)
            if member.content is None:
                yield Unread(path, place, member.reason, member.detail)
            else:
                url = f"{source.base_url.rstrip('/')}/{name}" if source.base_url else f"{url_of(path)}#{name}"
                try:
                    content = unpacked_bytes(member.content, limit)
                except OSError as error:
                    yield Unread(path, place, "broken_member", str(error))
                    continue
                yield document_from_content(content, name, url, path, place, limit, source.ocr)


def _is_document(name: str) -> bool:
    return without_compression(name).endswith(DOCUMENT_SUFFIXES)


def _zip(stream: Any, limit: int, begin: int) -> Iterator[_Member]:
    end = max(0, stream.seek(0, 2) - (1 << 16) - 22)
    stream.seek(end)
    tail = stream.read()
    record = tail[tail.rfind(END_OF_DIRECTORY) :]
    if int.from_bytes(record[12:16], "little") > DIRECTORY_BYTES:
        raise UnreadableFile("too_large", "the archive has too many members", "byte 0")
    stream.seek(0)
    try:
        archive = zipfile.ZipFile(stream)
    except DAMAGE as error:
        raise UnreadableFile("unreadable", f"damaged zip file: {error}", "byte 0") from error
    # ZipInfo.is_dir fails for a name without characters
    files = [info for info in archive.infolist() if not info.filename.endswith("/") or info.file_size]
    for info in files[begin:]:
        if not _is_document(info.filename):
            yield _Member(info.filename, None, "not_a_document", "its suffix is none of a document")
        elif info.flag_bits & 1:
            yield _Member(info.filename, None, "encrypted", "the member has a password")
        else:
            try:
                with archive.open(info) as member:
                    yield _Member(info.filename, member.read(limit + 1))
            except DAMAGE as error:
                yield _Member(info.filename, None, "broken_member", f"{type(error).__name__}: {error}")
    said = int.from_bytes(record[10:12], "little")
    there = len(archive.infolist())
    if said != NOT_SAID and (missing := said - there) > 0:
        detail = f"{missing:,} members are missing from the directory"
        raise UnreadableFile("truncated", detail, f"after member {there}")


class _Lost(Exception):
    """No header of a member is found."""


class _Info(tarfile.TarInfo):
    """A header of bounded size: tarfile reads names and attributes whole."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> _Info:
        try:
            found = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.ended = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
            archive.broken += 1
            if archive.broken * tarfile.BLOCKSIZE > SCANNED_BYTES:
                raise _Lost("no header of a member") from None
            raise
        archive.ended = False
        return found  # type: ignore[return-value]

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if self.type in (*kinds, tarfile.SOLARIS_XHDTYPE) and self.size > HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


class _Archive(tarfile.TarFile):
    tarinfo = _Info
    broken = 0
    """Blocks before the next header that are none."""
    ended = False
    """Whether the last block was one of zeros, as at the end of an archive."""


def _tar(stream: Any, limit: int, begin: int) -> Iterator[_Member]:
    """Members, and what is between them: a damaged header costs its member, and the next one is searched
    for."""
    number = 0
    try:
        with _Archive.open(
            fileobj=decompressed(stream), mode="r|", errorlevel=2, encoding="utf-8", ignore_zeros=True
        ) as archive:
            for member in _tar_members(archive, limit):
                number += 1
                if number > begin:
                    yield member
    except (tarfile.TarError, _Lost, *DAMAGE) as error:
        reason = "truncated" if number else "unreadable"
        raise UnreadableFile(
            reason, f"not a whole zip or tar archive: {error}", f"after member {number}"
        ) from error


def _tar_members(archive: Any, limit: int) -> Iterator[_Member]:
    found = False
    while True:
        before, problem = archive.fileobj.tell(), ""
        try:
            info = archive.next()
        except (tarfile.TarError, ValueError, OverflowError) as error:  # ValueError: numbers out of range
            problem, info = str(error), None
        if problem:
            archive.broken += 1
            archive.offset = archive.fileobj.tell()
            if archive.offset > before:
                continue
        if info is None and not found and (archive.broken or not archive.ended):
            raise _Lost(problem or "no member")
        if archive.broken and (found or info is not None):
            yield _Member("?", None, "broken_member", "the header is damaged")
        archive.broken = 0
        if info is None:
            if not archive.ended:
                raise _Lost(problem or "its end is missing")
            return
        found = True
        archive.members.clear()
        if not info.isdir():
            yield _tar_member(archive, info, limit)


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, limit: int) -> _Member:
    try:
        content = archive.extractfile(info) if info.isreg() else None
        if content is None or not _is_document(info.name):
            return _Member(info.name, None, "not_a_document", "no file, or its suffix is none of a document")
        return _Member(info.name, content.read(limit + 1))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        return _Member(info.name, None, "broken_member", str(error))
