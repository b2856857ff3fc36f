"""The reward of a cited answer: faithful to its passages, about the question, short."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.llm.grounding.cite import without_markers
from headwater.llm.grounding.measures import cites, is_refusal, measure
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.sentences import content_stems

WEIGHTS = {"faithful": 0.5, "relevant": 0.3, "brief": 0.2}
BRIEF_WORDS = 25
"""Answers up to this length are brief; one of twice this length is not at all."""
RELEVANT = 0.6
"""Overlap with the reference from which an answer is relevant: the same may be said in other words."""


def reward(question: str, answer: str, passages: Sequence[Passage], reference: str) -> float:
    """Score of an answer, 0 to 1.

    If the reference refuses, 1 for a refusal without a citation, else 0. Otherwise 0 for a refusal, else the
    weighted sum of: the harmonic mean of citation recall and precision (0 with a fabricated name or number);
    the overlap of content words with the reference; the brevity.
    """
    if is_refusal(reference):
        return float(is_refusal(answer) and not cites(answer))
    found = measure(question, answer, passages)
    if found.refused:
        return 0.0
    scores = {
        "faithful": 0.0 if found.fabricated else _harmonic(found.recall, found.precision),
        "relevant": min(1.0, overlap(answer, reference) / RELEVANT),
        "brief": min(1.0, max(0.0, 2 - found.words / BRIEF_WORDS)),
    }
    return sum(WEIGHTS[name] * score for name, score in scores.items())


def overlap(answer: str, reference: str) -> float:
    """F1 of the distinct content words of two texts, without their markers."""
    one, other = (content_stems(without_markers(text)) for text in (answer, reference))
    return 2 * len(one & other) / max(1, len(one) + len(other))


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0
