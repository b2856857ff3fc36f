"""From a page's bytes to text: byte order mark, HTTP header, `<meta>`, then guessing, in the order of the
HTML standard (https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)."""

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
META_BYTES = 4096  # the standard looks at 1,024; real pages put scripts before it
GUESS_BYTES = 65_536

LARGER = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-11": "cp874",
    "big5": "big5hkscs",
}
"""Encodings whose decoder in browsers is a larger one of Python's."""
CYRILLIC_MAC = ("x-mac-cyrillic", "x-mac-ukrainian")  # not in resiliparse's table


def codec(label: str | None) -> str | None:
    """Python's codec for a label of the Encoding Standard (https://encoding.spec.whatwg.org/#names-and-labels).

    None for any other label: Python also knows codecs that are no charsets of the web (utf-7, unicode_escape,
    idna, rot13, …), some of which make lone surrogates, which no file can hold.
    """
    name = (label or "").strip().strip("\"'").lower()
    if name in CYRILLIC_MAC:
        return "mac_cyrillic"
    found = map_encoding_to_html5(name, fallback_utf8=False)
    return LARGER.get(found, found) if found else None


def decode_declared(content: bytes, label: str | None) -> str | None:
    """The text in the declared charset, or None when the label is unknown or does not fit every byte."""
    found = codec(label)
    for mark, encoding in BYTE_ORDER_MARKS:
        if found and content.startswith(mark):  # tells more than a label
            content, found = content[len(mark) :], encoding
            break
    try:
        return content.decode(found) if found else None
    except UnicodeError:
        return None


def decode_html(content: bytes) -> str:
    """The text of a page, by the first of: byte order mark, UTF-8 that fits, `<meta>`, a guess.

    UTF-8 comes before `<meta>` because text in another charset almost never is valid UTF-8 by chance,
    while pages that were converted and still declare their old charset are common.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    if (text := decode_declared(content, "utf-8")) is not None and "\x1b$" not in text[:GUESS_BYTES]:
        return text
    found = META_CHARSET.search(content[:META_BYTES])
    label = found.group(1).decode("ascii") if found else None
    if (text := decode_declared(content, label)) is not None:
        return text
    if declared := codec(label):  # a stray byte in a page that says what it is
        return content.decode(declared, "replace")
    from charset_normalizer import from_bytes

    best = from_bytes(content[:GUESS_BYTES], cp_exclusion=["utf_7"]).best()
    return content.decode(best.encoding if best is not None else "cp1252", "replace")
