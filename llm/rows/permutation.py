"""Pseudo-random permutations that can be evaluated, and inverted, at any index without state.

A Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
2002).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 8
_MASK = (1 << 64) - 1


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on uint64, with wraparound."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    start = _mix(np.array([seed & _MASK], np.uint64)) + np.uint64(epoch & _MASK)
    return _mix(_mix(start) + np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def permutation(n: int, seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """Where a shuffle of `range(n)` moves each index: int64, a bijection for every (seed, epoch)."""
    return _walk(n, seed, epoch, index, inverse=False)


def inverse_permutation(n: int, seed: int, epoch: int, value: np.ndarray) -> np.ndarray:
    """The index that `permutation` maps to each value: the same network with its rounds in reverse.

    Cycle walking inverts itself: the inverse walk passes the same values ≥ n.
    """
    return _walk(n, seed, epoch, value, inverse=True)


def _walk(n: int, seed: int, epoch: int, start: np.ndarray, *, inverse: bool) -> np.ndarray:
    start = np.asarray(start)
    if start.size and (start.min() < 0 or start.max() >= n):
        raise IndexError(f"index outside range({n})")
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    keys = _round_keys(seed, epoch)
    value = start.astype(np.uint64)
    walking = np.ones(value.shape, bool)
    while walking.any():  # the network permutes 4**half_bits < 4n values: walk on until back below n
        left, right = value[walking] >> shift, value[walking] & mask
        if inverse:
            for key in keys[::-1]:
                left, right = right ^ (_mix(left + key) & mask), left
        else:
            for key in keys:
                left, right = right, left ^ (_mix(right + key) & mask)
        value[walking] = (left << shift) | right
        walking = value >= n
    return value.astype(np.int64)


def derived_seed(seed: int, number: int) -> int:
    """An independent seed derived from `seed`, one per `number`."""
    return int(_mix(_mix(np.array([seed & _MASK], np.uint64)) + np.uint64(number))[0])
