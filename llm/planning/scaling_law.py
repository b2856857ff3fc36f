"""How the loss falls with parameters N and tokens D: L(N, D) = E + A / N^α + B / D^β.

Form and fit are those of Hoffmann et al. 2022 (Chinchilla, section 3.3 and appendix D.2): Huber loss with
δ = 0.001 on the difference of logarithms, minimised from many starts (with Levenberg-Marquardt, 20 times
faster here than L-BFGS). Prediction intervals come from a residual bootstrap: refits to the law's own values
plus resampled residuals, because a handful of runs cannot spare any.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DELTA = 1e-3
STARTS = tuple(itertools.product((0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (-1.0, 0.5), (0.3, 0.7), (0.3, 0.7)))
"""Starting points for log A, log B, log E, α, β."""
STEPS = 200
EXPONENTS = (0.01, 2.0)
"""Bounds of α and β."""
REFITS = 100
CHINCHILLA = 20.0
"""Approximate compute-optimal tokens per parameter (Hoffmann et al. 2022)."""


@dataclass(frozen=True)
class Law:
    """The law's five parameters; the loss is in the unit that was fitted."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return float(self.e + self.a * parameters**-self.alpha + self.b * tokens**-self.beta)


@dataclass(frozen=True)
class Interval:
    """A prediction, and the interval that contains nine of ten refits."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """The result of one run."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class FittedLaw:
    """A law with the refits that measure its uncertainty."""

    law: Law
    refits: tuple[Law, ...]
    spread: float
    """Standard deviation of the runs' log loss about the law."""
    points: tuple[Point, ...]

    def predict(self, parameters: float, tokens: float) -> Interval:
        losses = np.array([law.loss(parameters, tokens) for law in self.refits])
        low, high = np.quantile(losses, (0.05, 0.95))
        noise = math.exp(1.645 * self.spread)  # plus a run's own scatter about the law
        mean = self.law.loss(parameters, tokens)
        return Interval(mean, min(mean, float(low)) / noise, max(mean, float(high)) * noise)

    def reach(self, parameters: float, tokens: float) -> float:
        """FLOPs (6ND) relative to the largest run."""
        return parameters * tokens / max(point.parameters * point.tokens for point in self.points)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FittedLaw:
        return cls(
            Law(**data["law"]),
            tuple(Law(**law) for law in data["refits"]),
            data["spread"],
            tuple(Point(**point) for point in data["points"]),
        )


def fit(points: Sequence[Point], *, refits: int = REFITS, seed: int = 0) -> FittedLaw:
    """Fit the law to six or more runs that differ in parameters and tokens. Raises ValueError for fewer."""
    if len(points) < 6 or len({p.parameters for p in points}) < 2 or len({p.tokens for p in points}) < 2:
        raise ValueError("a law with five parameters needs six runs, of two sizes and two lengths")
    sizes, tokens, losses = (
        np.log([getattr(p, n) for p in points]) for n in ("parameters", "tokens", "loss")
    )
    best = _best(sizes, tokens, losses, STARTS)
    fitted = np.logaddexp.reduce(_terms(best, sizes, tokens))
    residuals = losses - fitted
    freedom = math.sqrt(len(points) / (len(points) - 5))  # degrees of freedom after five parameters
    generator = np.random.default_rng(seed)
    laws = []
    for _ in range(refits):
        dealt = fitted + freedom * generator.choice(residuals, len(points))
        laws.append(_law(_best(sizes, tokens, dealt, (tuple(best),))))
    spread = float(residuals.std() * freedom)
    return FittedLaw(_law(best), tuple(laws), spread, tuple(points))


def _law(numbers: np.ndarray) -> Law:
    a, b, e, alpha, beta = (float(number) for number in numbers)
    return Law(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def _terms(numbers: np.ndarray, sizes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Logarithms of the law's three terms, [3, n]."""
    a, b, e, alpha, beta = numbers
    return np.stack([a - alpha * sizes, b - beta * tokens, np.full_like(sizes, e)])


def _best(
    sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray, starts: Sequence[Sequence[float]]
) -> np.ndarray:
    """log A, log B, log E, α, β: the best minimum over all starts."""
    reached = [_descend(np.array(start), sizes, tokens, losses) for start in starts]
    return min(reached, key=lambda place: place[0])[1]


def _descend(
    numbers: np.ndarray, sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray
) -> tuple[float, np.ndarray]:
    """Levenberg-Marquardt on the Huber loss, reweighted at every step; exponents in log space."""
    numbers = numbers.copy()
    numbers[3:] = np.log(numbers[3:])
    value, residuals, slopes = _huber(numbers, sizes, tokens, losses)
    damping = 1e-2
    for _ in range(STEPS):
        weights = np.minimum(1.0, DELTA / np.maximum(np.abs(residuals), 1e-300))[:, None]
        curvature, slope = slopes.T @ (weights * slopes), (weights * slopes).T @ residuals
        steep = np.diag(damping * (np.diag(curvature) + 1e-12))
        there = numbers - np.clip(np.linalg.lstsq(curvature + steep, slope, rcond=None)[0], -2, 2)
        there[3:] = np.clip(there[3:], *np.log(EXPONENTS))
        tried = _huber(there, sizes, tokens, losses)
        if tried[0] < value:  # false for NaN
            done = value - tried[0] < 1e-12 * value
            numbers, (value, residuals, slopes), damping = there, tried, max(damping / 5, 1e-12)
            if done:
                break
        elif damping > 1e12:
            break
        else:
            damping *= 5
    numbers[3:] = np.exp(numbers[3:])
    return value, numbers


def _huber(
    numbers: np.ndarray, sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss, the residuals [n], and their Jacobian [n, 5]."""
    with np.errstate(over="ignore", invalid="ignore"):
        alpha, beta = np.exp(numbers[3:])
        terms = _terms(np.array([*numbers[:3], alpha, beta]), sizes, tokens)
        logs = np.logaddexp.reduce(terms)
        shares = np.exp(terms - logs)
        residuals = logs - losses
        far = np.abs(residuals)
        value = np.where(far < DELTA, residuals**2 / 2, DELTA * (far - DELTA / 2)).sum()
    slopes = np.stack([*shares, -alpha * sizes * shares[0], -beta * tokens * shares[1]], axis=1)
    return float(value), residuals, slopes
