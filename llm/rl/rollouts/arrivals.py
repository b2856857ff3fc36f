"""Which prompts are handed out to be sampled, which have arrived, and which make up the next batch.

Plain bookkeeping without Ray or clocks. Prompts are named by their position in the run's order, weights by
the number of rollout batches trained before them. The prompts of batch b may be sampled with the weights of
b - `staleness` at the oldest. So that this always holds, prompts are handed out as in AReaL (Fu et al. 2025,
section 5.1): with weights v, no more than fill the batches up to v + `staleness`. And a batch takes first
what would soon be too old, then what came first; it waits for nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Arrived(Generic[T]):
    """A prompt whose answers are there."""

    position: int
    version: int
    """Rollout batches trained before the weights that sampled it."""
    what: T


class Arrivals(Generic[T]):
    """The state between batches. `prompts`: prompts of a batch; `batches`: those of the whole run.

    It begins at batch `formed`; `waiting` are the positions that the batches before it left out
    (`RolloutBatch.waiting`).
    """

    def __init__(
        self, prompts: int, staleness: int, batches: int, formed: int = 0, waiting: list[int] | None = None
    ) -> None:
        self.prompts, self.staleness = prompts, staleness
        self.formed = formed
        self._left = deque(waiting or [])
        self._next, self._end = formed * prompts + len(self._left), batches * prompts
        self._out: dict[int, int] = {}
        self._here: list[Arrived[T]] = []

    def hand_out(self, version: int) -> list[int]:
        """The positions to be sampled with these weights now."""
        room = (version + self.staleness + 1 - self.formed) * self.prompts - len(self._out) - len(self._here)
        chosen: list[int] = []
        while len(chosen) < room and (self._left or self._next < self._end):
            if self._left:
                chosen.append(self._left.popleft())
            else:
                chosen.append(self._next)
                self._next += 1
        self._out |= dict.fromkeys(chosen, version)
        return chosen

    def arrive(self, position: int, what: T) -> None:
        """Raises KeyError for a position that was not handed out, or arrived before."""
        self._here.append(Arrived(position, self._out.pop(position), what))

    def take(self) -> list[Arrived[T]] | None:
        """The next batch, in the order of arrival; None if it has to wait for more."""
        if len(self._here) < self.prompts:
            return None
        oldest = sorted(self._here, key=lambda arrived: arrived.version)[: self.prompts]  # stable
        chosen = {arrived.position for arrived in oldest}
        rest = [*self._out.values(), *(a.version for a in self._here if a.position not in chosen)]
        for later in range(self.staleness + 1):
            too_old = sum(version + self.staleness <= self.formed + later for version in rest)
            if too_old > later * self.prompts:
                return None
        taken = [arrived for arrived in self._here if arrived.position in chosen]
        self._here = [arrived for arrived in self._here if arrived.position not in chosen]
        self.formed += 1
        return taken

    def waiting(self) -> list[int]:
        """The positions that were handed out, now or before a restart, and are in no batch yet."""
        return sorted([*self._left, *self._out, *(arrived.position for arrived in self._here)])
