"""The rows of each step's batch when corpora are mixed by weight: a pure function of (seed, step).

Positions (step × batch + index in the batch) are grouped into blocks. In each block every corpus gets a
number of positions proportional to its weight, assigned by a seeded shuffle. A corpus's n-th position reads
the n-th row of its own shuffles, epoch after epoch. Shares are therefore exact per block and random within
it, each epoch visits every row of a corpus once, and there is no state to save.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.llm.rows.order import SizedOrder, Visit
from headwater.llm.rows.permutation import derived_seed, permutation
from headwater.llm.rows.windows import Windows

BLOCK = 1 << 16
"""Positions per block: shares are exact to within 1/131,072."""


@dataclass(frozen=True)
class MixtureOrder(SizedOrder):
    """The global batches of a run over several weighted corpora."""

    corpora: tuple[range, ...]
    """Row numbers of each corpus."""
    weights: tuple[float, ...]
    """Relative share of each corpus in the batches; need not sum to 1."""
    batch: int
    seed: int
    windows: tuple[Windows, ...] = ()
    """Shuffle the rows of each corpus within windows of its shards. Default: all rows of the corpus."""
    early: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.batch < 1 or not self.corpora or not all(self.corpora) or min(self.weights) <= 0:
            raise HeadwaterError(
                f"cannot make batches of {self.batch} rows from corpora of "
                f"{[len(rows) for rows in self.corpora]} rows with weights {list(self.weights)}",
                fix="give every corpus rows and a weight above 0, and choose a batch ≥ 1",
            )

    def indices(self, step: int) -> np.ndarray:
        position = np.asarray(self.positions(step), np.int64)
        blocks, within = position // BLOCK, position % BLOCK
        quotas = quotas_of(self.weights)
        corpus, ordinal = np.empty_like(position), np.empty_like(position)
        for block in range(int(blocks[0]), int(blocks[-1]) + 1):
            here = blocks == block
            owners, ranks = _block(quotas, self.seed, block)
            corpus[here], ordinal[here] = owners[within[here]], ranks[within[here]]
        ordinal += blocks * np.array(quotas)[corpus]
        chosen = np.empty_like(position)
        for number in np.unique(corpus).tolist():
            rows = self.corpora[number]
            mine = np.flatnonzero(corpus == number)
            epochs, at = ordinal[mine] // len(rows), ordinal[mine] % len(rows)
            seed = derived_seed(self.seed, 1 + number)
            for epoch in np.unique(epochs).tolist():
                now = epochs == epoch
                chosen[mine[now]] = rows.start + self._shuffle(number).permutation(seed, epoch, at[now])
        return chosen

    def visits(self, row: int, steps: int) -> list[Visit]:
        """The first `steps` steps' visits to a row, in order; empty if no corpus has the row."""
        number = next((n for n, rows in enumerate(self.corpora) if row in rows), None)
        if number is None:
            return []
        rows, quotas, found = self.corpora[number], quotas_of(self.weights), []
        end = self.sizes.before(steps)
        for epoch in itertools.count():
            seed = derived_seed(self.seed, 1 + number)
            at = self._shuffle(number).inverse(seed, epoch, np.array([row - rows.start]))
            block, rank = divmod(epoch * len(rows) + int(at[0]), quotas[number])
            if block * BLOCK >= end:
                break
            owners, _ = _block(quotas, self.seed, block)
            position = block * BLOCK + int(np.flatnonzero(owners == number)[rank])
            if position >= end:  # later epochs come later
                break
            found.append(Visit(*self.sizes.place(position), epoch, row))
        return found

    def shards(self, step: int) -> tuple[list[int], list[int]] | None:
        if all(windows.count == 1 for windows in self.windows):
            return None
        now, ahead, own_positions = [], [], self.positions(step)
        for number in range(len(self.corpora)):
            first, end = (self._ordinal(number, at) for at in (own_positions.start, own_positions.stop))
            seed = derived_seed(self.seed, 1 + number)
            own = self.windows[number].around(seed, range(first, max(end, first + 1)))
            now += own[0]
            ahead += own[1]
        return now, ahead

    def _ordinal(self, number: int, position: int) -> int:
        """Rows of a corpus before a position."""
        quotas = quotas_of(self.weights)
        block, within = divmod(position, BLOCK)
        owners, _ = _block(quotas, self.seed, block)
        return block * quotas[number] + int(np.count_nonzero(owners[:within] == number))

    def _shuffle(self, number: int) -> Windows:
        return self.windows[number] if self.windows else Windows((len(self.corpora[number]),), 1)

    def epochs(self, read: int) -> list[float]:
        """Passes over each corpus that so many rows of batches make, from its share."""
        share = np.array(quotas_of(self.weights)) / BLOCK
        return [float(read * part / len(rows)) for part, rows in zip(share, self.corpora, strict=True)]


@functools.lru_cache(maxsize=64)
def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Positions of each corpus in a block, by the largest-remainder method; at least one."""
    exact = np.array(weights, np.float64) / sum(weights) * BLOCK
    quotas = np.maximum(1, np.floor(exact)).astype(np.int64)
    missing = BLOCK - int(quotas.sum())
    order = np.argsort(quotas - exact, kind="stable")
    if missing >= 0:
        quotas[order[:missing]] += 1
    else:  # the minimum of one exceeded the block
        quotas[np.argmax(quotas)] += missing
    return tuple(quotas.tolist())


@functools.lru_cache(maxsize=4)
def _block(quotas: tuple[int, ...], seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Per position of a block: the corpus number, and how many earlier positions belong to that corpus."""
    slots = permutation(BLOCK, derived_seed(seed, 0), block, np.arange(BLOCK))
    owners = np.searchsorted(np.cumsum(quotas), slots, side="right")
    ranks = np.empty(BLOCK, np.int64)
    for number, quota in enumerate(quotas):
        ranks[owners == number] = np.arange(quota)
    return owners, ranks
