"""Measures of answers that cite numbered passages, with 95 % intervals.

Citation recall and precision are those of ALCE (Gao et al. 2023, section 4.3) with the rules of
`cite.support` in the place of its entailment model: the share of a statement's content words that the
passages have, and its names, numbers and negations. They know neither roles nor synonyms, so a faithful
paraphrase can count as unsupported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.llm.grounding.agreement import fabricated
from headwater.llm.grounding.cite import support, without_markers
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND
from headwater.llm.grounding.sentences import sentence_spans

Z = 1.959964
"""97.5 % quantile of the normal distribution."""
RESAMPLES = 2000
_MARKER = re.compile(r"\[(\d{1,3})\]")
_MARKERS_AFTER_THE_END = re.compile(r"([.!?…]+[\"'”’)]*)((?:\s*\[\d{1,3}\])+)")
_REFUSAL = re.compile(
    r"^(?:there (?:is|was) no|no) (?:information|mention|answer|details?)\b|"
    r"^(?:i(?:'m| am)? |(?:unfortunately|sorry|based on)\b|it (?:is|was) |"
    r"(?:the|these|this|none of the|neither)\b[^.,]{0,30}\b(?:sources?|passages?|articles?|text|information|"
    r"context|question|answer)\b)"
    r".*?\b(?:nothing|no (?:information|mention|answer|details?)|not (?:mention|say|provide|contain|include|"
    r"specif|have|give|answer|state|know|find|found|enough|available|possible|able)\w*|"
    r"(?:do|does|could|can|did|is|are|was)(?:n't|not) \w+|can't \w+|unable to|sorry)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Measured:
    """The measures of one answer."""

    refused: bool
    """It says that the passages have no answer."""
    recall: float
    """Share of its statements that the passages cited in them support together."""
    precision: float
    """Share of its citations that are needed in a supported statement; 0 without citations."""
    fabricated: bool
    """It has a number or name that is neither in the passages nor in the question."""
    words: int


def statements(answer: str) -> list[tuple[str, list[int]]]:
    """The sentences of an answer without their markers, each with the numbers that it cites, in order.

    A marker after the closing punctuation belongs to the sentence before it.
    """
    inside = _MARKERS_AFTER_THE_END.sub(lambda m: f" {m.group(2).strip()}{m.group(1)}", answer)
    found = []
    for start, end in sentence_spans(inside):
        sentence = inside[start:end]
        text = without_markers(sentence).strip()
        if any(letter.isalnum() for letter in text):
            found.append((text, list(dict.fromkeys(int(n) for n in _MARKER.findall(sentence)))))
    return found


def is_refusal(answer: str) -> bool:
    """Whether the first sentence says that the sources have no answer, in the words of `NOTHING_FOUND` or in
    others."""
    text = without_markers(answer).strip()
    if text.lower().startswith(NOTHING_FOUND.rstrip(".").lower()):
        return True
    spans = sentence_spans(text)
    return bool(spans) and _REFUSAL.match(text[slice(*spans[0])].replace("’", "'")) is not None


def cites(answer: str) -> bool:
    """Whether an answer has a `[n]` marker."""
    return _MARKER.search(answer) is not None


def supported(statement: str, passages: Sequence[Passage]) -> bool:
    """Whether the passages, read as one text, support a statement."""
    if not passages:
        return False
    title, text = ("\n".join(part) for part in zip(*((p.title, p.text) for p in passages), strict=True))
    return support(statement, [Passage("", "", title, text, 0, len(text))]) is not None


def measure(question: str, answer: str, passages: Sequence[Passage]) -> Measured:
    """Measure one answer over passages numbered from 1. A number without a passage supports nothing."""
    recalled, needed, citations = [], 0, 0
    for statement, numbers in statements(answer):
        cited = {n: passages[n - 1] for n in numbers if 1 <= n <= len(passages)}
        whole = supported(statement, list(cited.values()))
        recalled.append(whole)
        citations += len(numbers)
        needed += whole * sum(_is_needed(statement, n, cited) for n in cited)
    known = [question, *(f"{p.title}\n{p.text}" for p in passages)]
    return Measured(
        refused=is_refusal(answer),
        recall=sum(recalled) / max(1, len(recalled)),
        precision=needed / max(1, citations),
        fabricated=bool(fabricated(without_markers(answer), known)),
        words=len(without_markers(answer).split()),
    )


def _is_needed(statement: str, number: int, cited: Mapping[int, Passage]) -> bool:
    """Not needed is a citation whose passage alone does not support the statement while the others do."""
    others = [passage for other, passage in cited.items() if other != number]
    return supported(statement, [cited[number]]) or not supported(statement, others)


@dataclass(frozen=True)
class Interval:
    """A share or mean of `count` answers, with its 95 % interval. All are nan for a count of 0."""

    value: float
    low: float
    high: float
    count: int


NO_ANSWERS = Interval(math.nan, math.nan, math.nan, 0)


def wilson(hits: float, count: int) -> Interval:
    """A share with Wilson's score interval (Wilson 1927). `hits` may be a sum of scores from 0 to 1,
    for which the interval is wider than needed."""
    if count == 0:
        return NO_ANSWERS
    share, square = hits / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * (share * (1 - share) / count + square / (4 * count)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), count)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """A mean with its percentile bootstrap interval over `RESAMPLES` resamples."""
    if not values:
        return NO_ANSWERS
    data = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(data[drawn].mean(axis=1), (2.5, 97.5))
    return Interval(float(data.mean()), float(low), float(high), len(data))


def summary(measured: Sequence[Measured], answerable: Sequence[bool]) -> dict[str, Interval]:
    """The measures over many answers; `answerable` says of each question whether its passages answer it.

    Citations and words: over the answers to answerable questions that do not refuse. Fabrication: over all
    answers that do not refuse. Refusals: over the unanswerable (right) and the answerable questions (wrong).
    """
    pairs = list(zip(measured, answerable, strict=True))
    given = [one for one, can in pairs if can and not one.refused]
    claims = [one.fabricated for one, _ in pairs if not one.refused]
    right = [one.refused for one, can in pairs if not can]
    wrong = [one.refused for one, can in pairs if can]
    return {
        "citation_recall": bootstrap([one.recall for one in given]),
        "citation_precision": bootstrap([one.precision for one in given]),
        "fabricated": wilson(sum(claims), len(claims)),
        "refused_unanswerable": wilson(sum(right), len(right)),
        "refused_answerable": wilson(sum(wrong), len(wrong)),
        "words": bootstrap([one.words for one in given]),
    }
