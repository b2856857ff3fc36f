"""How often a judge should be right, given how sure it is: a judge knows close answers less well.

A *margin* is the judge's score of the better answer of a pair less that of the worse one. Answers of a newer
model may differ in what the judge has hardly seen: its margins are small there, and that it errs more often
says nothing against the rater.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 60
"""Of the bisection: the scale is exact to a double's precision."""


def hits(margins: Sequence[float]) -> int:
    """The pairs that the judge orders as the rater did."""
    return sum(margin > 0 for margin in margins)


def chances(margins: Sequence[float], trusted: Sequence[float]) -> np.ndarray:
    """For each pair the probability σ(a |margin|) that the judge is right if the ranking is, [pairs].

    The scale a, at least 0, makes trusted margins most likely: σ(a margin) of each, as in Platt 1999 with no
    offset. One right and one wrong pair of their median size are added, so that it stays finite.
    """
    known = _finite(trusted)
    size = float(np.median(np.abs(known)))
    known = np.append(known, [size, -size])
    low, high = 0.0, 1.0
    while _slope(known, high) > 0:
        low, high = high, high * 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(known, middle) > 0 else (low, middle)
    return _sigmoid(low * np.abs(_finite(margins)))


def at_most(count: int, chances: np.ndarray) -> float:
    """Probability of at most so many successes, each with its own probability (Poisson's binomial)."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(distribution[: count + 1].sum())


def _finite(margins: Sequence[float]) -> np.ndarray:
    """Margins, 0 where an answer did not fit and has no score."""
    return np.nan_to_num(np.asarray(margins, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _slope(margins: np.ndarray, scale: float) -> float:
    """Derivative of the log-likelihood of these margins by the scale; it falls as the scale grows."""
    return float((margins * _sigmoid(-scale * margins)).sum())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
