"""Text of a PDF file in reading order, by PDFium (https://pdfium.googlesource.com/pdfium/).

PDFium gives every character with its box. `pdf_layout.py` makes lines of them, in the order of columns;
`pdf_lines.py` removes running headers, footers and page numbers and joins lines to paragraphs. Scans without
a text layer are refused unless `ocr.py` has read them, as are files whose fonts do not say which characters
they draw.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from headwater.data_pipeline.formats.pdf_layout import Character, Page, page_of
from headwater.data_pipeline.formats.pdf_lines import paragraphs
from headwater.data_pipeline.formats.result import Converted, Unconvertible

MAX_PAGES = 20_000
END = re.compile(rb"%%EOF|startxref")
END_REACH = 4096
"""PDF 1.7, 7.5.5: the last lines are `startxref`, an offset and `%%EOF`. Many files have junk after them."""
SCANNED = 0.5
"""A file is a scan if more than this fraction of its pages are images without text."""
UNKNOWN = 0.3
"""A file has no readable text if more than this fraction of its characters map to nothing in Unicode."""
SIDEWAYS = 0.5
"""Text at more than this angle to a horizontal line, in radians, is sideways."""
HYPHENS = {"\ufffe": "-", "\x02": "-", "\u00ad": "-", "\u2010": "-", "\u2011": "-"}
"""PDFium reports a hyphen at a line's end as U+FFFE or U+0002."""
NO_TITLE = re.compile(
    r"untitled|microsoft (word|powerpoint) - |\S+\.(docx?|tex|dvi|pdf|indd|qxd|pptx?|html?)$", re.I
)


def pdf_text(content: bytes, max_characters: int, scanned: Mapping[int, Page] | None = None) -> Converted:
    """`scanned`: lines of pages without text, by page number from 0, as OCR read them. Raises Unconvertible:
    encrypted, truncated_pdf, broken_pdf, too_many_pages, too_large, no_text_layer, no_unicode_text."""
    import pypdfium2 as pdfium

    if not END.search(content[-END_REACH:]):
        raise Unconvertible("truncated_pdf", "no %%EOF at the end")
    try:
        document = pdfium.PdfDocument(content)
        pages = len(document)
    except pdfium.PdfiumError as error:
        reason = "encrypted" if "password" in str(error).lower() else "broken_pdf"
        raise Unconvertible(reason, str(error)) from error
    if pages > MAX_PAGES:
        raise Unconvertible("too_many_pages", f"{pages:,} pages, more than {MAX_PAGES:,}")
    read: list[Page] = []
    characters = scans = broken = unknown = 0
    for number in range(pages):
        try:
            page = document[number]
            found = list(_characters(page))
            seen = None if found else (scanned or {}).get(number)
            if not found and (seen is None or not seen.segments):
                scans += _has_image(page)
            page.close()
        except pdfium.PdfiumError:
            broken += 1
            continue
        characters += sum(len(line.text) for line in seen.segments) if seen else len(found)
        if characters > max_characters:
            raise Unconvertible("too_large", f"more than {max_characters:,} characters")
        unknown += sum(_is_unknown(character.text) for character in found)
        read.append(seen or page_of(found))
    if scans > SCANNED * pages or (scans and not characters):
        raise Unconvertible("no_text_layer", f"{scans} of {pages} pages are images without text")
    if not characters:
        raise Unconvertible("broken_pdf" if broken else "no_text", f"{pages} pages, {broken} of them broken")
    if unknown > UNKNOWN * characters:
        detail = f"{unknown:,} of {characters:,} characters have no Unicode value"
        raise Unconvertible("no_unicode_text", detail)
    named = " ".join(document.get_metadata_dict(skip_empty=True).get("Title", "").split())
    return Converted("" if NO_TITLE.match(named) else named, paragraphs(read))


def _characters(page: Any) -> Iterator[Character]:
    """Printed characters of a page, in the order of its content. A character after a break or blank that
    PDFium inserted says so."""
    import pypdfium2.raw as raw

    text_page = page.get_textpage()
    handle = text_page.raw
    box, new = raw.FS_RECTF(), True
    blank = line_break = sideways = False
    high = 0
    for place in range(raw.FPDFText_CountChars(handle)):
        code = raw.FPDFText_GetUnicode(handle, place)
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            code = 0x10000 + ((high - 0xD800) << 10) + code - 0xDC00 if high else 0xFFFD
        high = 0
        text = chr(code)
        if text in "\r\n":
            line_break = True
            continue
        if text.isspace():
            blank = True
            continue
        if not raw.FPDFText_GetLooseCharBox(handle, place, ctypes.byref(box)):
            continue
        if line_break or new:
            angle, new = raw.FPDFText_GetCharAngle(handle, place), False  # radians
            sideways = SIDEWAYS < angle % math.pi < math.pi - SIDEWAYS
        yield Character(
            HYPHENS.get(text, text), box.left, box.bottom, box.right, box.top, blank, line_break, sideways
        )
        blank = line_break = False
    text_page.close()


def is_scan(document: Any, number: int) -> bool:
    """Whether a page is an image without text. A page that cannot be read is none."""
    import pypdfium2 as pdfium

    try:
        page = document[number]
        return next(_characters(page), None) is None and _has_image(page)
    except pdfium.PdfiumError:
        return False


def _has_image(page: Any) -> bool:
    import pypdfium2.raw as raw

    return next(iter(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3)), None) is not None


def _is_unknown(text: str) -> bool:
    code = ord(text)
    return code < 0x20 or code == 0xFFFD or 0xE000 <= code < 0xF900 or code >= 0xF0000 or 0x7F <= code < 0xA0
