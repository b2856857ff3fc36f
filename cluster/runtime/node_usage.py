"""What a run used of the cluster: the seconds that each node was there, added up.

On an autoscaling cluster nodes come and go, and it is their time that is paid for. A thread looks
at the cluster once in a while; the sum is exact to about one interval for each node that comes or goes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headwater.cluster.runtime.session import Session

log = logging.getLogger("headwater")

INTERVAL_SECONDS = 1.0
RECORD_SECONDS = 5.0


@dataclass
class NodeUsage:
    """Seconds that nodes were alive. `see` is told at moments which nodes are."""

    node_seconds: float = 0.0
    most_nodes: int = 0
    seconds: float = 0.0
    """Between the first look and the last."""
    _alive: frozenset[str] = field(default=frozenset(), repr=False)
    _last: float | None = field(default=None, repr=False)

    def see(self, alive: frozenset[str], now: float) -> None:
        """By the trapezoid rule: a node seen at one end of an interval was there for half of it."""
        if self._last is not None:
            interval = now - self._last
            self.seconds += interval
            self.node_seconds += interval * (len(alive) + len(self._alive)) / 2
        self.most_nodes = max(self.most_nodes, len(alive))
        self._alive, self._last = alive, now

    def row(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds, 1),
            "node_seconds": round(self.node_seconds, 1),
            "most_nodes": self.most_nodes,
        }


@contextlib.contextmanager
def count_nodes(session: Session, record: Callable[[NodeUsage], None]) -> Iterator[NodeUsage]:
    """Count from here to the end of the block.

    `record` is called every few seconds and at the end, so that a run that is killed leaves its count.
    """
    if not session.here:
        session.ray()
    usage, stop = NodeUsage(), threading.Event()
    _look(usage, session)

    def watch() -> None:
        recorded = time.monotonic()
        while not stop.wait(INTERVAL_SECONDS):
            _look(usage, session)
            if time.monotonic() - recorded > RECORD_SECONDS:
                recorded = time.monotonic()
                record(usage)

    thread = threading.Thread(target=watch, name="node-usage", daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        stop.set()
        thread.join()
        _look(usage, session)
        record(usage)


def _look(usage: NodeUsage, session: Session) -> None:
    """A look that fails, as when the cluster's head does not answer, is made up for by the next."""
    if session.here:
        usage.see(frozenset({"here"}), time.monotonic())
        return
    import ray

    try:
        alive = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
    except (ray.exceptions.RayError, RuntimeError, ConnectionError) as error:
        log.warning("the cluster's nodes could not be counted: %s", error)
    else:
        usage.see(alive, time.monotonic())
