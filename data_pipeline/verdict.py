"""What a filter measures, and the rules that say what of it is not kept.

A filter measures once; rules decide on the numbers. So numbers can be kept, and other limits tried on
them without reading a text again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Scores = dict[str, float | str]
"""What was measured of one text, by name."""
NOT_MEASURED = float("nan")


@dataclass(frozen=True, slots=True)
class Rejection:
    """`score` is what was measured and `threshold` the limit it missed, where the rule has numbers."""

    reason: str
    score: float | None = None
    threshold: float | None = None


class Refused(Exception):
    """A text that is made to take forever; `rejection` says by what that was seen."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.reason)
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason to reject. Without a limit the score is a flag: above 0 rejects. NaN never rejects.

    Scores may be numbers (one text) or arrays (many).
    """

    score: str
    reason: str
    least: float | None = None
    """Less is rejected."""
    most: float | None = None
    """More is rejected."""
    among: frozenset[str] | None = None
    """Anything else is rejected."""
    shows: tuple[str, float] | None = None
    """Score and limit to report instead of this rule's own."""
    since: tuple[str, float] | None = None
    """The rule only holds where this other score has at least this value."""

    def hits(self, scores: Mapping[str, Any]) -> Any:
        """Whether the rule rejects: bool, or bool [n]."""
        value = scores.get(self.score, NOT_MEASURED)
        if self.among is not None:
            many = isinstance(value, np.ndarray)
            hit = ~np.isin(value, sorted(self.among)) if many else value not in self.among
        elif self.least is not None:
            hit = value < self.least
        else:
            hit = value > (0 if self.most is None else self.most)
        return hit if self.since is None else hit & (scores.get(self.since[0], NOT_MEASURED) >= self.since[1])

    @property
    def shown(self) -> tuple[str, float] | None:
        """The score that goes with a rejection, and the limit that it missed."""
        limit = self.most if self.least is None else self.least
        return self.shows or (None if limit is None else (self.score, limit))

    def rejection(self, scores: Mapping[str, Any]) -> Rejection:
        if self.shown is None:
            return Rejection(self.reason)
        name, limit = self.shown
        return Rejection(self.reason, scores[name], limit)


def first_hit(scores: Mapping[str, Any], rules: Iterable[Rule]) -> Rejection | None:
    """The first rule that rejects decides."""
    for rule in rules:
        if rule.hits(scores):
            return rule.rejection(scores)
    return None
