"""Split documents into passages of whole sentences, with some overlap."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headwater.data_pipeline.text.normalise import INVISIBLE
from headwater.llm.grounding.sentences import sentence_spans

_TOKEN = re.compile(r"\S+")
_DIRECTION = re.compile("[\u061c\u2066-\u2069]")
_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<[|｜][^|｜<>\n]{1,40}[|｜]>|</?s>|\[/?INST\]|<</?SYS>>|"
    r"</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|think|tool_call|tool_response)>",
    re.IGNORECASE,
)
"""Text that spells the control tokens of common chat templates."""


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


def spells_control_token(text: str) -> bool:
    return bool(_CONTROL.search(text))


def without_control_tokens(text: str) -> str:
    """The text with a blank in the place of what spells a control token, however nested."""
    while (less := _CONTROL.sub(" ", text)) != text:
        text = less
    return text


def title_line(title: str) -> str:
    """A title fit to be shown: one line, without invisible characters, direction marks and control tokens."""
    visible = _DIRECTION.sub("", INVISIBLE.sub("", title.replace("\n", " ")))
    return " ".join(without_control_tokens(visible).split())


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
