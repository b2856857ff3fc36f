"""Preemption: a host will be taken away; the group checkpoints while there is time.

The notice is Ray's drain of a node, which Ray Train passes to its workers, or SIGTERM to a worker's process
(Kubernetes, cloud agents, people). The rank that received it tells the others with the totals of its step,
so that all checkpoint the same step.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

_received: list[int] = []
"""Signals that this process received; a list, because the handler must not take a lock."""


def heed_sigterm() -> None:
    """Treat SIGTERM as a notice. Runs in a worker's main thread, where Python allows signal handlers.

    Ray calls into that thread every two seconds, which is when Python runs handlers. A second SIGTERM does
    what Ray set up for the first: it ends the process.
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if _received and callable(before):
            before(number, frame)
        _received.append(number)

    _received.clear()
    signal.signal(signal.SIGTERM, handle)


def drained() -> bool:
    """Whether Ray Train reported that a host of this group is being drained."""
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        context = get_train_context()
    except RuntimeError:  # not a Ray Train worker
        return False
    return context.preemption_context.preemption_info is not None


class Notice:
    """The notices that a group has received; one object per rank."""

    def __init__(self) -> None:
        self._answered: set[tuple[int, float]] = set()

    def told(self) -> float:
        """What this rank reports to the others: 0 for nothing, 1 for SIGTERM, 2 for a drained host."""
        return 1.0 if _received else 2.0 if drained() else 0.0

    def new(self, told: Sequence[float]) -> str:
        """New notices of all ranks at a step, in words; empty if all were handled before."""
        now = {(rank, what) for rank, what in enumerate(told) if what}
        fresh, self._answered = now - self._answered, self._answered | now
        sent = [str(rank) for rank, what in sorted(fresh) if what == 1.0]
        words = [f"rank {', '.join(sent)} received SIGTERM"] if sent else []
        if any(what == 2.0 for _, what in fresh) and not any(what == 2.0 for _, what in now - fresh):
            words.append("a host of the group is being drained")
        return ", ".join(words)
