"""Split documents into passages of whole sentences, with some overlap."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headwater.llm.grounding.sentences import sentence_spans

_TOKEN = re.compile(r"\S+")


@dataclass(frozen=True)
class Passage:
    """A passage of a document: `text` equals the document's text[start:end]."""

    document_id: str
    url: str
    title: str
    text: str
    start: int
    end: int
    score: float = 0.0
    """Relevance to the query; its scale depends on the search."""


def passage_spans(text: str, words: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) in characters of passages of about `words` words, split between sentences.

    Neighbouring passages share whole sentences of up to `overlap` words. A sentence longer than a passage is
    split between words. A remainder shorter than a quarter of a passage joins the last passage.
    """
    units = _units(text, words)
    spans: list[tuple[int, int]] = []
    first = 0
    while first < len(units):
        last, count = first, units[first][2]
        while last + 1 < len(units) and count + units[last + 1][2] <= words:
            last += 1
            count += units[last][2]
        if sum(unit[2] for unit in units[last + 1 : last + 1 + words]) <= words // 4:
            last = len(units) - 1
        spans.append((units[first][0], units[last][1]))
        if last == len(units) - 1:
            break
        following, shared = last + 1, 0
        while following - 1 > first and shared + units[following - 1][2] <= overlap:
            following -= 1
            shared += units[following][2]
        first = following
    return spans


def _units(text: str, words: int) -> list[tuple[int, int, int]]:
    """(start, end, words) of each sentence, or of each piece of one longer than `words`."""
    units = []
    for start, end in sentence_spans(text):
        tokens = [match.span() for match in _TOKEN.finditer(text, start, end)]
        for i in range(0, len(tokens), words):
            piece = tokens[i : i + words]
            units.append((piece[0][0], piece[-1][1], len(piece)))
    return units
