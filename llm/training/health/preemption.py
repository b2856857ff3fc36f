"""A notice that a worker's host will be taken away: the group keeps its state while there is time.

It comes as Ray's drain of a node, which Ray Train passes on to its workers, or as SIGTERM to a worker's
process (Kubernetes, cloud agents, people). The rank that has it tells the others with the totals of its
step, so that all of them write a checkpoint of the same step.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

_received: list[int] = []
"""Signals that this process was sent: the handler must not touch a lock."""


def heed_sigterm() -> None:
    """Have SIGTERM taken as a notice. Runs in the main thread of a worker, where Python lets it.

    Ray calls into that thread every two seconds, which is when Python gets to its handlers. A second signal
    does what Ray had set up for the first one: it ends the process.
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if _received and callable(before):
            before(number, frame)
        _received.append(number)

    _received.clear()
    signal.signal(signal.SIGTERM, handle)


def drained() -> bool:
    """Whether Ray Train has told this worker that a host of its group is drained."""
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        context = get_train_context()
    except RuntimeError:  # no worker of Ray Train
        return False
    return context.preemption_context.preemption_info is not None


class Notice:
    """What a group has heard of its end; one on every rank."""

    def __init__(self) -> None:
        self._answered: set[tuple[int, float]] = set()

    def told(self) -> float:
        """What this rank tells the others: 0 for nothing, 1 for SIGTERM, 2 for the drain of a host."""
        return 1.0 if _received else 2.0 if drained() else 0.0

    def new(self, told: Sequence[float]) -> str:
        """What all ranks told at a step, in words; empty when there is nothing that was not answered."""
        now = {(rank, what) for rank, what in enumerate(told) if what}
        fresh, self._answered = now - self._answered, self._answered | now
        sent = [str(rank) for rank, what in sorted(fresh) if what == 1.0]
        words = [f"rank {', '.join(sent)} was sent SIGTERM"] if sent else []
        if any(what == 2.0 for _, what in fresh) and not any(what == 2.0 for _, what in now - fresh):
            words.append("a host of the group is drained")
        return ", ".join(words)
