"""Compiled loops for hashes of word n-grams and their MinHash, bit-compatible with datatrove."""

from __future__ import annotations

import numpy as np

from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.words.counting import BASE, mix

MERSENNE_61 = np.uint64((1 << 61) - 1)
LARGEST = np.uint64((1 << 64) - 1)

# Constants of XXH64 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md)
P1, P2, P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
P4, P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)


@compiled
def rotate(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled
def little_endian(data: np.ndarray, start: int, size: int) -> np.uint64:
    value = np.uint64(0)
    for index in range(size):
        value |= np.uint64(data[start + index]) << np.uint64(8 * index)
    return value


@compiled
def xxh64_round(lane: np.uint64, value: np.uint64) -> np.uint64:
    return rotate(lane + value * P2, 31) * P1


@compiled
def xxh64(data: np.ndarray, start: int, end: int) -> np.uint64:
    """XXH64, seed 0, of the bytes data[start:end]."""
    size, place = end - start, start
    if size >= 32:
        v1, v2, v3, v4 = P1 + P2, P2, np.uint64(0), np.uint64(0) - P1
        while place + 32 <= end:
            v1 = xxh64_round(v1, little_endian(data, place, 8))
            v2 = xxh64_round(v2, little_endian(data, place + 8, 8))
            v3 = xxh64_round(v3, little_endian(data, place + 16, 8))
            v4 = xxh64_round(v4, little_endian(data, place + 24, 8))
            place += 32
        value = rotate(v1, 1) + rotate(v2, 7) + rotate(v3, 12) + rotate(v4, 18)
        for lane in (v1, v2, v3, v4):
            value = (value ^ xxh64_round(np.uint64(0), lane)) * P1 + P4
    else:
        value = P5
    value += np.uint64(size)
    while place + 8 <= end:
        value = rotate(value ^ xxh64_round(np.uint64(0), little_endian(data, place, 8)), 27) * P1 + P4
        place += 8
    if place + 4 <= end:
        value = rotate(value ^ (little_endian(data, place, 4) * P1), 23) * P2 + P3
        place += 4
    while place < end:
        value = rotate(value ^ (np.uint64(data[place]) * P5), 11) * P1
        place += 1
    value = (value ^ (value >> np.uint64(33))) * P2
    value = (value ^ (value >> np.uint64(29))) * P3
    return value ^ (value >> np.uint64(32))


@compiled
def joined(words: np.ndarray, offsets: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the words joined by spaces, and the start of each word (plus one final entry).

    Word w's bytes are data[offsets[w] : offsets[w + 1]].
    """
    size = 0
    for word in words:
        size += offsets[word + 1] - offsets[word] + 1
    text = np.empty(size, np.uint8)
    starts = np.empty(len(words) + 1, np.int64)
    place = 0
    for number in range(len(words)):
        word = words[number]
        starts[number] = place
        for index in range(offsets[word], offsets[word + 1]):
            text[place] = data[index]
            place += 1
        text[place] = 32
        place += 1
    starts[len(words)] = place
    return text, starts


@compiled
def xxh64_of_ngrams(text: np.ndarray, starts: np.ndarray, n: int) -> np.ndarray:
    """uint64 [words - n + 1]: hash of every n consecutive words, joined by spaces."""
    count = max(0, len(starts) - n)
    hashes = np.empty(count, np.uint64)
    for place in range(count):
        hashes[place] = xxh64(text, starts[place], starts[place + n] - 1)
    return hashes


@compiled
def signature(hashes: np.ndarray, a: np.ndarray, b: np.ndarray, mask: np.uint64) -> np.ndarray:
    """uint64 [len(a)]: minimum of ((a·h + b) mod 2^64 mod (2^61 - 1)) & mask over the hashes."""
    smallest = np.empty(len(a), np.uint64)
    for index in range(len(a)):
        factor, summand, least = a[index], b[index], LARGEST
        for value in hashes:
            permuted = value * factor + summand
            permuted = (permuted & MERSENNE_61) + (permuted >> np.uint64(61))
            if permuted >= MERSENNE_61:
                permuted -= MERSENNE_61
            permuted &= mask
            if permuted < least:
                least = permuted
        smallest[index] = least
    return smallest


@compiled
def bucket_keys(values: np.ndarray, rows: int) -> np.ndarray:
    """uint64 [len(values) / rows]: one key per bucket, from its `rows` hashes and its number."""
    keys = np.empty(len(values) // rows, np.uint64)
    for bucket in range(len(keys)):
        key = np.uint64(bucket + 1)
        for value in values[bucket * rows : (bucket + 1) * rows]:
            key = mix(key * BASE + value)
        keys[bucket] = max(key, np.uint64(1))  # 0 means no signature
    return keys
