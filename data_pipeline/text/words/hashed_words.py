"""Words of a text as 64-bit hashes with positions, in one compiled pass and without a vocabulary.

For steps that do not need spellings. Memory depends only on the current text. An `Alphabet` defines words:
`exact()` splits at white space and keeps every character, `folded()` lowercases letters and treats every
mark as a word. In both, scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, …)
give one word per character.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from dataclasses import dataclass

import numpy as np

from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.words.counting import BASE, mix

SPACE, PART, ALONE = 0, 1, 2
"""Kinds of characters: between words, part of a word, or a word by itself."""
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F), (0x1780, 0x17FF),  # Burmese, Khmer
    (0x2E80, 0x2FDF), (0x3040, 0x30FF), (0x31F0, 0x31FF),  # radicals, kana
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),  # Chinese characters
)  # fmt: skip
"""First and last code points of scripts written without spaces."""
ASSIGNED = 0x33480
"""Unicode 17 has no letters or marks from here on, except variation selectors."""


@dataclass(frozen=True)
class Alphabet:
    """Treatment of each code point. Both tables have sys.maxunicode + 1 entries."""

    kinds: np.ndarray
    """uint8: SPACE, PART or ALONE"""
    letters: np.ndarray
    """uint32: code point hashed in its place"""


@dataclass(frozen=True)
class HashedWords:
    """The words of one text in order."""

    hashes: np.ndarray
    """uint64 [N]"""
    starts: np.ndarray
    """int64 [N], index of each word's first character in the text"""
    ends: np.ndarray
    """int64 [N], one past each word's last character"""

    def __len__(self) -> int:
        return len(self.hashes)


@functools.cache
def exact() -> Alphabet:
    """Words are separated by white space and compared exactly."""
    kinds = np.full(sys.maxunicode + 1, PART, np.uint8)
    _unspaced(kinds)
    kinds[[code for code in range(0x3001) if chr(code).isspace()]] = SPACE  # no white space above
    return Alphabet(kinds, np.arange(sys.maxunicode + 1, dtype=np.uint32))


@functools.cache
def folded(digits: bool = True) -> Alphabet:
    """Words are runs of letters, accents and digits, in lower case; every other mark is a word. Without
    `digits`, all digits count as 0."""
    kinds = np.full(sys.maxunicode + 1, SPACE, np.uint8)
    letters = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for code in range(ASSIGNED):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "LMN":
            kinds[code] = PART
            letters[code] = ord(character.lower()[0])
            if category == "Nd" and not digits:
                letters[code] = ord("0")
        elif category[0] in "PS":
            kinds[code] = ALONE
    letters[[0x2018, 0x2019]] = ord("'")
    letters[[0x201C, 0x201D]] = ord('"')
    _unspaced(kinds)
    return Alphabet(kinds, letters)


def _unspaced(kinds: np.ndarray) -> None:
    for first, last in UNSPACED:
        kinds[first : last + 1] = ALONE


def hashed_words(text: str, alphabet: Alphabet) -> HashedWords:
    """Hash the words of any text. Lone surrogates are treated as ordinary characters."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return HashedWords(*_hashed(codes, alphabet.kinds, alphabet.letters))


@compiled
def _hashed(
    codes: np.ndarray, kinds: np.ndarray, letters: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, before = 0, SPACE
    for code in codes:
        kind = kinds[code]
        if kind == ALONE or (kind == PART and before != PART):
            count += 1
        before = kind
    hashes = np.empty(count, np.uint64)
    starts, ends = np.empty(count, np.int64), np.empty(count, np.int64)
    word, before, value = -1, SPACE, np.uint64(0)
    for place in range(len(codes)):
        kind = kinds[codes[place]]
        if kind != SPACE:
            if kind == ALONE or before != PART:
                word += 1
                starts[word] = place
                value = np.uint64(0)
            value = mix(value + np.uint64(letters[codes[place]]) + np.uint64(1))
            hashes[word] = value
            ends[word] = place + 1
        before = kind
    return hashes, starts, ends


@compiled
def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """uint64 [max(0, N - n + 1)]: hash of every n consecutive words, from the word hashes.

    Mixes pairs, then pairs of pairs, …, and combines the blocks of the binary representation of n, in
    log2(n) passes. Two different n-grams collide with a probability of about log2(n) / 2^64.
    """
    count = max(0, len(words) - n + 1)
    values = np.zeros(count, np.uint64)
    blocks = words.copy()  # hashes of `size` words, indexed by their first word
    size, taken = 1, 0
    while size <= n:
        if n & size:
            for place in range(count):
                values[place] = mix(values[place] * BASE + blocks[place + taken])
            taken += size
        for place in range(len(words) - size):
            blocks[place] = mix(blocks[place] * BASE + blocks[place + size])
        size *= 2
    return values
