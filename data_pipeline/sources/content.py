"""One document from the bytes of a file: plain text, HTML, or a format that is converted to text."""

from __future__ import annotations

from headwater.data_pipeline.documents import Document, document_id
from headwater.data_pipeline.formats.convert import SUFFIXES, convert, format_of
from headwater.data_pipeline.formats.result import Unconvertible
from headwater.data_pipeline.sources.items import Unread

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst")
DOCUMENT_SUFFIXES = HTML_SUFFIXES + TEXT_SUFFIXES + tuple(SUFFIXES)
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def without_compression(name: str) -> str:
    """A file's name, lower case, without the suffix of a compression."""
    lower = name.lower()
    return next((lower.removesuffix(end) for end in COMPRESSED if lower.endswith(end)), lower)


def document_from_content(
    content: bytes, name: str, url: str, file: str, position: str, limit: int, ocr: bool = False
) -> Document | Unread:
    """The document in a file's unpacked content. `name` tells the format where the content does not; `limit`
    is the maximum size of content and text in bytes. Text is kept as it is, without its byte order mark."""
    source = f"{file}:{position}" if position else file
    start = f"{position}, byte" if position else "byte"
    position = position or "byte 0"
    if len(content) > limit:
        return Unread(file, position, "too_large", f"more than {limit:,} bytes")
    if not content.strip():
        return Unread(file, position, "empty_file", "the file is empty")
    name = without_compression(name)
    if (format := format_of(name, content)) is not None:
        return converted_document(format, content, url, file, position, limit, source, ocr=ocr)
    if name.endswith(HTML_SUFFIXES) or content[:64].lstrip()[:14].lower().startswith(b"<!doctype html"):
        return Document(document_id(url, content), url, "", "", content, source)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Unread(file, f"{start} {error.start}", "invalid_utf8", str(error))
    return Document(document_id(url, content), url, "", text, None, source)


def converted_document(
    format: str,
    content: bytes,
    url: str,
    file: str,
    position: str,
    limit: int,
    source: str,
    fetched_at: str = "",
    ocr: bool = False,
) -> Document | Unread:
    """The document in a file of a format of `formats.convert`. Its id is that of the content, not of the
    text."""
    try:
        found = convert(format, content, limit, ocr)
    except Unconvertible as problem:
        return Unread(file, position, problem.reason, f"{problem.detail}; {url}")
    url = url or found.url
    if len(found.text.encode()) > limit:
        return Unread(file, position, "too_large", f"more than {limit:,} bytes of text; {url}")
    identity = document_id(url, content)
    return Document(identity, url, found.title, found.text, None, source, fetched_at or found.date)
