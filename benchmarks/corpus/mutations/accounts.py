"""What must be read of a mutated file: counted from its bytes by rules of its own, not by the readers'."""

from __future__ import annotations

import bz2
import csv
import io
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import zstandard

TOKEN = re.compile(r"token\d{4}q")


@dataclass
class Account:
    """What a mutated file holds."""

    tokens: set[str] = field(default_factory=set)
    """Of records that nothing touched: each must be in a document."""
    records: int | None = None
    """Documents + unread that reading must give; None where only the reader can tell. A record that the
    file's end cuts off is not among them: the file's error names it."""
    ends: bool = True
    """Whether the file may end with an error."""


@dataclass
class Base:
    """A valid file. `parts`: the bytes of each record, with its token."""

    name: str
    kind: str
    content: bytes
    parts: list[tuple[str, bytes]]
    account: Callable[[Base, bytes], Account]
    settings: dict[str, Any] = field(default_factory=dict)
    pack: Callable[[bytes], bytes] | None = None
    """Compression around `content`, if any."""
    unpack: Callable[[bytes], tuple[bytes, bool]] | None = None
    """Content up to the damage, and whether there is none."""

    def tokens(self) -> set[str]:
        return {token for token, _ in self.parts}


def whole(base: Base, data: bytes) -> Account:
    """A file that is one document."""
    return Account(base.tokens() if data == base.content else set(), 1 if data.strip() else 0)


def lines_account(base: Base, data: bytes) -> Account:
    if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*[{\]]", data):
        return array_account(base, data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    there = set(lines)
    return Account({token for token, part in base.parts if part in there}, len(lines), ends=not data)


def array_account(base: Base, data: bytes) -> Account:
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        first = next(
            (n for n, (a, b) in enumerate(zip(base.content, data, strict=False)) if a != b), len(data)
        )
        before = {token for token, part in base.parts if 0 <= base.content.find(part) < first - len(part) - 2}
        if data[:1] != b"[":  # a file of lines
            return Account()
        return Account(before, None)
    rows = found if isinstance(found, list) else []
    there = {token for token, part in base.parts if json.loads(part) in rows}
    return Account(there, len(rows) or None, ends=not rows)


def csv_account(base: Base, data: bytes) -> Account:
    head, _, rest = data.partition(b"\n")
    if head != base.content.partition(b"\n")[0]:
        return Account()
    lines = rest.decode("utf-8", "replace").split("\n")
    try:
        rows = [row for row in csv.reader((f"{line}\n" for line in lines), strict=True) if row]
    except csv.Error:
        return Account()
    return Account(
        {
            token
            for token, part in base.parts
            if f"\n{part.decode()}\n" in f"\n{rest.decode('utf-8', 'replace')}"
        }
        if len(rows) == len(base.parts)
        else set(),
        len(rows),
        ends=False,
    )


def parquet_account(base: Base, data: bytes) -> Account:
    try:
        rows = pq.ParquetFile(io.BytesIO(data)).metadata
    except Exception:  # noqa: BLE001 - whatever a library or reader raises
        return Account()
    if len(data) != len(base.content):
        return Account(set(), rows.num_rows)
    changed = [n for n, (a, b) in enumerate(zip(base.content, data, strict=True)) if a != b]
    last, tokens, row = max(changed, default=-1), set(), 0
    original = pq.ParquetFile(io.BytesIO(base.content)).metadata
    ends = []
    for number in range(original.num_row_groups):
        group = original.row_group(number)
        columns = [group.column(n) for n in range(group.num_columns)]
        begin = min(min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in columns)
        end = begin + sum(c.total_compressed_size for c in columns)
        ends.append(end)
        if not any(begin <= place < end for place in changed):
            tokens |= {token for token, _ in base.parts[row : row + group.num_rows]}
        row += group.num_rows
    return Account(tokens if last < ends[-1] else set(), rows.num_rows)


START = re.compile(rb"WARC/\d{1,2}\.\d{1,2}\r?\n")
RECORD = re.compile(rb"(?<=\n)\r?\n(?=WARC/\d{1,2}\.\d{1,2}\r?\n[A-Za-z-]+:)")
HEAD = re.compile(rb"(.*?)\r?\n\r?\n", re.DOTALL)
LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})[ \t]*\r?$")
NO_PAGE = re.compile(rb"(?im)^warc-type:[ \t]*(warcinfo|request|metadata)[ \t]*\r?$")


def warc_account(base: Base, data: bytes) -> Account:
    there = set()
    for token, part in base.parts:
        place = data.find(part)
        begins = place >= 0 and data[max(0, place - 4) : place] in (b"", b"\r\n\r\n")
        if begins and (data[place + len(part) :] + b"WARC/")[:5] == b"WARC/":
            there.add(token)
    return Account(there, _warc_records(data))


def _warc_records(data: bytes) -> int:
    """Whole records of pages, and stretches that belong to none, each up to the next beginning."""
    count, rest = 0, data.lstrip(b"\r\n")
    while rest:
        after = said = None
        head = HEAD.match(rest) if START.match(rest) else None
        if head is not None and (said := LENGTH.search(head.group(1) + b"\n")):
            end = head.end() + int(said.group(1))
            behind = rest[end:].lstrip(b"\r\n")
            if end <= len(rest) and (
                not behind or rest[end:].startswith((b"\r\n\r\n", b"\n\n")) or START.match(behind)
            ):
                after, count = behind, count + (NO_PAGE.search(head.group(1)) is None)
        if after is None:
            following = RECORD.search(rest)
            if following is None:
                if not START.match(rest):
                    return count + (len(rest) < len(data.lstrip(b"\r\n")))  # else it is no archive
                return count + (head is not None and not (said and end > len(rest)))  # else it is cut off
            after, count = rest[following.end() :], count + 1
        rest = after
    return count


def zip_account(base: Base, data: bytes) -> Account:
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Account()  # no zip file, whatever follows
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [info for info in archive.infolist() if info.file_size or info.filename[-1:] != "/"]
            there = set()
            for info in entries:
                try:
                    read = archive.read(info) if info.file_size < 1 << 20 and not info.flag_bits & 1 else b""
                except Exception:  # noqa: BLE001 - whatever a library or reader raises
                    continue
                name = re.fullmatch(r"d/(token\d{4}q)\.(txt(\.gz)?|md|html|rst|pdf|docx|epub)", info.filename)
                if name and (name.group(1), read) in base.parts:
                    there.add(name.group(1))
    except Exception:  # noqa: BLE001 - whatever a library or reader raises
        return Account()
    return Account(there, len(entries))


def tar_account(base: Base, data: bytes) -> Account:
    starts: list[int] = []
    records = _tar_records(data, starts)
    there = {token for token, part in base.parts if any(data.startswith(part, at) for at in starts)}
    return Account(there, records)


def _tar_records(data: bytes, starts: list[int]) -> int | None:
    """Members but folders, and stretches of blocks that are no header. Where a header begins goes into
    `starts`: one that lies in the content of another member is none."""
    count = place = 0
    found = damaged = False
    while place + 512 <= len(data):
        block = data[place : place + 512]
        place += 512
        if not block.strip(b"\0"):
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            damaged = True
            continue
        if info.type not in b"0\0" + b"15" or info.size < 0 or place + info.size > len(data):
            return None  # sparse files, attributes, a member that is cut off: for the reader alone
        starts.append(place - 512)
        count += damaged + (not info.isdir())
        found, damaged = True, False
        place += -(-info.size // 512) * 512
    return count + (damaged and found) if place == len(data) else None


def wiki_account(base: Base, data: bytes) -> Account:
    head = data.partition(b"<page>")[0]
    if b"<mediawiki" not in head:
        return Account()
    there = {token for token, part in base.parts if part in data}
    return Account(there, _wiki_pages(data))


def _wiki_pages(data: bytes) -> int:
    """Pages, and what is none: text between two of them, a page without its beginning or its end."""
    between, *marks = re.split(rb"(</?page>)", data)
    count, inside, head = 0, False, True
    for mark, text in zip(marks[::2], marks[1::2], strict=True):
        stray = not (inside or head) and bool(between.strip())
        if mark == b"<page>":
            count += inside or stray
        else:
            count += 1
        inside, head, between = mark == b"<page>", False, text
    return count + (not inside and not head and bool(between.replace(b"</mediawiki>", b"").strip()))


def mbox_account(base: Base, data: bytes) -> Account:
    count, blank = 0, True
    for line in data.split(b"\n"):
        count += blank and line.startswith(b"From ")
        blank = not line.strip()
    there = set()
    for token, part in base.parts:
        place = data.find(part)
        after = data[place + len(part) :]
        if (
            place >= 0
            and (place == 0 or data[:place].endswith(b"\n\n"))
            and (not after or after.startswith(b"From "))
        ):
            there.add(token)
    foreign = count > 0 and not data.startswith(b"From ")
    return Account(there if count else set(), count + foreign, ends=not there)


def unpacked_gzip(data: bytes) -> tuple[bytes, bool]:
    return _unpacked(data, lambda: zlib.decompressobj(31))


def unpacked_zstd(data: bytes) -> tuple[bytes, bool]:
    return _unpacked(data, lambda: zstandard.ZstdDecompressor().decompressobj())


def unpacked_bz2(data: bytes) -> tuple[bytes, bool]:
    return _unpacked(data, bz2.BZ2Decompressor)


def unpacked_xz(data: bytes) -> tuple[bytes, bool]:
    return _unpacked(data, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20))


def _unpacked(data: bytes, codec: Callable[[], Any], most: int = 1 << 22) -> tuple[bytes, bool]:
    """Bytes before the damage, by the libraries' own decoders, fed in the pieces that a reader may lose."""
    found, rest = bytearray(), data
    while rest:
        member = codec()
        for place in range(0, len(rest), 2048):
            try:
                found += member.decompress(rest[place : place + 2048])
            except Exception:  # noqa: BLE001 - whatever a library or reader raises
                return bytes(found), False
            if len(found) > most:
                return bytes(found), False
            if member.eof:
                rest = (member.unused_data + rest[place + 2048 :]).lstrip(b"\0")
                break
        else:
            return bytes(found), False
    return bytes(found), True
