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
    windows: Windows | None = None
    """Shuffle the rows within windows of shards. Default: all rows."""

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
            chosen[here] = self._shuffle().permutation(self.seed, epoch, within[here])
        return chosen

    def visits(self, row: int, steps: int) -> list[Visit]:
        found = []
        for epoch in range(-(-steps * self.batch // self.rows)):
            within = self._shuffle().inverse(self.seed, epoch, np.array([row]))
            position = epoch * self.rows + int(within[0])
            if position < steps * self.batch:
                found.append(Visit(position // self.batch, position % self.batch, epoch, row))
        return found

    def shards(self, step: int) -> tuple[list[int], list[int]] | None:
        if self.windows is None or self.windows.count == 1:
            return None
        return self.windows.around(self.seed, range(step * self.batch, (step + 1) * self.batch))

    def epoch(self, step: int) -> float:
        """Passes over the data made before this step."""
        return step * self.batch / self.rows

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
