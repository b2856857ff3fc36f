"""Compiled loops over word ids: the counts of the Gopher rules and of sentences.

Word ids are rows of a Vocabulary's tables. Hashes are polynomials over the characters, modulo 2^64, so
that the hash of words joined without a space follows from their hashes.
"""

from __future__ import annotations

import numpy as np

from headwater.data_pipeline.text.compiled import compiled

SOLID, LETTERS, ENDS, MARK = 1, 2, 4, 8
"""Flags of a word: not only punctuation; holds a letter; ends a sentence; spaCy's is_punct."""

BASE = np.uint64(0x9E3779B97F4A7C15)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
M1, M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled
def mix(value: np.uint64) -> np.uint64:
    """Finaliser of splitmix64: a bijection in which every input bit affects every output bit."""
    value = (value ^ (value >> S30)) * M1
    value = (value ^ (value >> S27)) * M2
    return value ^ (value >> S31)


@compiled
def hash_word(codes: np.ndarray) -> tuple[np.uint64, np.uint64]:
    """Hash of a word's code points (uint32 [n]), and BASE^n."""
    value, power = np.uint64(0), np.uint64(1)
    for code in codes:
        value = value * BASE + mix(np.uint64(code) + np.uint64(1))
        power *= BASE
    return value, power


@compiled
def hash_words(codes: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`hash_word` of n words with concatenated code points: two arrays, uint64 [n]."""
    values, powers = np.empty(len(lengths), np.uint64), np.empty(len(lengths), np.uint64)
    start = 0
    for word in range(len(lengths)):
        values[word], powers[word] = hash_word(codes[start : start + lengths[word]])
        start += lengths[word]
    return values, powers


@compiled
def expand(chunks: np.ndarray, offsets: np.ndarray, words: np.ndarray) -> np.ndarray:
    """int32 [N]: words of all chunks in order. Chunk c consists of `words[offsets[c] : offsets[c + 1]]`."""
    size = 0
    for chunk in chunks:
        size += offsets[chunk + 1] - offsets[chunk]
    ids = np.empty(size, np.int32)
    place = 0
    for chunk in chunks:
        for index in range(offsets[chunk], offsets[chunk + 1]):
            ids[place] = words[index]
            place += 1
    return ids


@compiled
def candidates(chunks: np.ndarray, flags: np.ndarray, left: int, right: int) -> np.ndarray:
    """Indices i where chunk i has the flag `left` and chunk i + 1 the flag `right`."""
    places = np.empty(len(chunks), np.int64)
    count = 0
    for index in range(len(chunks) - 1):
        if flags[chunks[index]] & left and flags[chunks[index + 1]] & right:
            places[count] = index
            count += 1
    return places[:count]


@compiled
def sentences(
    chunks: np.ndarray, ends: np.ndarray, offsets: np.ndarray, words: np.ndarray, flags: np.ndarray
) -> int:
    """Number of sentences in the lines that end before the chunks `ends`, as in spaCy's sentencizer: a new
    sentence starts with the first word after an end mark that is not a mark itself."""
    total = 0
    start = 0
    for end in ends:
        ended = False
        total += 1
        for chunk in chunks[start:end]:
            for index in range(offsets[chunk], offsets[chunk + 1]):
                flag = flags[words[index]]
                if flag & ENDS:
                    ended = True
                elif ended and not flag & MARK:
                    ended = False
                    total += 1
        start = end
    return total


@compiled
def solid_and_letters(ids: np.ndarray, lengths: np.ndarray, flags: np.ndarray) -> tuple[int, int, int]:
    """Number of words that are not only punctuation, their characters, and number of words with a letter."""
    solid = characters = letters = 0
    for word in ids:
        flag = flags[word]
        if flag & SOLID:
            solid += 1
            characters += lengths[word]
        if flag & LETTERS:
            letters += 1
    return solid, characters, letters


@compiled
def distinct(ids: np.ndarray, rows: np.ndarray) -> int:
    """Number of `rows` (all distinct) that occur among the ids."""
    found = 0
    for row in rows:
        for word in ids:
            if word == row:
                found += 1
                break
    return found


@compiled
def table_size(entries: int) -> int:
    """Number of slots of a hash table that is at most half full, a power of two."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@compiled
def top_ngram_characters(ids: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Occurrences × length of the most frequent n-gram, words joined by spaces. Ties go to the first n-gram
    in the text. 0 for fewer than n words."""
    count = len(ids) - n + 1
    if count <= 0:
        return 0
    size = table_size(count)
    firsts = np.zeros(size, np.int64)  # index of an n-gram's first occurrence, plus one
    numbers = np.zeros(size, np.int64)
    slots = np.empty(count, np.int64)
    most = 0
    for place in range(count):
        value = np.uint64(0)
        for index in range(place, place + n):
            value = mix(value + np.uint64(ids[index]) + np.uint64(1))
        slot = np.int64(value & np.uint64(size - 1))
        while firsts[slot] != 0:
            first = firsts[slot] - 1
            same = True
            for index in range(n):
                if ids[first + index] != ids[place + index]:
                    same = False
                    break
            if same:
                break
            slot = (slot + 1) & (size - 1)
        if firsts[slot] == 0:
            firsts[slot] = place + 1
        numbers[slot] += 1
        slots[place] = slot
        most = max(most, numbers[slot])
    for place in range(count):
        if numbers[slots[place]] == most:
            characters = n - 1
            for index in range(place, place + n):
                characters += lengths[ids[index]]
            return characters * most
    return 0


@compiled
def duplicate_ngram_characters(
    ids: np.ndarray, lengths: np.ndarray, hashes: np.ndarray, powers: np.ndarray, n: int
) -> int:
    """Characters in repeated n-grams, words joined without spaces. Counting continues after the n words of
    each repeated n-gram."""
    count = len(ids) - n + 1
    if count <= 0:
        return 0
    size = table_size(count)
    keys = np.zeros(size, np.uint64)
    repeated = place = 0
    while place < count:
        value, characters = np.uint64(0), 0
        for index in range(place, place + n):
            word = ids[index]
            value = value * powers[word] + hashes[word]
            characters += lengths[word]
        key = mix(value + np.uint64(characters))
        if key == np.uint64(0):
            key = np.uint64(1)  # 0 marks an empty slot
        slot = np.int64(key & np.uint64(size - 1))
        while keys[slot] != np.uint64(0) and keys[slot] != key:
            slot = (slot + 1) & (size - 1)
        if keys[slot] == key:
            repeated += characters
            place += n
        else:
            keys[slot] = key
            place += 1
    return repeated
