"""Rewards that a program can check. A verifier is a pure function of an answer and its task."""

from __future__ import annotations

import re

from headwater.llm.examples.conversations import HeadlineTask
from headwater.llm.inference.base import Completion

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
LENGTH = (4, 16)
"""Words of a newspaper headline."""


def headline(answer: str, completion: Completion, task: HeadlineTask) -> float:
    """Score of a headline, 0 to 1: the mean of four checks.

    It stops by itself, has 4 to 16 words, repeats no word of four letters or more, and its words occur in the
    article (a share): a headline must not invent.
    """
    words = [word.lower() for word in WORD.findall(answer)]
    if not words:
        return 0.0
    known = {word.lower() for word in WORD.findall(task.article)}
    long_words = [word for word in words if len(word) >= 4]
    checks = (
        completion.finish_reason == "stop",
        LENGTH[0] <= len(words) <= LENGTH[1],
        len(set(long_words)) == len(long_words),
        sum(word in known for word in words) / len(words),
    )
    return sum(map(float, checks)) / len(checks)
