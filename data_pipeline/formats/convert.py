"""Recognises document formats, and converts them to text in a child process.

A file that takes longer than `SECONDS`, needs more than `MEMORY_BYTES` or crashes its parser is refused
alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from headwater.data_pipeline.formats.ocr import scanned_pages
from headwater.data_pipeline.formats.pdf_layout import Page
from headwater.data_pipeline.formats.result import Converted, Unconvertible
from headwater.data_pipeline.text.child import Child, ChildFailed

SECONDS = 120.0
"""Timeout per document. A book of 1,000 pages takes some 20 s as PDF."""
MEMORY_BYTES = 3 << 30
SUFFIXES = {".pdf": "pdf", ".docx": "docx", ".docm": "docx", ".epub": "epub"}
MEDIA_TYPES = {
    "application/pdf": "pdf",
    "application/x-pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-word.document.macroenabled.12": "docx",
    "application/epub+zip": "epub",
}
PDF_HEADER, HEADER_REACH = b"%PDF-", 1024


def format_of(name: str, content: bytes) -> str | None:
    """The format of a file by its first bytes, else by its name; None for text and HTML."""
    if PDF_HEADER in content[:HEADER_REACH] and content.lstrip()[:5] == PDF_HEADER:
        return "pdf"
    if content.startswith(b"PK\x03\x04") and content[30:58] == b"mimetypeapplication/epub+zip":
        return "epub"
    suffix = "." + name.lower().rpartition(".")[2]
    return SUFFIXES.get(suffix)


def convert(format: str, content: bytes, max_characters: int, ocr: bool = False) -> Converted:
    """Text of a document, from a child process; with `ocr`, of a PDF's scanned pages too. Raises
    Unconvertible: the reasons of the format and of OCR, convert_timeout, convert_failed."""
    scanned = scanned_pages(content) if ocr and format == "pdf" else {}
    try:
        found = _child()(format, content, max_characters, scanned)
    except ChildFailed as failed:
        if failed.timeout:
            raise Unconvertible("convert_timeout", f"{format}: more than {SECONDS:.0f} s") from failed
        raise Unconvertible("convert_failed", f"{format}: the parser crashed") from failed
    if "reason" in found:
        raise Unconvertible(found["reason"], f"{format}: {found['detail']}")
    return Converted(*(found[field].encode("utf-8", "replace").decode() for field in Converted._fields))


@functools.cache
def _child() -> Child:
    return Child(f"{__name__}:answer", SECONDS, ("", b"", 0), MEMORY_BYTES)


def answer(
    format: str, content: bytes, max_characters: int, scanned: Mapping[int, Page] | None = None
) -> dict[str, Any]:
    """The child's side: fields of a Converted, or `reason` and `detail`. `scanned`: as of `pdf_text`."""
    from headwater.data_pipeline.formats.docx import docx_text
    from headwater.data_pipeline.formats.epub import epub_text
    from headwater.data_pipeline.formats.mail import mail_text
    from headwater.data_pipeline.formats.pdf import pdf_text

    converters: dict[str, Callable[[bytes, int], Converted]] = {
        "pdf": functools.partial(pdf_text, scanned=scanned),
        "docx": docx_text,
        "epub": epub_text,
        "mail": mail_text,
        "mail_with_quotes": functools.partial(mail_text, quotes=True),
    }
    if format not in converters:  # the first call, which loads the libraries
        import pypdfium2.raw  # noqa: F401

        return {}
    try:
        found = converters[format](content, max_characters)
    except Unconvertible as problem:
        return {"reason": problem.reason, "detail": problem.detail}
    except (MemoryError, RecursionError) as error:
        return {"reason": "convert_failed", "detail": type(error).__name__}
    return found._asdict()
