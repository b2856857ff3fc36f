"""From a page's bytes to text: byte order mark, HTTP header, `<meta>`, then guessing, in the order of the
HTML standard (https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)."""

from __future__ import annotations

import codecs
import re

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

# Labels that browsers read as a larger encoding (https://encoding.spec.whatwg.org/#names-and-labels).
WHATWG = {
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "iso-8859-9": "cp1254",
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "x-gbk": "gb18030",
    "x-euc-jp": "euc_jp",
    "unicode-1-1-utf-8": "utf-8",
}


def decode_declared(content: bytes, label: str | None) -> str | None:
    """The text in the declared charset, or None when the label is unknown or does not fit every byte."""
    if not label:
        return None
    name = label.strip().strip("\"'").lower()
    try:
        return content.decode(WHATWG.get(name, name))
    except (LookupError, UnicodeError, ValueError):
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
    if label and _known(label):  # a stray byte in a page that says what it is
        name = label.lower()
        return content.decode(WHATWG.get(name, name), "replace")
    from charset_normalizer import from_bytes

    best = from_bytes(content[:GUESS_BYTES]).best()
    return content.decode(best.encoding if best is not None else "cp1252", "replace")


def _known(label: str) -> bool:
    try:
        # codecs such as "hex" or "zip" are no text encodings
        return getattr(codecs.lookup(WHATWG.get(label.lower(), label)), "_is_text_encoding", True)
    except LookupError:
        return False
