"""Claims: sentences of a text that can be understood alone, and their shortening by rules.

A shortened claim keeps the order of its source's words, so the source still supports it.
"""

from __future__ import annotations

import re

from headwater.llm.grounding.sentences import content_words, sentence_spans

CLAIM_WORDS = (8, 34)
"""Minimum and maximum words of a claim before it is shortened."""
SHORT_WORDS = (6, 26)
"""Minimum and maximum words of a shortened claim."""
CONTENT_WORDS = 5

_DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_SAYS = r"(?:said|says|told|added|adds|wrote|explained|noted|reported|reports|announced|confirmed|tweeted)"
_NAME = r"(?:[A-Z][\w'.-]*|the|an?|its?|his|her)"
_NOT_ALONE = re.compile(
    r"^(?:he|she|it|they|we|i|you|this|that|these|those|his|her|hers|their|its|our|my|here|there|such|then|so|"
    r"and|but|or|nor|yet|because|both|another|others?|some|many|one|read|also|see|watch|photo|image|advertisement)\b",
    re.IGNORECASE,
)
_UNFIT = re.compile(
    r"[\"“”|@#{}<>\[\]*_~=…?!\ufffd]|https?:|www\.|\.\.|\b(?:I|we|my|our|you|your|us)\b|^[A-Z ,.'-]{12,}"
)
_HEADS = (
    re.compile(r"^[A-Z][A-Z .,/'-]{2,30}(?:\([^)]{2,30}\))?\s*[-–—:]+\s+"),  # LONDON (Reuters) -
    re.compile(
        r"^(?:However|Meanwhile|Instead|Moreover|Furthermore|Nevertheless|Still|Indeed|Also|Earlier|Later|Now|"
        r"In addition|In fact|Of course|For example|For instance|As a result|At the same time|Overnight|"
        r"On the other hand|Last (?:week|month|year|night)|(?:Earlier this|This) (?:week|month|year)|"
        rf"(?:On|Late on|Earlier on) {_DAY}(?: (?:morning|afternoon|evening|night))?),\s+"
    ),
    re.compile(r"^According to [^,]{3,60},\s+"),
)
_ASIDE = re.compile(r"\s+[–—-]\s+[^–—]{3,80}?\s+[–—-]\s+")
_MIDDLES = (
    re.compile(r"\s*\([^()]*\)"),
    _ASIDE,
    re.compile(r",\s+(?:who|which|whose|where)\s[^,]{3,90},(?=\s)"),
    re.compile(
        r",\s+(?:however|meanwhile|for example|for instance|of course|too|"
        rf"{_NAME}[^,]{{0,50}}\s{_SAYS}(?: on {_DAY})?),(?=\s)"
    ),
)
_TAILS = (
    re.compile(
        rf",\s+(?:(?:he|she|they|it|officials|police|{_NAME}(?:\s[\w'.-]+){{0,7}})\s)?{_SAYS}\b[^,]{{0,60}}\.$"
    ),
    re.compile(r",\s+according to [^,]*(?:,[^,]*)?\.$"),
    re.compile(
        r",\s+(?:as|while|after|although|though|but|with|which|who|where|including|adding|saying)"
        r"\s[^,]{3,120}\.$"
    ),
)


def claim_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences that can be understood alone: no pronoun or connective opens them, no
    quotation marks, links or addresses to the reader, enough content words."""
    low, high = CLAIM_WORDS
    return [
        (start, end)
        for start, end in sentence_spans(text)
        if low <= len(text[start:end].split()) <= high and _stands_alone(text[start:end])
    ]


def _stands_alone(sentence: str) -> bool:
    return (
        sentence[0].isupper()
        and sentence.endswith(".")
        and not _NOT_ALONE.match(sentence)
        and not _UNFIT.search(sentence)
        and len(set(content_words(sentence))) >= CONTENT_WORDS
    )


def shortened(sentence: str) -> str:
    """The sentence without its opening adverbial, attribution, insertions and last subordinate clause.

    Each goes only if enough is left. Empty if the result is too long or too short for an answer."""
    text = sentence
    for pattern in (*_HEADS, *_MIDDLES, *_TAILS):
        ending = "." if pattern in _TAILS else " " if pattern is _ASIDE else ""
        less = pattern.sub(ending, text, count=1).strip()
        if len(less.split()) >= SHORT_WORDS[0] and len(set(content_words(less))) >= CONTENT_WORDS:
            text = less
    text = text[0].upper() + text[1:]
    return text if SHORT_WORDS[0] <= len(text.split()) <= SHORT_WORDS[1] else ""
