"""Which rows make up the batch of a step: a pure function of (seed, step), with no state to save.

Rows are shuffled by permutations that can be evaluated at any index (`rows/permutation.py`), over all shards
or window by window (`rows/windows.py`). A run therefore resumes at any step, on any number of workers, with
the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.llm.rows.sizes import Sizes
from headwater.llm.rows.windows import Windows


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

    def shards(self, step: int) -> tuple[list[int], list[int]] | None:
        """The shards that a step may read, and those that come next; None if it may read any."""
        return None

    def places(self, rank: int, world_size: int) -> range:
        """The places of a batch that are one worker's. In rank order they are the whole batch.

        Their numbers differ by at most one row: every row counts once on any number of workers.
        """
        return _even_share(self.batch, rank, world_size)

    def share(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """One worker's part of a step's rows, int64, divided as `places`."""
        rows = self.indices(step)
        own = _even_share(len(rows), rank, world_size)
        return rows[own.start : own.stop]


def _even_share(rows: int, rank: int, world_size: int) -> range:
    return range(rows * rank // world_size, rows * (rank + 1) // world_size)


class SizedOrder(BatchOrder):
    """An order of positions that steps divide among themselves; `early` steps may have other sizes."""

    early: tuple[tuple[int, int], ...]
    """As in `Sizes`."""

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.batch, self.early)

    def positions(self, step: int) -> range:
        """The positions of a step's rows."""
        return range(self.sizes.before(step), self.sizes.before(step + 1))


@dataclass(frozen=True)
class ShuffledOrder(SizedOrder):
    """Batches of `rows` shuffled rows. Each epoch visits every row once; epochs follow without a gap."""

    rows: int
    batch: int
    seed: int
    windows: Windows | None = None
    """Shuffle the rows within windows of shards. Default: all rows."""
    early: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 1 or self.batch < 1:
            raise HeadwaterError(
                f"cannot make batches of {self.batch} rows from {self.rows} rows",
                fix="give the stage more data, or a batch ≥ 1",
            )

    def indices(self, step: int) -> np.ndarray:
        position = np.asarray(self.positions(step), np.int64)
        epochs, within = position // self.rows, position % self.rows
        chosen = np.empty_like(position)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            chosen[here] = self._shuffle().permutation(self.seed, epoch, within[here])
        return chosen

    def visits(self, row: int, steps: int) -> list[Visit]:
        found, end = [], self.sizes.before(steps)
        for epoch in range(-(-end // self.rows)):
            within = self._shuffle().inverse(self.seed, epoch, np.array([row]))
            position = epoch * self.rows + int(within[0])
            if position < end:
                found.append(Visit(*self.sizes.place(position), epoch, row))
        return found

    def shards(self, step: int) -> tuple[list[int], list[int]] | None:
        if self.windows is None or self.windows.count == 1:
            return None
        return self.windows.around(self.seed, self.positions(step))

    def _shuffle(self) -> Windows:
        return self.windows or Windows((self.rows,), 1)


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
