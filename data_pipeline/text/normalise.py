"""Normalises plain text: Unicode NFC, `\\n` as line end, single spaces between words, no invisible
characters. Indentation is kept."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

import numpy as np

INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ud800-\udfff\ufeff]"
)
MARKS_ON_ONE = 30
"""Maximum consecutive combining marks, from Unicode's Stream-Safe Text Format (UAX #15, section 13). NFC
sorts them in quadratic time."""
LAST_PLANE_WITH_MARKS = 0x20000
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
BLANK_LINES = re.compile(r"\n{3,}")

LOST_MARK = re.compile(r'"\?(?=[^\s"?])')
"""A curly quote, dash or no-break space with the following blank, whose bytes (E2 80 99 20, …) a wrong
decoder turned into `"?`. English never has a quote, a question mark and then a letter."""
LOST_OPENING = re.compile('"\ufffd(?=\\w)')
SENTENCE_END = frozenset(".,!?;:…")
QUOTE_REACH = 2000


def normalise(text: str, repair: bool = False) -> str:
    """The normalised text. `repair` also restores marks that a wrong decoding lost.

    Blanks and tabs at the start of a line are kept (code, lists, verse), unless the text is a single line.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", without_heaps_of_marks(text))
    text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    if repair:
        text = repair_lost_marks(text)
    text = "\n".join(map(_line, text.split("\n")))
    text = BLANK_LINES.sub("\n\n", text).strip("\n")
    return text if "\n" in text else text.strip()


def indentation(line: str) -> str:
    """Leading blanks and tabs of a line."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def _line(line: str) -> str:
    """The line with its indentation and single blanks between words; empty if it has no words."""
    content = " ".join(line.split())
    return indentation(line) + content if content else ""


def without_heaps_of_marks(text: str) -> str:
    """The text with at most `MARKS_ON_ONE` consecutive combining marks; further ones are removed."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = np.flatnonzero(_combining()[codes])
    if len(places) <= MARKS_ON_ONE:
        return text
    begins = np.diff(places, prepend=-2) > 1
    order = np.arange(len(places))
    in_a_row = order - np.maximum.accumulate(np.where(begins, order, 0))
    left = np.delete(codes, places[in_a_row >= MARKS_ON_ONE])
    return left.tobytes().decode("utf-32-le", "surrogatepass")


@functools.cache
def _combining() -> np.ndarray:
    """bool [sys.maxunicode + 1]: combining code points"""
    table = np.zeros(sys.maxunicode + 1, bool)
    table[[code for code in range(LAST_PLANE_WITH_MARKS) if unicodedata.combining(chr(code))]] = True
    return table


def repair_lost_marks(text: str) -> str:
    """Restore the mark behind each `"?` from the text before it.

    After a blank (`the public "?immediately`) it is a dash. After a sentence mark (`a choice,"?Warren said`)
    or inside an open quote it is the closing quote, otherwise (`teachers"?unions`) an apostrophe.
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
