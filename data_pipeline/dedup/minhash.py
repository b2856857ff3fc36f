"""Near duplicates: MinHash signatures, locality-sensitive buckets, connected components.

Broder 1997 (signatures), with FineWeb's parameters: word 5-grams of the simplified text, 14 buckets of
8 hashes. Two texts whose n-gram sets have Jaccard similarity s share a bucket with probability
1 - (1 - s^8)^14: 0.92 at s = 0.8, 0.5 at s ≈ 0.70, 0.05 at s = 0.5.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from pydantic import Field

from cluster.stage import StageConfig
from data_pipeline.dedup.survivors import Candidates, keep_best
from data_pipeline.filters.marks import CONTROLS, MARKS
from data_pipeline.filters.text import WordHashes, mix64

MERSENNE_61 = np.uint64((1 << 61) - 1)
SHINGLES_AT_ONCE = 4096  # bounds the memory of one permutation table (4096 × 112 × 8 bytes)
NUMBER = re.compile(r"\d+(?:[.,،٫]\d+)?")
TO_SPACES = str.maketrans(dict.fromkeys(MARKS + CONTROLS, " "))


class MinHashConfig(StageConfig):
    """Near duplicates."""

    enabled: bool = True
    """Off: the step is passed over."""
    ngram: int = Field(default=5, ge=1)
    """Words in a shingle."""
    buckets: int = Field(default=14, ge=1)
    """Documents that agree in all hashes of one bucket are duplicates."""
    hashes_per_bucket: int = Field(default=8, ge=1)
    """More hashes ask for more similarity."""
    seed: int = 1
    """Of the permutations."""


def simplify(text: str) -> str:
    """Lower case, numbers as 0, no punctuation, no diacritics, single spaces (datatrove's simplify_text)."""
    text = NUMBER.sub("0", text.lower()).translate(TO_SPACES)
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return " ".join(text.split())


def shingles(text: str, ngram: int) -> np.ndarray:
    """uint64 hashes of the word n-grams; of a shorter text, one hash of the whole."""
    words = simplify(text).split()
    hashes, _ = WordHashes(words, " ").ngrams(min(ngram, max(1, len(words))))
    return hashes


class MinHasher:
    """Makes signatures with one fixed set of permutations h → (a·h + b) mod (2^61 - 1)."""

    def __init__(self, config: MinHashConfig) -> None:
        self._config = config
        count = config.buckets * config.hashes_per_bucket
        generator = np.random.RandomState(config.seed)
        self._a = generator.randint(1, int(MERSENNE_61), dtype=np.uint64, size=(1, count))
        self._b = generator.randint(0, int(MERSENNE_61), dtype=np.uint64, size=(1, count))

    def signature(self, text: str) -> np.ndarray:
        """uint64 [buckets · hashes_per_bucket]: the smallest value of each permutation over the shingles."""
        hashes = np.unique(shingles(text, self._config.ngram)).reshape(-1, 1)
        smallest = np.full(self._a.shape[1], np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(hashes), SHINGLES_AT_ONCE):
            permuted = hashes[start : start + SHINGLES_AT_ONCE] * self._a
            permuted += self._b
            permuted = (permuted & MERSENNE_61) + (permuted >> np.uint64(61))  # at most one too many
            np.subtract(permuted, MERSENNE_61, out=permuted, where=permuted >= MERSENNE_61)
            np.minimum(smallest, permuted.min(axis=0), out=smallest)
        return smallest

    def buckets(self, text: str) -> np.ndarray:
        """uint64 [buckets]: one key a bucket, over its hashes and its number."""
        rows = self.signature(text).reshape(self._config.buckets, -1)
        keys = np.arange(1, len(rows) + 1, dtype=np.uint64)
        for column in rows.T:
            keys = mix64(keys * np.uint64(0x9E3779B97F4A7C15) + column)
        return keys


def components(keys: np.ndarray) -> np.ndarray:
    """Component number of each document, where documents that share a bucket are connected.

    `keys` is uint64 [N, buckets]. A component's number is its smallest row (union-find, path halving).
    """
    parent = list(range(len(keys)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for column in keys.T:
        order = np.argsort(column, kind="stable")
        same = np.flatnonzero(column[order[1:]] == column[order[:-1]])
        for left, right in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
            low, high = sorted((root(left), root(right)))
            parent[high] = low
    return np.fromiter(map(root, range(len(keys))), np.int64, len(keys))


def near_duplicates(candidates: Candidates, keys: np.ndarray) -> np.ndarray:
    """For each document the row of the one that is kept in its place, or -1."""
    return keep_best(candidates, components(keys))
