"""Plain text in one form: Unicode NFC, `\\n` for line ends, single spaces, nothing invisible."""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
SPACES = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
BLANK_LINES = re.compile(r"\n{3,}")

LOST_MARK = re.compile(r'"\?(?=[^\s"?])')
"""A curly quote, a dash or a no-break space together with the blank after it, when a wrong decoder has
made `"?` of their bytes (E2 80 99 20, …). English never has a quote, a question mark and then a letter."""
LOST_OPENING = re.compile('"\ufffd(?=\\w)')
SENTENCE_END = frozenset(".,!?;:…")
QUOTE_REACH = 2000


def normalise(text: str, repair: bool = True) -> str:
    """The text in normal form; `repair` also mends marks that were lost in a wrong decoding."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    if repair:
        text = repair_lost_marks(text)
    text = "\n".join(SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return BLANK_LINES.sub("\n\n", text).strip()


def repair_lost_marks(text: str) -> str:
    """Put back what `"?` stood for, by what is before it.

    After a blank (`the public "?immediately`) it was a dash; after a sentence mark (`a choice,"?Warren
    said`) or while a quote is open it was the closing quote; else (`teachers"?unions`) an apostrophe.
    """
    if '"?' not in text and '"\ufffd' not in text:
        return text
    text = LOST_OPENING.sub('"', text)
    pieces, end, quotes = [], 0, 0
    for match in LOST_MARK.finditer(text):
        before = text[end : match.start()]
        quotes += before[-QUOTE_REACH:].count('"')
        previous = before[-1:] or "\n"
        if previous.isspace():
            mark = "\u2014 "
        elif previous in SENTENCE_END or quotes % 2:
            mark, quotes = '" ', 0
        else:
            mark = "\u2019 "
        pieces += [before, mark]
        end = match.end()
    return "".join([*pieces, text[end:]])
