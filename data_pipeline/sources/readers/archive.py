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
from headwater.data_pipeline.sources.spec import ArchiveSource

MOST_UNPACKED, FREE_BYTES = 200, 100 << 20
DIRECTORY_BYTES = 256 << 20
"""Maximum size of a zip file's directory, which is held in memory (some 3 M members)."""
HEADER_BYTES = 1 << 20
"""Maximum size of a tar header with a long name or extended attributes."""
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip file; of an empty one."""
END_OF_DIRECTORY = b"PK\x05\x06"


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
    with open_input(path, source.max_download_bytes, source.allow_addresses) as stream:
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
                yield document_from_content(content, name, url, path, place, limit)


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
    for info in [info for info in archive.infolist() if not info.is_dir()][begin:]:
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


class _BoundedInfo(tarfile.TarInfo):
    """A header whose names and attributes are of bounded size: tarfile reads them whole."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if self.type in (*kinds, tarfile.SOLARIS_XHDTYPE) and self.size > HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


def _tar(stream: Any, limit: int, begin: int) -> Iterator[_Member]:
    number = 0
    try:
        with tarfile.open(
            fileobj=decompressed(stream), mode="r|", tarinfo=_BoundedInfo, errorlevel=2, encoding="utf-8"
        ) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                if info.isdir():
                    continue
                number += 1
                if number <= begin:
                    continue
                content = archive.extractfile(info) if info.isreg() else None
                if content is None or not _is_document(info.name):
                    yield _Member(
                        info.name, None, "not_a_document", "no file, or its suffix is none of a document"
                    )
                else:
                    yield _Member(info.name, content.read(limit + 1))
    except (tarfile.TarError, *DAMAGE) as error:  # with ValueError for numbers out of range
        reason = "truncated" if number else "unreadable"
        raise UnreadableFile(
            reason, f"not a whole zip or tar archive: {error}", f"after member {number}"
        ) from error
