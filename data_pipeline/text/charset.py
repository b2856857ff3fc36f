"""Decodes a page's bytes by byte order mark, HTTP header, `<meta>` or detection, following the HTML standard
(https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)."""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import map_encoding_to_html5

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
META_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE
)
META_BYTES = 4096  # the standard reads 1,024; real pages put scripts before the tag
GUESS_BYTES = 65_536

LARGER = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-11": "cp874",
    "big5": "big5hkscs",
}
"""Python codecs → the supersets that browsers use for these encodings."""
CYRILLIC_MAC = ("x-mac-cyrillic", "x-mac-ukrainian")  # not in resiliparse's table


def codec(label: str | None) -> str | None:
    """Python codec for a label of the Encoding Standard (https://encoding.spec.whatwg.org/#names-and-labels).

    None for any other label. Python also has codecs that are not web charsets (utf-7, unicode_escape, idna,
    rot13, …), some of which produce lone surrogates, which cannot be written to files.
    """
    name = (label or "").strip().strip("\"'").lower()
    if name in CYRILLIC_MAC:
        return "mac_cyrillic"
    found = map_encoding_to_html5(name, fallback_utf8=False)
    return LARGER.get(found, found) if found else None


def decode_declared(content: bytes, label: str | None) -> str | None:
    """The text in the declared charset, or None if the label is unknown or the bytes are invalid in it."""
    found = codec(label)
    if found and (marked := _byte_order_mark(content)):  # overrides the label
        content, found = marked
    try:
        return content.decode(found) if found else None
    except UnicodeError:
        return None


def _byte_order_mark(content: bytes) -> tuple[bytes, str] | None:
    """The bytes after a byte order mark, and its encoding; None without a mark."""
    marks = (known for known in BYTE_ORDER_MARKS if content.startswith(known[0]))
    return next(((content[len(mark) :], encoding) for mark, encoding in marks), None)


def decode_html(content: bytes) -> str:
    """The text of a page, decoded by the first of: byte order mark, valid UTF-8, `<meta>`, detection.

    UTF-8 comes before `<meta>`: text in another charset is almost never valid UTF-8, while converted pages
    often still declare their old charset.
    """
    if marked := _byte_order_mark(content):
        rest, encoding = marked
        return rest.decode(encoding, "replace")
    if (text := decode_declared(content, "utf-8")) is not None and "\x1b$" not in text[:GUESS_BYTES]:
        return text
    found = META_CHARSET.search(content[:META_BYTES])
    label = found.group(1).decode("ascii") if found else None
    if (text := decode_declared(content, label)) is not None:
        return text
    if declared := codec(label):  # a page in a known charset with a few invalid bytes
        return content.decode(declared, "replace")
    from charset_normalizer import from_bytes

    best = from_bytes(content[:GUESS_BYTES], cp_exclusion=["utf_7"]).best()
    return content.decode(best.encoding if best is not None else "cp1252", "replace")
