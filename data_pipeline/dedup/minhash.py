"""Near duplicates: MinHash signatures, locality-sensitive hashing, connected components.

Broder 1997 (signatures), with FineWeb's parameters: word 5-grams of the simplified text, 14 buckets of
8 hashes. Two texts whose n-gram sets have Jaccard similarity s share a bucket with probability
1 - (1 - s^8)^14: 0.92 at s = 0.8, 0.5 at s ≈ 0.70, 0.05 at s = 0.5. Signatures are those of
datatrove 0.10.1, bit for bit, in every language: words are those of the language's splitter.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import unicodedata
from typing import Literal

import numpy as np
import regex
import xxhash
from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.dedup.shingles import bucket_keys, joined, signature, xxh64_of_ngrams
from headwater.data_pipeline.text.words.document_text import vocabulary
from headwater.data_pipeline.text.words.languages import ENGLISH
from headwater.data_pipeline.text.words.punctuation import CONTROLS, MARKS

MERSENNE_61 = (1 << 61) - 1
NUMBER = regex.compile(r"\p{Nd}+(?:[.,،٫⎖⎗⎘]\p{Nd}+)?")
TO_SPACES = str.maketrans(dict.fromkeys(MARKS + CONTROLS, " "))


class MinHashConfig(StageConfig):
    """Settings of near deduplication by MinHash."""

    enabled: bool = True
    """Run this step."""
    ngram: int = Field(default=5, ge=1)
    """Words per shingle. Texts with fewer words are never near duplicates."""
    buckets: int = Field(default=14, ge=1)
    """Number of buckets. Documents that agree in all hashes of one bucket are duplicates; more buckets find
    more of them."""
    hashes_per_bucket: int = Field(default=8, ge=1)
    """Hashes per bucket. More hashes require higher similarity."""
    hash: Literal["xxhash", "sha1"] = "xxhash"
    """Hash function for shingles. `sha1` is slower."""
    precision: Literal[64, 32] = 64
    """Bits per hash."""
    seed: int = Field(1, ge=0, le=2**32 - 1)
    """Seed of the permutations."""


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Tables over code points: replacement of punctuation (uint32), and whether it survives NFD (bool)."""
    spaced = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    spaced[list(TO_SPACES)] = ord(" ")
    stays = [unicodedata.category(chr(code)) != "Mn" for code in range(sys.maxunicode + 1)]
    return spaced, np.array(stays)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _text(codes: np.ndarray) -> str:
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def simplify(text: str) -> str:
    """Lower case, numbers as 0, no punctuation, no diacritics, single spaces (datatrove's simplify_text)."""
    text = NUMBER.sub("0", text.lower())
    if text.isascii():
        return " ".join(text.translate(TO_SPACES).split())
    spaced, stays = _tables()  # str.translate is slow outside ASCII
    text = " ".join(_text(spaced[_codes(text)]).split())
    codes = _codes(unicodedata.normalize("NFD", text))
    return _text(codes[stays[codes]]).strip()


def simplified_words(text: str, splitter: str = ENGLISH) -> tuple[np.ndarray, np.ndarray]:
    """Words of the simplified text joined by spaces (uint8), and their starts. n-grams are slices."""
    words = vocabulary(splitter).words(simplify(text))
    return joined(words.ids, *words.vocabulary.bytes())


class MinHasher:
    """Computes signatures with a fixed set of permutations h → (a·h + b) mod (2^61 - 1)."""

    def __init__(self, config: MinHashConfig) -> None:
        self._config = config
        count = config.buckets * config.hashes_per_bucket
        generator = np.random.RandomState(config.seed)
        self._a = generator.randint(1, MERSENNE_61, dtype=np.uint64, size=count)
        self._b = generator.randint(0, MERSENNE_61, dtype=np.uint64, size=count)
        self._mask = np.uint64((1 << config.precision) - 1)

    def shingles(self, text: str, splitter: str = ENGLISH) -> np.ndarray:
        """uint64 hashes of the word n-grams; empty for fewer than n words."""
        n = self._config.ngram
        data, starts = simplified_words(text, splitter)
        if (self._config.hash, self._config.precision) == ("xxhash", 64):
            return xxh64_of_ngrams(data, starts, n)
        text_bytes, places = data.tobytes(), starts.tolist()
        ngrams = (text_bytes[places[i] : places[i + n] - 1] for i in range(len(places) - n))
        return np.fromiter(map(self._hash, ngrams), np.uint64)

    def _hash(self, data: bytes) -> int:
        if self._config.hash == "xxhash":
            return xxhash.xxh32_intdigest(data)
        return int.from_bytes(hashlib.sha1(data).digest()[: self._config.precision // 8], "little")  # noqa: S324

    def signature(self, text: str, splitter: str = ENGLISH) -> np.ndarray | None:
        """uint64 [buckets · hashes_per_bucket]: minimum of each permutation over all shingles."""
        hashes = self.shingles(text, splitter)
        return signature(hashes, self._a, self._b, self._mask) if len(hashes) else None

    def buckets(self, text: str, splitter: str = ENGLISH) -> np.ndarray:
        """uint64 [buckets]: one key per bucket from its hashes and number; all 0 without a signature."""
        values = self.signature(text, splitter)
        if values is None:
            return np.zeros(self._config.buckets, np.uint64)
        return bucket_keys(values, self._config.hashes_per_bucket)
