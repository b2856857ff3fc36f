"""Sentence boundaries and content words of English text."""

from __future__ import annotations

import functools
import re

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]?[A-Z0-9])|\n+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Gen|Col|Lt|Sgt|Capt|Sen|Sens|Rep|Reps|Gov|Rev|St|Jr|Sr|vs|No|Co|Inc|Ltd|Corp|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|e\.g|i\.e)|\b[A-Z](?:\.[A-Z])*)\.$"
)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

_FUNCTION_WORDS = """
a about after all also an and any are as at be because been before being but by can could did do does
for from had has have he her here him his how i if in into is it its just like me more most my no not now
of on one only or other our out over said says she should so some such than that the their them then there
these they this those to up us was we were what when where which while who whom whose why will with would
you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words, ignored when texts are compared."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence in characters, without surrounding whitespace.

    A sentence ends at closing punctuation before a capital or a digit, except after an abbreviation or
    an initial, and at a line break. These rules need no model, so results are the same on every machine.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        if match.group()[0] != "\n" and _ABBREVIATION.search(
            text, max(start, match.start() - 12), match.end()
        ):
            continue
        _append_trimmed(spans, text, start, match.end())
        start = match.end()
    _append_trimmed(spans, text, start, len(text))
    return spans


def _append_trimmed(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        start += len(piece) - len(piece.lstrip())
        spans.append((start, start + len(stripped)))


def words(text: str) -> list[str]:
    """The words of a text in order, in lower case."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """The words of a text in order, in lower case, without function words."""
    return [word for word in words(text) if word not in FUNCTION_WORDS]


def content_stems(text: str) -> set[str]:
    """The stems of a text's content words."""
    return {stem(word) for word in content_words(text)}


@functools.lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """A word in lower case without its English ending: `votes`, `voted` and `voting` are one."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending in ("ing", "ed", "es", "s", "ly"):
        if len(word) - len(ending) >= 3 and word.endswith(ending) and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeious":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word
