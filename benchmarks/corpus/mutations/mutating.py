"""Mutations of valid files, and bombs. A number alone says which file, which mutations and where."""

from __future__ import annotations

import functools
import gzip
import io
import random
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.corpus.mutations.accounts import Base
from benchmarks.corpus.mutations.files import MAKERS, PACKS

VARIANTS = 8
"""Valid files per format; a mutation picks one."""
HOSTILE = (
    b"\xff" * 4,
    b"\0" * 4,
    b"\0" * 600,
    b"<<<<",
    b'"',
    b'""",',
    b"((((",
    b"\r\n\r\n",
    b"\n\nFrom x\n",
    b"</page>",
    b"<page>",
    b"]",
    b"}",
    b"[{",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\x1f\x8b\x08",
    b"PK\x05\x06",
    b"&#0;",
    b"\x1a",
)
NUMBERS = (
    b"0",
    b"-1",
    b"4294967296",
    b"9" * 18,
    b"9" * 40,
    b"1" * 5000,
    b"00",
    b"1e999",
    b"2\xb2",
    b"7fffffff",
)
CHARSETS = (
    b"punycode",
    b"idna",
    b"utf-7",
    b"unicode_escape",
    b"raw_unicode_escape",
    b"utf-16",
    b"utf-32",
    b"rot13",
    b"zip",
    b"undefined",
    b"mbcs",
    b"utf-8-sig",
    b"x" * 5000,
    b"\xff",
    b"hz",
    b"iso-2022-jp",
    b"base64",
)
HEADERS = (
    b"WARC-Type",
    b"Content-Type",
    b"Content-Length",
    b"HTTP/1.1",
    b"WARC/1.0",
    b"text/html",
    b"response",
    b"gzip",
    b"From ",
    b"%PDF-",
    b"mimetype",
    b"PAR1",
    b"ustar",
)
Mutation = Callable[[bytes, random.Random, Base], bytes]


def flip(data: bytes, g: random.Random, base: Base) -> bytes:
    changed = bytearray(data)
    for _ in range(g.choice((1, 1, 1, 2, 8))):
        changed[g.randrange(len(changed))] ^= 1 << g.randrange(8)
    return bytes(changed)


def truncate(data: bytes, g: random.Random, base: Base) -> bytes:
    return data[: g.randrange(len(data))]


def cut(data: bytes, g: random.Random, base: Base) -> bytes:
    place = g.randrange(len(data))
    return data[:place] + data[place + g.choice((1, 2, 16, 512, 1000)) :]


def repeat(data: bytes, g: random.Random, base: Base) -> bytes:
    place, length = g.randrange(len(data)), g.choice((1, 16, 512, 2000))
    return (
        data[: place + length] + data[place : place + length] * g.choice((1, 1, 50)) + data[place + length :]
    )


def splice(data: bytes, g: random.Random, base: Base) -> bytes:
    other = variants(g.choice(list(MAKERS)))[g.randrange(VARIANTS)]
    content = other.pack(other.content) if other.pack and g.random() < 0.5 else other.content
    start, place = g.randrange(len(content)), g.randrange(len(data))
    piece = content[start : start + g.choice((16, 200, 3000))]
    return data[:place] + piece + data[place + g.choice((0, len(piece))) :]


def hostile(data: bytes, g: random.Random, base: Base) -> bytes:
    place, piece = g.randrange(len(data)), g.choice(HOSTILE)
    return data[:place] + piece + data[place + g.choice((0, len(piece))) :]


def _replaced(data: bytes, g: random.Random, pattern: bytes, pieces: tuple[bytes, ...]) -> bytes:
    places = [found.span() for found in re.finditer(pattern, data)]
    if not places:
        return flip(data, g, None)  # type: ignore[arg-type]
    start, end = g.choice(places)
    return data[:start] + g.choice(pieces) + data[end:]


def number(data: bytes, g: random.Random, base: Base) -> bytes:
    return _replaced(data, g, rb"\d+", NUMBERS)


def charset(data: bytes, g: random.Random, base: Base) -> bytes:
    return _replaced(data, g, rb"(?i)utf-8|windows-1252|us-ascii", CHARSETS)


def header(data: bytes, g: random.Random, base: Base) -> bytes:
    names = b"|".join(re.escape(name) for name in HEADERS)
    return _replaced(data, g, names, (*HEADERS, b"", b"X"))


def endings(data: bytes, g: random.Random, base: Base) -> bytes:
    return data.replace(b"\r\n", b"\n") if b"\r\n" in data else data.replace(b"\n", b"\r\n")


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    flip,
    truncate,
    cut,
    repeat,
    splice,
    hostile,
    hostile,
    number,
    charset,
    header,
    endings,
)


def bomb(base: Base, g: random.Random) -> bytes:
    """Content that unpacks to far more than it is, or nests without end, in the file's own framing."""
    size = g.choice((1 << 20, 8 << 20))
    filler = g.choice(
        (
            b"a",
            b"\0",
            b"\n",
            b"[",
            b'{"a":',
            b"<div>",
            b"<page>",
            b'"',
            b"From ",
            b"9",
            b"\xef\xbb\xbf",
            b"&amp;",
            b"{{",
            b"((",
        )
    )
    content = base.content[: g.randrange(1, len(base.content))] + filler * (size // len(filler))
    if base.name.startswith("a.zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for n in range(3):
                archive.writestr(
                    f"{n}.txt{g.choice(('', '.gz'))}", gzip.compress(content, 1) if n else content
                )
        return buffer.getvalue()
    if base.pack is None:
        return content[: 1 << 20]
    pack = PACKS[base.name[base.name.rfind(".") :]][0]
    return pack(pack(content)) if g.random() < 0.3 else pack(content)


@functools.cache
def variants(name: str) -> list[Base]:
    return [MAKERS[name](random.Random(f"{name} {n}")) for n in range(VARIANTS)]


def in_package(content: bytes, mutate: Mutation, g: random.Random, base: Base) -> bytes:
    """A zip file with one member changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        held = [(info, archive.read(info)) for info in archive.infolist()]
    chosen, buffer = g.randrange(len(held)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for n, (info, data) in enumerate(held):
            archive.writestr(info, mutate(data, g, base) if n == chosen and data else data)
    return buffer.getvalue()


@dataclass
class Case:
    format: str
    base: Base
    data: bytes
    what: str
    plain: bytes | None
    """Unpacked content; None behind a bomb."""
    whole: bool = True
    """Whether the compression is undamaged."""


def case(number: int, formats: list[str]) -> Case:
    """File number `number`."""
    g = random.Random(number)
    name = formats[number % len(formats)]
    base = g.choice(variants(name))
    if g.random() < 0.02:
        return Case(name, base, bomb(base, g), "bomb", None)
    data, what = base.content, []
    outside = base.pack is not None and g.random() < 0.4
    if outside and base.pack:
        data = base.pack(data)
    for _ in range(g.choice((1, 1, 1, 2, 4))):
        mutate = g.choice(MUTATIONS)
        what.append(mutate.__name__)
        if name in ("docx", "epub") and g.random() < 0.7 and zipfile.is_zipfile(io.BytesIO(data)):
            try:
                data = in_package(data, mutate, g, base)
            except Exception:  # noqa: BLE001 - whatever a library or reader raises
                data = mutate(data, g, base)
        elif data:
            data = mutate(data, g, base)
    if base.pack is None:
        return Case(name, base, data, ",".join(what), data)
    if not outside:
        return Case(name, base, base.pack(data), ",".join(what), data)
    plain, sound = base.unpack(data) if base.unpack and data else (data, True)
    return Case(name, base, data, f"packed {','.join(what)}", plain, sound)
