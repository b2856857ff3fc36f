"""Scores of extracted text: word F1, precision and recall, snippets, and the interval of a difference."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable

import lxml.html
import numpy as np
import numpy.typing as npt

SAMPLES = 2000
WORD = re.compile(r"\w+")


def gold_text(html: str) -> str:
    return " ".join(lxml.html.fromstring(html).itertext())


def words(text: str) -> collections.Counter[str]:
    return collections.Counter(WORD.findall(text.lower()))


def f1(found: str, expected: str) -> float:
    """F1 over bags of words: 2 * common / (found + expected)."""
    return scores(found, expected)[0]


def scores(found: str, expected: str) -> tuple[float, float, float]:
    """F1, precision and recall over bags of words."""
    a, b = words(found), words(expected)
    common = (a & b).total()
    return (
        2 * common / max(1, a.total() + b.total()),
        common / max(1, a.total()),
        common / max(1, b.total()),
    )


def snippets(found: str, wanted: list[str], unwanted: list[str]) -> tuple[int, int, int]:
    """Wanted snippets that a text has, unwanted ones that it has, and wanted ones that it has not."""
    text = " ".join(found.split())
    had, wrong = (sum(" ".join(each.split()) in text for each in side) for side in (wanted, unwanted))
    return had, wrong, len(wanted) - had


def means(pages: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """F1, precision, recall: of rows of these three, their means. Shape (..., pages, 3) to (..., 3)."""
    return pages.mean(axis=-2)


def of_counts(pages: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same of rows of snippets' counts."""
    had, wrong, missed = np.moveaxis(pages.sum(axis=-2), -1, 0)
    every = [2 * had / (2 * had + wrong + missed), had / np.maximum(1, had + wrong), had / (had + missed)]
    return np.stack(every, axis=-1)


def interval(
    one: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    summary: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
) -> tuple[float, float]:
    """The 95 % interval of the difference of F1 between two extractors of the same pages."""
    random = np.random.default_rng(0)
    picked = [random.integers(0, len(one), len(one)) for _ in range(SAMPLES)]
    differences = [summary(one[each])[0] - summary(other[each])[0] for each in picked]
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(low), float(high)
