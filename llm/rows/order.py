"""Which rows make up the batch of a step: a pure function of (seed, step), with no state to save.

Rows are shuffled by a pseudo-random permutation that can be evaluated at any index (Black and
Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: a Feistel network with cycle
walking). A run therefore resumes at any step, on any number of workers, with the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from headwater.cluster.errors import HeadwaterError

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


@dataclass(frozen=True, order=True)
class Visit:
    """One occurrence of a row in the batch of a step."""

    step: int
    place: int
    """Index in the batch, from 0."""
    epoch: int
    """Passes completed before: over all rows, or over the row's corpus in a mixture."""
    row: int


class BatchOrder(Protocol):
    """Which rows make up the batch of each step."""

    batch: int
    """Rows in a global batch, over all workers and micro-batches."""

    def indices(self, step: int) -> np.ndarray:
        """The rows of a step's global batch, int64 [batch]."""
        ...

    def visits(self, row: int, steps: int) -> list[Visit]:
        """The first `steps` steps' visits to a row, in order: the inverse of `indices`, without a search."""
        ...

    def places(self, rank: int, world_size: int) -> range:
        """The places of a batch that are one worker's. In rank order they are the whole batch.

        Their numbers differ by at most one row: every row counts once on any number of workers.
        """
        return range(self.batch * rank // world_size, self.batch * (rank + 1) // world_size)

    def share(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """The rows at one worker's `places` of the batch, int64."""
        own = self.places(rank, world_size)
        return self.indices(step)[own.start : own.stop]


@dataclass(frozen=True)
class ShuffledOrder(BatchOrder):
    """Batches of `rows` shuffled rows. Each epoch visits every row once; epochs follow without a gap."""

    rows: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.batch < 1:
            raise HeadwaterError(
                f"cannot make batches of {self.batch} rows from {self.rows} rows",
                fix="give the stage more data, or a batch ≥ 1",
            )

    def indices(self, step: int) -> np.ndarray:
        position = step * self.batch + np.arange(self.batch, dtype=np.int64)
        epochs, within = position // self.rows, position % self.rows
        chosen = np.empty_like(position)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            chosen[here] = permutation(self.rows, self.seed, epoch, within[here])
        return chosen

    def visits(self, row: int, steps: int) -> list[Visit]:
        found = []
        for epoch in range(-(-steps * self.batch // self.rows)):
            within = inverse_permutation(self.rows, self.seed, epoch, np.array([row]))
            position = epoch * self.rows + int(within[0])
            if position < steps * self.batch:
                found.append(Visit(position // self.batch, position % self.batch, epoch, row))
        return found

    def epoch(self, step: int) -> float:
        """Passes over the data made before this step."""
        return step * self.batch / self.rows


@dataclass(frozen=True)
class RepeatedOrder(BatchOrder):
    """Another order, `together` batches at a time, each time `epochs` times: 0 1 0 1 2 3 2 3 …"""

    order: BatchOrder
    together: int
    epochs: int
    batch: int

    def indices(self, step: int) -> np.ndarray:
        turn, within = divmod(step, self.together * self.epochs)
        return self.order.indices(turn * self.together + within % self.together)

    def visits(self, row: int, steps: int) -> list[Visit]:
        found = []
        turns = -(-steps // (self.together * self.epochs))
        for visit in self.order.visits(row, turns * self.together):
            turn, place = divmod(visit.step, self.together)
            first = turn * self.together * self.epochs + place
            again = range(first, min(steps, first + self.together * self.epochs), self.together)
            found += [replace(visit, step=step) for step in again]
        return sorted(found)
