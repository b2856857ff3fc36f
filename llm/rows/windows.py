"""A shuffle that reads few shards at a time: shards are shuffled, then the rows of each window of shards.

A full shuffle reads every shard all the time, which needs all of them on the disk and mapped. Here an epoch
permutes the shards, cuts them into windows, and permutes the rows within each window: a shard is read in one
window per epoch. Both permutations can be evaluated at any index, so this is still a pure function of (seed,
epoch, index) with an inverse. MosaicML Streaming's `py1br` shuffles blocks of shuffled shards in this way;
a single window is the full shuffle.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from headwater.llm.rows.permutation import derived_seed, inverse_permutation, permutation


@dataclass(frozen=True)
class Windows:
    """Permutations of the rows of some shards, which are numbered shard after shard from 0."""

    sizes: tuple[int, ...]
    """Rows of each shard."""
    width: int
    """Most shards in a window."""
    first: int = 0
    """Number of the first of these shards among all."""

    @functools.cached_property
    def rows(self) -> int:
        return sum(self.sizes)

    @property
    def count(self) -> int:
        """Windows per epoch, whose numbers of shards differ by at most one."""
        return max(1, -(-len(self.sizes) // self.width))

    def permutation(self, seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
        """The row at each index of an epoch: int64, a bijection on `range(rows)`."""
        if self.count == 1:
            return permutation(self.rows, seed, epoch, index)
        layout = _layout(self, seed, epoch)
        index = np.asarray(index, np.int64)
        windows = np.searchsorted(layout.window_ends, index, side="right")
        at = np.empty_like(index)  # in the shuffled shards laid end to end
        for window in np.unique(windows).tolist():
            here, start, size = windows == window, *layout.span(window)
            at[here] = start + permutation(size, derived_seed(seed, 1 + window), epoch, index[here] - start)
        slots = np.searchsorted(layout.slot_ends, at, side="right")
        shards = layout.shards[slots]
        return layout.first_rows[shards] + at - layout.slot_starts[slots]

    def inverse(self, seed: int, epoch: int, row: np.ndarray) -> np.ndarray:
        """The index in an epoch that `permutation` maps to each row."""
        if self.count == 1:
            return inverse_permutation(self.rows, seed, epoch, row)
        layout = _layout(self, seed, epoch)
        row = np.asarray(row, np.int64)
        shards = np.searchsorted(layout.first_rows, row, side="right") - 1
        slots = inverse_permutation(len(self.sizes), derived_seed(seed, 0), epoch, shards)
        at = layout.slot_starts[slots] + row - layout.first_rows[shards]
        windows = np.searchsorted(layout.window_ends, at, side="right")
        index = np.empty_like(at)
        for window in np.unique(windows).tolist():
            here, start, size = windows == window, *layout.span(window)
            seeds = derived_seed(seed, 1 + window)
            index[here] = start + inverse_permutation(size, seeds, epoch, at[here] - start)
        return index

    def around(self, seed: int, positions: range) -> tuple[list[int], list[int]]:
        """The shards that these positions of the stream of epochs may read, and those of the window after."""
        first, last = (self._window(seed, position) for position in (positions[0], positions[-1]))
        now = {shard for window in range(first, last + 1) for shard in self._shards(seed, window)}
        ahead = [shard for shard in self._shards(seed, last + 1) if shard not in now]
        return sorted(now), ahead

    def _window(self, seed: int, position: int) -> int:
        """Number of the window at a position, counted over all epochs."""
        epoch, index = divmod(position, self.rows)
        ends = _layout(self, seed, epoch).window_ends
        return epoch * self.count + int(np.searchsorted(ends, index, side="right"))

    def _shards(self, seed: int, window: int) -> list[int]:
        epoch, number = divmod(window, self.count)
        low, high = _bounds(self)[number : number + 2].tolist()
        found: list[int] = (self.first + _layout(self, seed, epoch).shards[low:high]).tolist()
        return found


@dataclass(frozen=True)
class _Layout:
    """The shuffled shards of an epoch, laid end to end: slot after slot."""

    shards: np.ndarray
    """The shard in each slot."""
    first_rows: np.ndarray
    """First row of each shard, in the order of shards."""
    slot_starts: np.ndarray
    slot_ends: np.ndarray
    window_ends: np.ndarray

    def span(self, window: int) -> tuple[int, int]:
        """Start and size of a window, in rows."""
        start = int(self.window_ends[window - 1]) if window else 0
        return start, int(self.window_ends[window]) - start


@functools.lru_cache(maxsize=32)
def _layout(windows: Windows, seed: int, epoch: int) -> _Layout:
    sizes = np.array(windows.sizes, np.int64)
    shards = permutation(len(sizes), derived_seed(seed, 0), epoch, np.arange(len(sizes)))
    ends = np.cumsum(sizes[shards])
    last = _bounds(windows)[1:] - 1
    return _Layout(shards, np.cumsum(sizes) - sizes, ends - sizes[shards], ends, ends[last])


def _bounds(windows: Windows) -> np.ndarray:
    """The slots where windows begin, and the number of slots."""
    return np.arange(windows.count + 1) * len(windows.sizes) // windows.count
