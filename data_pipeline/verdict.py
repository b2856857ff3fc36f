"""Scores of filters, and the rules that reject texts by their scores.

A filter computes scores once and rules decide on them. Stored scores therefore allow other thresholds
to be tried without reading the texts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Scores = dict[str, float | str]
"""Scores of one text, by name."""
NOT_MEASURED = float("nan")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Reason for rejecting a text. Numeric rules add the `score` and the `threshold` that it missed."""

    reason: str
    score: float | None = None
    threshold: float | None = None


class Refused(Exception):
    """Raised for a text that would take too long to process; `rejection` names the exceeded limit."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.reason)
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason to reject. Without a limit the score is a flag: values above 0 reject. NaN never rejects.

    Scores may be numbers (one text) or arrays (many).
    """

    score: str
    reason: str
    least: float | None = None
    """Smaller scores are rejected."""
    most: float | None = None
    """Larger scores are rejected."""
    among: frozenset[str] | None = None
    """Scores outside this set are rejected."""
    shows: tuple[str, float] | None = None
    """Score and limit to report in place of this rule's own."""
    since: tuple[str, float] | None = None
    """The rule applies only if this other score has at least this value."""

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
        """Score to report with a rejection, and the limit that it missed."""
        limit = self.most if self.least is None else self.least
        return self.shows or (None if limit is None else (self.score, limit))

    def rejection(self, scores: Mapping[str, Any]) -> Rejection:
        if self.shown is None:
            return Rejection(self.reason)
        name, limit = self.shown
        return Rejection(self.reason, scores[name], limit)


def first_hit(scores: Mapping[str, Any], rules: Iterable[Rule]) -> Rejection | None:
    """Rejection of the first rule that rejects, or None."""
    for rule in rules:
        if rule.hits(scores):
            return rule.rejection(scores)
    return None
