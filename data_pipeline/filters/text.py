"""A text with what several filters ask of it (words, lines, hashes of its word n-grams), computed once."""

from __future__ import annotations

import functools
import re

import numpy as np

WORD = re.compile(
    r"""
      https?://\S+ | www\.\S+                # an address is one word
    | \d+(?:[.,:]\d+)+                       # 1,000.50  12:30
    | (?:[^\W\d_]\.){2,}                     # U.S.
    | [^\W_]+(?:_[^\W_]+)*                   # letters and digits of any script
    | ['’](?:s|t|re|ve|ll|d|m)\b             # the tail of a contraction
    | \.{2,}                                 # an ellipsis
    | [^\w\s] | _                            # every other mark stands alone
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Words as the Gopher rules count them here: punctuation marks are words of their own, as in spaCy's
English tokenizer, which datatrove uses and which this expression follows without its exception lists."""

SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*(?=\s|$)")


class Text:
    """Wraps a string; words and lines are split when first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.text)

    @functools.cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]


def sentences(text: str) -> int:
    """Number of sentences: sentence-ending marks before white space, and what follows the last one."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    return len(ends) + bool(rest.strip())


# Polynomial hash modulo 2^64 of any run of characters from two prefix sums: with odd B,
# H(s, e) = (P[e] - P[s]) · B^-s, where P[i] = Σ_{j<i} c_j · B^j.
BASE = 0x9E3779B97F4A7C15
BASE_INVERSE = pow(BASE, -1, 1 << 64)


def _powers(base: int, count: int) -> np.ndarray:
    """base^0 … base^(count-1) modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _power_tables(size: int) -> tuple[np.ndarray, np.ndarray]:
    return _powers(BASE, size), _powers(BASE_INVERSE, size)


_kept_power_tables = functools.cache(_power_tables)
KEPT_SIZE = 1 << 17
"""Tables up to this size stay in memory (4 MB for all of them together); few texts are longer."""


def mix64(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of uint64 in which every input bit reaches every output bit."""
    mixed = values.astype(np.uint64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class WordHashes:
    """64-bit hashes of all n-grams of a word list, for any n, as joined by `separator`.

    Two n-grams have the same hash when their joined strings are equal, and otherwise with a
    probability of about 2^-64.
    """

    def __init__(self, words: list[str], separator: str = "") -> None:
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        self.starts = np.zeros(len(words), np.int64)
        np.cumsum(lengths[:-1] + len(separator), out=self.starts[1:])
        self.ends = self.starts + lengths
        joined = separator.join(words).encode("utf-32-le", "surrogatepass")
        characters = np.frombuffer(joined, np.uint32).astype(np.uint64)
        size = 1 << max(12, len(characters).bit_length())
        powers, self._inverse = (_kept_power_tables if size <= KEPT_SIZE else _power_tables)(size)
        self._prefix = np.zeros(len(characters) + 1, np.uint64)
        np.cumsum(mix64(characters + np.uint64(1)) * powers[: len(characters)], out=self._prefix[1:])

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Hash and length in characters of every n-gram, in order: two arrays of len(words) - n + 1."""
        count = max(0, len(self.starts) - n + 1)
        start, end = self.starts[:count], self.ends[n - 1 : n - 1 + count]
        lengths = end - start
        hashes = (self._prefix[end] - self._prefix[start]) * self._inverse[start]
        return mix64(hashes + lengths.astype(np.uint64)), lengths
