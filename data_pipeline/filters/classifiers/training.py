"""Training of the linear classifier: examples → a model and its results on held-out texts.

Equal texts and seed give an equal model, whatever the order and number of files: a text's hash determines
whether it is held out (so that copies stay on one side) and its place in the training order. Features are
stored in a scratch file, so that memory does not grow with the examples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.filters.classifiers import linear
from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.words.counting import BASE, mix

LOOKED_AT_ONCE = 2_000
"""Texts between two progress reports."""
LEAST_HELD_OUT = 5
"""Minimum number of held-out texts per class for meaningful results."""
THRESHOLDS = tuple(step / 10 for step in range(1, 10))
PRIOR_SQUARED_GRADIENT = 1e-5
"""Initial AdaGrad sum; damps the first steps of rare words."""

Report = Callable[[int, str], None]
"""Progress callback: amount done, and a note."""


@dataclass(frozen=True)
class TrainSettings:
    held_out: float = 0.1
    """Fraction of the texts held out for calibration and testing."""
    seed: int = 0
    """Seed of the split and the training order."""
    epochs: int = 10
    """Passes over the training texts."""
    learning_rate: float = 3.0
    """Learning rate of AdaGrad (Duchi et al. 2011)."""
    buckets: int = 1 << 20
    """Number of weights, a power of two. Increase it for corpora of many millions of words."""


class Examples:
    """Features of texts in a scratch file, with the class and a hash of each text."""

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        self._path, self._buckets = folder / "features", settings.buckets
        self._seed = hashlib.blake2b(str(settings.seed).encode(), digest_size=16).digest()
        self._lengths: list[int] = []
        self._kinds: list[bool] = []
        self._hashes: list[int] = []

    def add(self, texts: Iterable[str], good: bool) -> int:
        """Append texts of one class, skipping texts without words. Returns the number of texts."""
        before = len(self._kinds)
        with self._path.open("ab") as stream:
            for text in texts:
                found = linear.features(linear.word_hashes(text), self._buckets)
                if len(found):
                    data = text.encode("utf-8", "surrogatepass")
                    digest = hashlib.blake2b(data, key=self._seed, digest_size=8)
                    stream.write(found.tobytes())
                    self._lengths.append(len(found))
                    self._kinds.append(good)
                    self._hashes.append(int.from_bytes(digest.digest(), "little"))
        return len(self._kinds) - before

    def table(self) -> Table:
        size = sum(self._lengths)
        features = np.memmap(self._path, np.uint32, "r", shape=(size,)) if size else np.zeros(0, np.uint32)
        return Table(
            np.asarray(features),
            np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]).astype(np.int64),
            np.array(self._kinds, bool),
            np.array(self._hashes, np.uint64),
        )


@dataclass(frozen=True)
class Table:
    """Features and classes of N texts."""

    features: np.ndarray
    """uint32, concatenated over texts"""
    offsets: np.ndarray
    """int64 [N + 1]"""
    good: np.ndarray
    """bool [N]"""
    hashes: np.ndarray
    """uint64 [N], of text and seed"""


def train(
    table: Table, settings: TrainSettings, reporting: Callable[[int], Report]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit, calibrate and test a model. `reporting` receives the total number of text visits (each text counts
    `epochs` times) and returns the progress callback.

    Returns the weights, float32 [buckets], and the results as fields of `linear.ModelCard`.
    Raises HeadwaterError if a class has too few texts for a held-out set.
    """
    held = table.hashes < np.uint64(min(settings.held_out * 2.0**64, 2.0**64 - 2**12))
    for name, kind in (("good", table.good), ("bad", ~table.good)):
        if (kind & held).sum() < LEAST_HELD_OUT or not (kind & ~held).any():
            raise HeadwaterError(
                f"{int(kind.sum()):,} {name} texts, of which {int((kind & held).sum()):,} are held out; "
                f"at least {LEAST_HELD_OUT} are needed there, and some to train on",
                fix="add texts, or increase --held-out",
            )
    by_hash = np.lexsort((table.good, table.hashes))
    rows = by_hash[~held[by_hash]]
    weights, bias = _fit(table, rows, settings, reporting(settings.epochs * len(rows)))
    tested = by_hash[held[by_hash]]
    logits = _logits(table.features, table.offsets, tested, weights, bias)
    good = table.good[tested]
    slope, offset = calibrate(logits, good)
    scores = 1 / (1 + np.exp(-np.clip(slope * logits + offset, -700, 700)))
    return weights, {"bias": bias, "slope": slope, "offset": offset, "held_out": figures(scores, good)}


def _fit(table: Table, rows: np.ndarray, settings: TrainSettings, report: Report) -> tuple[np.ndarray, float]:
    weights = np.zeros(settings.buckets, np.float32)
    squares = np.full(settings.buckets, PRIOR_SQUARED_GRADIENT, np.float32)
    bias = np.array([0.0, 1.0])
    shares = np.bincount(table.good[rows].astype(np.int64), minlength=2)
    class_weights = len(rows) / 2 / shares
    done = 0
    for epoch in range(settings.epochs):
        order = rows[np.argsort(_shuffled(table.hashes[rows], epoch), kind="stable")]
        loss = 0.0
        for start in range(0, len(order), LOOKED_AT_ONCE):
            some = order[start : start + LOOKED_AT_ONCE]
            loss += _pass(
                table.features, table.offsets, some, table.good, class_weights, weights, squares, bias,
                settings.learning_rate,
            )  # fmt: skip
            done += len(some)
            report(done, f"epoch {epoch + 1}, loss {loss / min(len(order), start + LOOKED_AT_ONCE):.3f}")
    return weights, float(bias[0])


@compiled
def _shuffled(hashes: np.ndarray, epoch: int) -> np.ndarray:
    """Sort keys that give each epoch a different order."""
    numbers = np.empty(len(hashes), np.uint64)
    for place in range(len(hashes)):
        numbers[place] = mix(hashes[place] + BASE * np.uint64(epoch + 1))
    return numbers


@compiled
def _pass(
    features: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    good: np.ndarray,
    class_weights: np.ndarray,
    weights: np.ndarray,
    squares: np.ndarray,
    bias: np.ndarray,
    learning_rate: float,
) -> float:
    """One AdaGrad step per text on its logistic loss. Returns the summed loss. `bias` holds the bias and the
    sum of its squared gradients."""
    loss = 0.0
    for row in rows:
        low, high = offsets[row], offsets[row + 1]
        total = 0.0
        for index in range(low, high):
            total += weights[features[index]]
        probability = 1 / (1 + math.exp(-(bias[0] + total / (high - low))))
        wanted = 1.0 if good[row] else 0.0
        weight = class_weights[1 if good[row] else 0]
        loss -= weight * math.log(max(1e-12, probability if good[row] else 1 - probability))
        gradient = weight * (probability - wanted)
        bias[1] += gradient * gradient
        bias[0] -= learning_rate * gradient / math.sqrt(bias[1])
        gradient /= high - low
        for index in range(low, high):
            feature = features[index]
            squares[feature] += gradient * gradient
            weights[feature] -= learning_rate * gradient / math.sqrt(squares[feature])
    return loss


@compiled
def _logits(
    features: np.ndarray, offsets: np.ndarray, rows: np.ndarray, weights: np.ndarray, bias: float
) -> np.ndarray:
    found = np.empty(len(rows))
    for place in range(len(rows)):
        low, high = offsets[rows[place]], offsets[rows[place] + 1]
        total = 0.0
        for index in range(low, high):
            total += weights[features[index]]
        found[place] = bias + total / (high - low)
    return found


def calibrate(logits: np.ndarray, good: np.ndarray) -> tuple[float, float]:
    """Slope and offset such that sigmoid(slope · logit + offset) is a probability, with equal class weights.

    Platt scaling (Platt 1999) with its smoothed targets, which keep the fit finite for perfectly separated
    classes. Newton's method on a convex loss.
    """
    numbers = np.array([(~good).sum(), good.sum()], np.float64)
    targets = np.where(good, (numbers[1] + 1) / (numbers[1] + 2), 1 / (numbers[0] + 2))
    weights = np.where(good, 0.5 / numbers[1], 0.5 / numbers[0])
    inputs = np.column_stack([logits, np.ones(len(logits))])
    scale = max(1e-12, float(np.abs(logits).max()))
    inputs[:, 0] /= scale
    found = np.zeros(2)

    def loss(parameters: np.ndarray) -> float:
        values = inputs @ parameters
        return float((weights * (np.logaddexp(0, values) - targets * values)).sum())

    for _ in range(100):
        chances = 1 / (1 + np.exp(-inputs @ found))
        gradient = inputs.T @ (weights * (chances - targets))
        curvature = (inputs * (weights * chances * (1 - chances))[:, None]).T @ inputs + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(found - size * step) > loss(found):
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return float(found[0] / scale), float(found[1])


def area_under_curve(scores: np.ndarray, good: np.ndarray) -> float:
    """Probability that a good text scores above a bad one; ties count half (Mann-Whitney)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[place]
    positives, negatives = int(good.sum()), int((~good).sum())
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def figures(scores: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """Accuracy at 0.5, area under the ROC curve, and what each threshold would keep."""
    table = []
    for threshold in THRESHOLDS:
        kept = scores >= threshold
        right = int((kept & good).sum())
        table.append(
            {
                "threshold": threshold,
                "precision": round(right / int(kept.sum()), 4) if kept.any() else None,
                "recall": round(right / int(good.sum()), 4),
                "kept": round(float(kept.mean()), 4),
            }
        )
    return {
        "good": int(good.sum()),
        "bad": int((~good).sum()),
        "accuracy": round(float(((scores >= 0.5) == good).mean()), 4),
        "auc": round(area_under_curve(scores, good), 4),
        "thresholds": table,
    }
